//! The table of all metrics of cwasi: what is not in here is not shown. Names and labels are forever.

use cwasi_ebpf_common::reason::Reason;

use crate::agent::{DEGRADATIONS, KERNEL, NETWORK, PROCESS, Snapshot};
use crate::kernel::USAGE_MAPS;
use crate::run::PROBES;

/// What a number may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until its count begins anew.
    Counter,
    /// It is what it is now.
    Gauge,
}

impl Kind {
    /// Name in Prometheus' text format.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What its numbers may do.
    pub kind: Kind,
    /// What its numbers count.
    pub unit: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// The series it has.
    pub series: Series,
    /// What it means.
    pub help: &'static str,
}

/// The series of a metric, and where their numbers are taken from.
#[derive(Clone, Copy, Debug)]
pub enum Series {
    /// One, without labels.
    One(fn(&Snapshot) -> u64),
    /// One for each of these label values, in the order of [`Metric::labels`]; `None` where a number is not known.
    Each(
        fn() -> Vec<Vec<&'static str>>,
        fn(&Snapshot, &[&str]) -> Option<u64>,
    ),
    /// One, whose labels tell of the agent's build.
    Build,
}

/// When it is that a connection, or its next message, is left to TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// When the connection is made: this end of it is not enrolled.
    Enrol,
    /// At a send of an enrolled end.
    Send,
}

impl Stage {
    const ALL: [Self; 2] = [Self::Enrol, Self::Send];

    const fn label(self) -> &'static str {
        match self {
            Self::Enrol => "enrol",
            Self::Send => "send",
        }
    }

    /// Whether the reason is counted at this stage.
    const fn knows(self, reason: Reason) -> bool {
        match reason {
            Reason::Disabled => true,
            Reason::Remote
            | Reason::NotAFunction
            | Reason::Learned
            | Reason::FlowsFull
            | Reason::SockhashFull
            | Reason::SocketBusy
            | Reason::SocketRefused
            | Reason::Blocking => matches!(self, Self::Enrol),
            Reason::Budget
            | Reason::SmallWrites
            | Reason::UpperLayer
            | Reason::Closing
            | Reason::Unmeasured
            | Reason::EdgeTriggered => matches!(self, Self::Send),
            // They keep a direction on TCP that is there, which is no fallback.
            Reason::Unpaired | Reason::Undrained | Reason::Unpolled => false,
        }
    }
}

