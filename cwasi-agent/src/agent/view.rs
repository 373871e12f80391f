//! What the agent tells: status, functions, flows, events, and the snapshot that metrics are made of.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Instant;

use cwasi_client::process_report::{ProcessTotals, monotonic_ns};
use cwasi_client::protocol::{
    Degradation, Events, Flow, FlowEvent, Function, MapUsage, PathCounts, Status, Traffic, Version,
};
use cwasi_ebpf_common::maps::{self, Addr, EventKind, LAYOUT, TrafficEntry, TrafficKey};
use cwasi_ebpf_common::reason::Reason;
use cwasi_ebpf_common::redirect::State;

use super::totals::sent;
use super::{Agent, Entry, Totals};
use crate::kernel::{PlaneError, object};
use crate::plane::Plane;

/// The path of what the kernel program redirects, as flows, explanations and metrics name it.
pub const KERNEL: &str = "kernel";
/// The path of what goes by TCP.
pub const NETWORK: &str = "network";
/// The path of what stays inside of a process.
pub const PROCESS: &str = "process";

/// What was read from the plane at once.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) totals: Totals,
    pub(super) flows: Vec<maps::Flow>,
    pub(super) maps: Vec<MapUsage>,
    lost_events: u64,
    /// Sums of closed connections.
    pub(super) closed: Vec<(TrafficKey, TrafficEntry)>,
}

/// Everything that metrics show.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Sums over all connections.
    pub totals: Totals,
    /// Open connections by path.
    pub flows: PathCounts,
    /// Number of registered functions.
    pub functions: usize,
    /// Fill of the kernel's maps.
    pub maps: Vec<MapUsage>,
    /// Events that found the kernel's ring full.
    pub lost_events: u64,
    /// What was tried of the kernel, and whether it works.
    pub probes: Vec<(&'static str, bool)>,
    /// Whether connections are redirected.
    pub accelerating: bool,
    /// The operator's switch.
    pub enabled: bool,
    /// What is wrong.
    pub degraded: Vec<Degradation>,
    /// Build.
    pub version: Version,
}

/// The build of this agent.
#[must_use]
pub fn version() -> Version {
    static OBJECT: LazyLock<String> = LazyLock::new(object::sha256);
    Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        layout: LAYOUT,
        object_sha256: OBJECT.clone(),
    }
}

impl Agent {
    /// Reads sums and flows. Where that fails, counters stay as they were last seen.
    pub(super) fn read(&mut self) -> Reading {
        self.read_by(read)
    }

    /// Reads the fill of the maps too, which costs more than all the rest.
    pub(super) fn read_with_usage(&mut self) -> Reading {
        self.read_by(|plane| {
            let reading = read(plane)?;
            Ok(Reading {
                maps: plane.usage()?,
                lost_events: plane.lost_events()?,
                ..reading
            })
        })
    }

    fn read_by(&mut self, read: impl FnOnce(&dyn Plane) -> Result<Reading, PlaneError>) -> Reading {
        let mut reading = match self.plane.as_deref().map(read) {
            None => Reading::default(),
            Some(Ok(reading)) => {
                self.unread = None;
                reading
            }
            Some(Err(error)) => {
                if self.unread.is_none() {
                    tracing::warn!("maps: {error}");
                }
                self.unread = Some(error.to_string());
                Reading::default()
            }
        };
        set_process(&mut reading.totals.traffic, self.processes.total());
        reading.totals = self.reported.rise_to(&reading.totals);
        self.lost_events = reading.lost_events.max(self.lost_events);
        reading.lost_events = self.lost_events;
        reading
    }

    /// The operator's switch.
    pub(super) fn enabled(&self) -> bool {
        let configured = || Some(self.plane.as_ref()?.config().ok()?.enabled != 0);
        self.switch.or_else(configured).unwrap_or(true)
    }

    pub(super) fn accelerating(&self) -> bool {
        self.plane.is_some() && !self.held_off && self.enabled()
    }

    /// Whether new connections of a function may be redirected, and why not.
    pub(super) fn acceleration(&self, entry: &Entry) -> (bool, Option<String>) {
        let reason = if self.plane.is_none() || self.held_off {
            let details: Vec<_> = self
                .kernel_degraded
                .iter()
                .map(|cause| cause.detail.as_str())
                .collect();
            Some(format!("the data plane is not available: {}", details.join("; ")))
        } else if let Some(error) = &entry.attach_error {
            Some(error.clone())
        } else if self.enabled() {
            None
        } else {
            Some("acceleration is switched off; `cwasi-agent enable` switches it on".to_owned())
        };
        (reason.is_none(), reason)
    }

