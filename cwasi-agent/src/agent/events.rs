//! The last events of connections.

use std::collections::VecDeque;

use cwasi_client::protocol::{Events, FlowEvent};

/// Events taken from the kernel at a time: more than its ring holds.
pub(super) const BATCH: usize = 4096;
/// Events remembered.
const REMEMBERED: usize = 4096;

/// The last events, numbered from 1.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    events: VecDeque<FlowEvent>,
    last: u64,
}

impl EventLog {
    /// Remembers an event, and forgets the oldest when there are too many.
    pub(super) fn push(&mut self, event: FlowEvent) {
        if self.events.len() == REMEMBERED {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.last += 1;
    }

    /// The events after the one numbered `after`; a number of an agent before counts as 0.
    pub(super) fn after(&self, after: u64) -> Events {
        let forgotten = self.last - self.events.len() as u64;
        let after = if after > self.last { 0 } else { after };
        let skip = usize::try_from(after.saturating_sub(forgotten)).unwrap_or(usize::MAX);
        Events {
            next: self.last,
            skipped: forgotten.saturating_sub(after),
            events: self.events.iter().skip(skip).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(cookie: u64) -> FlowEvent {
        FlowEvent {
            kind: "closed".to_owned(),
            reason: None,
            cookie,
            src: "default/a".to_owned(),
            dst: None,
            local: "127.0.0.1:1".parse().unwrap(),
            remote: "127.0.0.1:2".parse().unwrap(),
            sent: cwasi_client::protocol::Traffic::default(),
        }
    }

    #[test]
    fn every_event_comes_once_or_is_counted_as_skipped() {
        let mut log = EventLog::default();
        let (mut next, mut seen, mut skipped) = (0, 0, 0);
        for cookie in 1..=20_000_u64 {
            log.push(event(cookie));
            if [100, 3_000, 9_000, 9_001, 15_000].contains(&cookie) {
                let events = log.after(next);
                assert!(
                    events
                        .events
                        .iter()
                        .map(|event| event.cookie)
                        .eq(next + events.skipped + 1..=cookie)
                );
                seen += events.events.len() as u64;
                skipped += events.skipped;
                next = events.next;
            }
        }
        let rest = log.after(next);
        assert_eq!(seen + skipped + rest.events.len() as u64 + rest.skipped, 20_000);
        assert!(skipped > 0);
        assert_eq!(log.after(log.last).events, []);
        assert_eq!(
            log.after(u64::MAX).events.len(),
            REMEMBERED,
            "a number of another agent"
        );
    }
}