/// Every metric, in the order of the reference page.
pub const METRICS: [Metric; 16] = [
    Metric {
        name: "cwasi_messages_total",
        kind: Kind::Counter,
        unit: "messages",
        labels: &["path"],
        series: Series::Each(all_paths, |snapshot, labels| {
            let traffic = &snapshot.totals.traffic;
            Some(by_path(
                labels,
                [
                    traffic.redirect_messages,
                    traffic.tcp_messages,
                    traffic.process_messages,
                ],
            ))
        }),
        help: "Messages of functions, by path: kernel is redirected by the kernel program, network goes by TCP, process stays \
               inside of a process. A message is one send of a socket, inside of a process one write of a guest. network is of \
               enrolled connections only, and what a non-blocking sender is refused counts again when it is sent again.",
    },
    Metric {
        name: "cwasi_bytes_total",
        kind: Kind::Counter,
        unit: "bytes",
        labels: &["path"],
        series: Series::Each(all_paths, |snapshot, labels| {
            let traffic = &snapshot.totals.traffic;
            Some(by_path(
                labels,
                [traffic.redirect_bytes, traffic.tcp_bytes, traffic.process_bytes],
            ))
        }),
        help: "Bytes of the messages that cwasi_messages_total counts, by path. On network, what a non-blocking sender is refused \
               counts again when it is sent again.",
    },
    Metric {
        name: "cwasi_flows_active",
        kind: Kind::Gauge,
        unit: "connections",
        labels: &["path"],
        series: Series::Each(all_paths, |snapshot, labels| {
            let flows = &snapshot.flows;
            Some(by_path(labels, [flows.kernel, flows.network, flows.process]))
        }),
        help: "Open connections of functions, each counted once, by path. An enrolled one is on kernel when every end that has \
               sent is redirected, else on network; process: inside of a process.",
    },
    Metric {
        name: "cwasi_enrolled_ends_total",
        kind: Kind::Counter,
        unit: "ends of connections",
        labels: &[],
        series: Series::One(|snapshot| snapshot.totals.traffic.connections),
        help: "Ends of connections that were enrolled, which is what may be redirected: two for a connection between two \
               functions.",
    },
    Metric {
        name: "cwasi_process_connections_total",
        kind: Kind::Counter,
        unit: "connections",
        labels: &[],
        series: Series::One(|snapshot| snapshot.totals.traffic.process_connections),
        help: "Connections between functions of one process, each counted once, as the processes report.",
    },
    Metric {
        name: "cwasi_path_changes_total",
        kind: Kind::Counter,
        unit: "changes",
        labels: &["to"],
        series: Series::Each(
            || vec![vec![KERNEL], vec![NETWORK]],
            |snapshot, labels| {
                let traffic = &snapshot.totals.traffic;
                Some(by_path(labels, [traffic.to_redirect, traffic.to_tcp, 0]))
            },
        ),
        help: "Changes of the path of one direction of an enrolled connection, by the new path. The first redirected message of \
               each is one, for all begin on network.",
    },
    Metric {
        name: "cwasi_fallback_total",
        kind: Kind::Counter,
        unit: "fallbacks",
        labels: &["stage", "reason"],
        series: Series::Each(all_fallbacks, fallbacks),
        help: "What was left to TCP, by reason. enrol: ends of connections that were not enrolled when the connection was made. \
               send: changes of one direction of an enrolled connection back to TCP, and for edge_triggered directions that \
               stay on TCP.",
    },
    Metric {
        name: "cwasi_functions_registered",
        kind: Kind::Gauge,
        unit: "functions",
        labels: &[],
        series: Series::One(|snapshot| snapshot.functions as u64),
        help: "Registered functions; a process that runs several functions is one.",
    },
    Metric {
        name: "cwasi_accelerating",
        kind: Kind::Gauge,
        unit: "0 or 1",
        labels: &[],
        series: Series::One(|snapshot| u64::from(snapshot.accelerating)),
        help: "1 when connections are redirected: the switch is on, and the kernel does what it takes.",
    },
    Metric {
        name: "cwasi_acceleration_enabled",
        kind: Kind::Gauge,
        unit: "0 or 1",
        labels: &[],
        series: Series::One(|snapshot| u64::from(snapshot.enabled)),
        help: "1 when the operator's switch is on, whatever the kernel can do (cwasi-agent enable, cwasi-agent disable).",
    },
    Metric {
        name: "cwasi_degraded",
        kind: Kind::Gauge,
        unit: "0 or 1",
        labels: &["reason"],
        series: Series::Each(
            || DEGRADATIONS.map(|reason| vec![reason]).to_vec(),
            |snapshot, labels| {
                let mut causes = snapshot.degraded.iter();
                Some(u64::from(causes.any(|cause| labels == [cause.reason.as_str()])))
            },
        ),
        help: "1 when this is wrong, 0 when it is not, by the reasons of cwasi-agent status.",
    },
    Metric {
        name: "cwasi_kernel_probe",
        kind: Kind::Gauge,
        unit: "0 or 1",
        labels: &["probe"],
        series: Series::Each(
            || PROBES.map(|probe| vec![probe]).to_vec(),
            |snapshot, labels| {
                let mut probes = snapshot.probes.iter();
                let (_, passed) = probes.find(|(probe, _)| labels == [*probe])?;
                Some(u64::from(*passed))
            },
        ),
        help: "1 when the agent saw the kernel do it at its last look, 0 when it did not. load: it takes the programs; readers: \
               it tells how the reader of a socket waits; the others are checks of the self-test.",
    },
    Metric {
        name: "cwasi_bpf_map_entries",
        kind: Kind::Gauge,
        unit: "entries",
        labels: &["map"],
        series: Series::Each(all_maps, |snapshot, labels| {
            let mut maps = snapshot.maps.iter();
            Some(maps.find(|map| labels == [map.name.as_str()])?.entries)
        }),
        help: "Entries in use of a kernel map; absent when it cannot be read. learned evicts what is old when it is full.",
    },
    Metric {
        name: "cwasi_bpf_map_capacity",
        kind: Kind::Gauge,
        unit: "entries",
        labels: &["map"],
        series: Series::Each(all_maps, |snapshot, labels| {
            let mut maps = snapshot.maps.iter();
            Some(maps.find(|map| labels == [map.name.as_str()])?.capacity)
        }),
        help: "Entries that fit into a kernel map.",
    },
    Metric {
        name: "cwasi_events_lost_total",
        kind: Kind::Counter,
        unit: "events",
        labels: &[],
        series: Series::One(|snapshot| snapshot.lost_events),
        help: "Events of connections that found the kernel's ring full: cwasi-agent flows --watch does not show them. No other \
               counter depends on them.",
    },
    Metric {
        name: "cwasi_build_info",
        kind: Kind::Gauge,
        unit: "1",
        labels: &["version", "layout", "object"],
        series: Series::Build,
        help: "Build of the agent: its version, the layout of its pinned maps, and the SHA-256 of its eBPF object.",
    },
];

fn all_paths() -> Vec<Vec<&'static str>> {
    [KERNEL, NETWORK, PROCESS].map(|path| vec![path]).to_vec()
}

fn by_path(labels: &[&str], [kernel, network, process]: [u64; 3]) -> u64 {
    match labels {
        [KERNEL] => kernel,
        [NETWORK] => network,
        _ => process,
    }
}

fn all_maps() -> Vec<Vec<&'static str>> {
    USAGE_MAPS.map(|map| vec![map]).to_vec()
}

fn all_fallbacks() -> Vec<Vec<&'static str>> {
    let reasons = |stage: Stage| {
        let reasons = Reason::ALL.into_iter().filter(move |reason| stage.knows(*reason));
        reasons.map(move |reason| vec![stage.label(), reason.label()])
    };
    Stage::ALL.into_iter().flat_map(reasons).collect()
}

fn fallbacks(snapshot: &Snapshot, labels: &[&str]) -> Option<u64> {
    let totals = &snapshot.totals;
    let reason = Reason::ALL
        .into_iter()
        .find(|reason| labels[1] == reason.label())?;
    Some(match reason {
        // The only one that is of both stages.
        Reason::Disabled if labels[0] == Stage::Enrol.label() => totals.at_enrolment[reason.index()],
        Reason::Disabled => totals.at_send[reason.index()],
        // Where the map of sums is full, both stages are counted in one entry.
        _ => totals.fallbacks()[reason.index()],
    })
}