    /// Health and totals.
    pub fn status(&mut self) -> Status {
        let reading = self.read_with_usage();
        self.recent.note(&reading.totals, Instant::now());
        let fallbacks = Reason::ALL.into_iter().zip(reading.totals.fallbacks());
        Status {
            version: version(),
            accelerating: self.accelerating(),
            enabled: self.enabled(),
            degraded: self.degradations(&reading.maps),
            queue_measure: self
                .plane
                .as_ref()
                .map(|plane| plane.measure().label().to_owned()),
            budget_bytes: self.settings.budget,
            functions: self.functions.len(),
            flows: self.count_paths(&reading.flows),
            traffic: reading.totals.traffic,
            fallbacks: fallbacks
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (reason.label().to_owned(), count))
                .collect(),
            bpffs: self.settings.bpffs.clone(),
            metrics_addr: self.settings.metrics_addr,
            maps: reading.maps,
        }
    }

    /// What metrics show.
    pub fn snapshot(&mut self) -> Snapshot {
        let reading = self.read_with_usage();
        self.recent.note(&reading.totals, Instant::now());
        Snapshot {
            totals: reading.totals,
            flows: self.count_paths(&reading.flows),
            functions: self.functions.len(),
            degraded: self.degradations(&reading.maps),
            maps: reading.maps,
            lost_events: reading.lost_events,
            probes: self.probes.clone(),
            accelerating: self.accelerating(),
            enabled: self.enabled(),
            version: version(),
        }
    }

    /// Every registered function, by id.
    pub fn functions(&mut self) -> Vec<Function> {
        let reading = self.read();
        self.list(&reading)
    }

    /// Every registered function with what it has sent by now, by id.
    pub(super) fn list(&mut self, reading: &Reading) -> Vec<Function> {
        let mut totals: HashMap<u32, Totals> = HashMap::new();
        for (key, entry) in &reading.closed {
            totals.entry(key.src).or_default().add_closed(key, entry);
        }
        for flow in &reading.flows {
            totals.entry(flow.function).or_default().add_open(flow);
        }
        for entry in self.functions.values_mut() {
            let now = totals.get(&entry.saved.id).copied().unwrap_or_default();
            entry.reported.rise_to(&now);
        }
        let function = |entry: &Entry| {
            let mut sent = entry.reported.traffic;
            set_process(&mut sent, self.processes.total_of(entry.saved.cgroup_id));
            let (accelerated, reason) = self.acceleration(entry);
            Function {
                id: entry.saved.id,
                spec: entry.saved.spec.clone(),
                cgroup_id: entry.saved.cgroup_id,
                registered_by: entry.saved.registered_by,
                accelerated,
                reason,
                sent,
            }
        };
        self.functions.values().map(function).collect()
    }

    /// Every enrolled end of an open connection, and both ends of those inside of processes.
    pub fn flows(&mut self) -> Vec<Flow> {
        let reading = self.read();
        let now = monotonic_ns();
        let mut flows: Vec<_> = reading.flows.iter().map(|flow| self.flow(flow, now)).collect();
        let inside = self.functions.values();
        flows.extend(inside.flat_map(|entry| self.processes.flows(entry, now)));
        flows.sort_by(|a, b| (&a.src, a.cookie).cmp(&(&b.src, b.cookie)));
        flows
    }

    pub(super) fn count_paths(&self, flows: &[maps::Flow]) -> PathCounts {
        PathCounts {
            process: self.processes.open(),
            ..count_paths(flows)
        }
    }

    /// What happened to connections after the event numbered `after`.
    #[must_use]
    pub fn events(&self, after: u64) -> Events {
        self.events.after(after)
    }

    fn flow(&self, flow: &maps::Flow, now: u64) -> Flow {
        let redirected = State::from_value(flow.state) == State::Redirect;
        let reason = match flow.sent.tcp_messages {
            _ if redirected => None,
            0 => Some("nothing_sent".to_owned()),
            _ => Reason::from_index(flow.reason).map(|reason| reason.label().to_owned()),
        };
        Flow {
            cookie: flow.cookie,
            src: self.title(flow.function),
            dst: (flow.peer_function != 0).then(|| self.title(flow.peer_function)),
            local: address(flow.local_addr, flow.local_port),
            remote: address(flow.remote_addr, flow.remote_port),
            path: if redirected { KERNEL } else { NETWORK }.to_owned(),
            reason,
            sent: sent(&flow.sent),
            age_seconds: age_seconds(flow.established_ns, now),
        }
    }

    pub(super) fn event(&self, event: &maps::Event) -> FlowEvent {
        let kind = EventKind::from_value(event.kind);
        let label = match kind {
            Some(EventKind::Enrolled) => "enrolled",
            Some(EventKind::Closed) => "closed",
            Some(EventKind::LeftToTcp) => "left_to_tcp",
            None => "unknown",
        };
        let reason = Reason::from_index(event.reason).filter(|_| kind == Some(EventKind::LeftToTcp));
        FlowEvent {
            kind: label.to_owned(),
            reason: reason.map(|reason| reason.label().to_owned()),
            cookie: event.cookie,
            src: self.title(event.function),
            dst: (event.peer_function != 0).then(|| self.title(event.peer_function)),
            local: address(event.local_addr, event.local_port),
            remote: address(event.remote_addr, event.remote_port),
            sent: if kind == Some(EventKind::Closed) {
                sent(&event.sent)
            } else {
                Traffic::default()
            },
        }
    }

    /// `namespace/name`, or the id of a function that is registered no more.
    fn title(&self, id: u32) -> String {
        self.functions
            .get(&id)
            .map_or_else(|| format!("#{id}"), Entry::title)
    }
}

