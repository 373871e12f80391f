//! Counters that never go backwards.
//!
//! The kernel keeps a counter in the entry of its open connection, and adds it to the sums when the connection closes. The
//! sums are read first: a connection that closes before its entry is read is then missed once, never counted twice.

use cwasi_client::protocol::Traffic;
use cwasi_ebpf_common::maps::{Counters, Flow, TrafficEntry, TrafficKey};
use cwasi_ebpf_common::reason::REASONS;

/// Sums over connections, open and closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages, bytes, transitions and enrolled ends.
    pub traffic: Traffic,
    /// Ends of connections that were not enrolled, by [`Reason`](cwasi_ebpf_common::reason::Reason).
    pub at_enrolment: [u64; REASONS],
    /// Enrolled ends that changed to TCP, or found at a send that they must stay there, by
    /// [`Reason`](cwasi_ebpf_common::reason::Reason).
    pub at_send: [u64; REASONS],
}

impl Totals {
    /// Adds what was closed, or not enrolled, between a pair of functions.
    pub fn add_closed(&mut self, key: &TrafficKey, entry: &TrafficEntry) {
        self.add(&entry.sent);
        self.traffic.connections += entry.connections;
        // An end that does not know its peer was never redirected, and has nothing to change from.
        let fallbacks = match key.dst {
            0 => &mut self.at_enrolment,
            _ => &mut self.at_send,
        };
        for (sum, count) in fallbacks.iter_mut().zip(entry.fallbacks) {
            *sum += count;
        }
    }

    /// Adds an open connection.
    pub fn add_open(&mut self, flow: &Flow) {
        self.add(&flow.sent);
        self.traffic.connections += 1;
        for (sum, count) in self.at_send.iter_mut().zip(flow.fallbacks) {
            *sum += u64::from(count);
        }
    }

    /// Both together, by [`Reason`](cwasi_ebpf_common::reason::Reason).
    #[must_use]
    pub fn fallbacks(&self) -> [u64; REASONS] {
        std::array::from_fn(|reason| self.at_enrolment[reason] + self.at_send[reason])
    }

    fn add(&mut self, sent: &Counters) {
        let traffic = &mut self.traffic;
        traffic.redirect_messages += sent.redirect_messages;
        traffic.redirect_bytes += sent.redirect_bytes;
        traffic.tcp_messages += sent.tcp_messages;
        traffic.tcp_bytes += sent.tcp_bytes;
        traffic.to_redirect += sent.to_redirect;
        traffic.to_tcp += sent.to_tcp;
    }

    /// Takes up what `now` has more of, counter by counter, and returns the result.
    pub fn rise_to(&mut self, now: &Self) -> Self {
        let rise = |seen: &mut u64, now: u64| *seen = now.max(*seen);
        let (seen, new) = (&mut self.traffic, &now.traffic);
        rise(&mut seen.redirect_messages, new.redirect_messages);
        rise(&mut seen.redirect_bytes, new.redirect_bytes);
        rise(&mut seen.tcp_messages, new.tcp_messages);
        rise(&mut seen.tcp_bytes, new.tcp_bytes);
        rise(&mut seen.to_redirect, new.to_redirect);
        rise(&mut seen.to_tcp, new.to_tcp);
        rise(&mut seen.connections, new.connections);
        rise(&mut seen.process_messages, new.process_messages);
        rise(&mut seen.process_bytes, new.process_bytes);
        rise(&mut seen.process_connections, new.process_connections);
        for (seen, now) in self.at_enrolment.iter_mut().zip(now.at_enrolment) {
            rise(seen, now);
        }
        for (seen, now) in self.at_send.iter_mut().zip(now.at_send) {
            rise(seen, now);
        }
        *self
    }
}

/// What was sent on one connection.
#[must_use]
pub(super) fn sent(counters: &Counters) -> Traffic {
    let mut totals = Totals::default();
    totals.add(counters);
    Traffic {
        connections: 1,
        ..totals.traffic
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn totals(counters: [u64; 3]) -> Totals {
        let [redirect_bytes, connections, fallback] = counters;
        let traffic = Traffic {
            redirect_bytes,
            connections,
            ..Traffic::default()
        };
        Totals {
            traffic,
            at_enrolment: [fallback; REASONS],
            at_send: [fallback / 2; REASONS],
        }
    }

    #[test]
    fn a_connection_counts_the_same_open_and_closed() {
        let counters = Counters {
            redirect_messages: 1,
            redirect_bytes: 2,
            tcp_messages: 3,
            tcp_bytes: 4,
            to_redirect: 5,
            to_tcp: 6,
        };
        let flow = Flow {
            sent: counters,
            fallbacks: [7; REASONS],
            ..Flow::default()
        };
        let entry = TrafficEntry {
            sent: counters,
            connections: 1,
            fallbacks: [7; REASONS],
        };
        let (mut open, mut closed) = (Totals::default(), Totals::default());
        open.add_open(&flow);
        closed.add_closed(&TrafficKey { src: 1, dst: 2 }, &entry);
        assert_eq!(open, closed);
        assert_eq!((open.at_enrolment, open.at_send), ([0; REASONS], [7; REASONS]));
        assert_eq!(sent(&counters), open.traffic);
        assert_eq!(open.traffic.tcp_bytes, 4);
        assert_eq!(open.traffic.to_tcp, 6);
        closed.add_closed(&TrafficKey { src: 1, dst: 0 }, &entry);
        assert_eq!(
            (closed.at_enrolment, closed.at_send),
            ([7; REASONS], [7; REASONS])
        );
        assert_eq!(closed.fallbacks(), [14; REASONS]);
    }

    proptest! {
        #[test]
        fn reported_counters_never_fall(readings in prop::collection::vec(any::<[u64; 3]>(), 1..20)) {
            let mut reported = Totals::default();
            let mut before = Totals::default();
            for reading in readings {
                let now = totals(reading);
                let shown = reported.rise_to(&now);
                prop_assert!(shown.traffic.redirect_bytes >= before.traffic.redirect_bytes.max(reading[0]));
                prop_assert!(shown.traffic.connections >= before.traffic.connections.max(reading[1]));
                prop_assert!(shown.at_enrolment[3] >= before.at_enrolment[3].max(reading[2]));
                prop_assert!(shown.at_send[3] >= before.at_send[3].max(reading[2] / 2));
                before = shown;
            }
        }
    }
}