/// How long ago something was, on the clock of [`monotonic_ns`].
pub(super) const fn age_seconds(then: u64, now: u64) -> u64 {
    now.saturating_sub(then) / 1_000_000_000
}

fn set_process(traffic: &mut Traffic, totals: ProcessTotals) {
    traffic.process_messages = totals.messages;
    traffic.process_bytes = totals.bytes;
    traffic.process_connections = totals.connections;
}

/// Sums first, open connections after: see [`super::totals`].
fn read(plane: &dyn Plane) -> Result<Reading, PlaneError> {
    let mut reading = Reading {
        closed: plane.traffic()?,
        ..Reading::default()
    };
    for (key, entry) in &reading.closed {
        reading.totals.add_closed(key, entry);
    }
    reading.flows = plane.flows()?;
    for flow in &reading.flows {
        reading.totals.add_open(flow);
    }
    Ok(reading)
}

/// Counts connections, whose ends share the numbers of their handshake.
fn count_paths(flows: &[maps::Flow]) -> PathCounts {
    let connections = connections(flows);
    let kernel = connections
        .values()
        .filter(|connection| connection.on_kernel_path())
        .count() as u64;
    PathCounts {
        kernel,
        network: connections.len() as u64 - kernel,
        process: 0,
    }
}

/// What the enrolled ends of one connection tell of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection {
    /// Ids of the functions at its ends, 0 where an end is not known; the lesser one first.
    pub(super) ends: (u32, u32),
    redirected: bool,
    by_tcp: bool,
}

impl Connection {
    /// Whether every end that has sent something is redirected, and one has.
    pub(super) const fn on_kernel_path(self) -> bool {
        self.redirected && !self.by_tcp
    }
}

/// Connections by the numbers of their handshake.
pub(super) fn connections(flows: &[maps::Flow]) -> HashMap<(u32, u32), Connection> {
    let mut connections: HashMap<(u32, u32), Connection> = HashMap::with_capacity(flows.len());
    for flow in flows {
        let connection = connections
            .entry((flow.pair.active, flow.pair.passive))
            .or_default();
        let (function, peer) = (flow.function, flow.peer_function);
        // The end that was enrolled first may not know the other yet.
        connection.ends = connection.ends.max((function.min(peer), function.max(peer)));
        let silent = flow.sent.redirect_messages + flow.sent.tcp_messages == 0;
        match State::from_value(flow.state) {
            State::Redirect => connection.redirected = true,
            State::Tcp if !silent => connection.by_tcp = true,
            State::Tcp => {}
        }
    }
    connections
}

fn address(addr: Addr, port: u32) -> SocketAddr {
    let v6 = Ipv6Addr::from(addr);
    let ip = v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4);
    SocketAddr::new(ip, u16::try_from(port).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use cwasi_ebpf_common::maps::{Counters, PairKey, Role};

    use super::*;

    fn end(connection: u32, role: Role, state: State, messages: u64) -> maps::Flow {
        maps::Flow {
            pair: PairKey {
                active: connection,
                passive: 7,
                role: role as u32,
            },
            state: state as u32,
            sent: Counters {
                tcp_messages: messages,
                ..Counters::default()
            },
            ..maps::Flow::default()
        }
    }

    #[test]
    fn a_connection_counts_once_and_on_the_worse_of_its_paths() {
        use Role::{Active, Passive};
        use State::{Redirect, Tcp};
        let flows = [
            end(1, Active, Redirect, 5),
            end(1, Passive, Redirect, 5),
            end(2, Active, Redirect, 5),
            end(2, Passive, Tcp, 0),
            end(3, Active, Redirect, 5),
            end(3, Passive, Tcp, 1),
            end(4, Active, Tcp, 0),
            end(5, Passive, Tcp, 3),
        ];
        assert_eq!(
            count_paths(&flows),
            PathCounts {
                kernel: 2,
                network: 3,
                process: 0
            }
        );
        assert_eq!(count_paths(&[]), PathCounts::default());
    }

    #[test]
    fn addresses_are_shown_as_what_they_are() {
        let v4: Ipv6Addr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(address(v4.octets(), 80).to_string(), "10.0.0.1:80");
        let v6: Ipv6Addr = "fd00::1".parse().unwrap();
        assert_eq!(address(v6.octets(), 80).to_string(), "[fd00::1]:80");
    }
}
