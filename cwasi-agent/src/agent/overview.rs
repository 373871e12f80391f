//! The node at a glance: what the status page shows. Its size is bounded, whatever the node has.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use cwasi_client::protocol::{Degradation, Function, PathCounts, Traffic, Version};
use cwasi_ebpf_common::maps::{Flow, TrafficEntry, TrafficKey};
use cwasi_ebpf_common::reason::Reason;
use serde::Serialize;

use super::fallbacks::{Advice, advice};
use super::view::{connections, version};
use super::{Agent, MAX_ID};

/// Most functions that an overview lists.
pub const MAX_FUNCTIONS_SHOWN: usize = 200;
/// Most pairs of functions that an overview lists.
pub const MAX_PAIRS_SHOWN: usize = 200;
/// Most names and addresses that are listed of one function.
const MAX_DETAILS: usize = 4;

/// The node at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// Build of the agent.
    pub version: Version,
    /// Whether connections are redirected.
    pub accelerating: bool,
    /// The operator's switch.
    pub enabled: bool,
    /// What is wrong.
    pub degraded: Vec<Degradation>,
    /// Open connections by path.
    pub open: PathCounts,
    /// What was sent over all connections, open and closed.
    pub sent: PathBytes,
    /// Why connections are on TCP or went back to it; the most frequent first.
    pub fallbacks: Vec<Fallback>,
    /// The registered functions, of which at most [`MAX_FUNCTIONS_SHOWN`] are listed: those that sent most.
    pub functions: Listed<Shown>,
    /// Who talks to whom, of which at most [`MAX_PAIRS_SHOWN`] pairs are listed: those with open connections first.
    pub pairs: Listed<Pair>,
}

/// A list that may be cut off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listed<T> {
    /// What is listed.
    pub shown: Vec<T>,
    /// How many there are beside those.
    pub more: usize,
}

impl<T> Listed<T> {
    fn first(mut all: Vec<T>, most: usize) -> Self {
        let more = all.len().saturating_sub(most);
        all.truncate(most);
        Self { shown: all, more }
    }
}

/// Bytes by path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PathBytes {
    /// Moved by the kernel program.
    pub kernel: u64,
    /// Carried by TCP.
    pub network: u64,
    /// Kept inside of a process.
    pub process: u64,
}

impl PathBytes {
    /// Over all paths.
    #[must_use]
    pub const fn sum(self) -> u64 {
        self.kernel
            .saturating_add(self.network)
            .saturating_add(self.process)
    }

    fn add(&mut self, other: Self) {
        self.kernel = self.kernel.saturating_add(other.kernel);
        self.network = self.network.saturating_add(other.network);
        self.process = self.process.saturating_add(other.process);
    }
}

impl From<Traffic> for PathBytes {
    fn from(traffic: Traffic) -> Self {
        Self {
            kernel: traffic.redirect_bytes,
            network: traffic.tcp_bytes,
            process: traffic.process_bytes,
        }
    }
}

/// How often connections were left to TCP, or went back to it, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fallback {
    /// Label of the reason, as in metrics.
    pub reason: &'static str,
    /// How often.
    pub count: u64,
    /// What it means, and what can be done about it.
    #[serde(flatten)]
    pub advice: Advice,
}

/// A registered function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Id on this node.
    pub id: u32,
    /// `namespace/name`.
    pub name: String,
    /// Its pod.
    pub pod: Option<String>,
    /// Names of the functions that run in this one process, where these are several.
    pub members: Listed<String>,
    /// Addresses at which it is reached.
    pub addresses: Listed<String>,
    /// Why its new connections are not accelerated, `None` when they may be.
    pub not_accelerated: Option<String>,
    /// What it sent.
    pub sent: PathBytes,
}

impl From<Function> for Shown {
    fn from(function: Function) -> Self {
        let spec = function.spec;
        let addresses = spec.addresses.iter().map(ToString::to_string).collect();
        Self {
            id: function.id,
            name: format!("{}/{}", spec.namespace, spec.name),
            pod: spec.pod,
            members: Listed::first(spec.members, MAX_DETAILS),
            addresses: Listed::first(addresses, MAX_DETAILS),
            not_accelerated: function.reason,
            sent: function.sent.into(),
        }
    }
}

/// One of two that talk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// A function of this node: `namespace/name`. Functions of one name are one party.
    Function(String),
    /// Whoever is no function of this node.
    Elsewhere,
}

/// Two that talk, or have talked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// The two.
    pub ends: [Party; 2],
    /// Open connections between them.
    pub open: PathCounts,
    /// What each of the two sent.
    pub sent: [PathBytes; 2],
}

impl Pair {
    fn bytes(&self) -> u64 {
        self.sent[0].sum().saturating_add(self.sent[1].sum())
    }

    fn connections(&self) -> u64 {
        let PathCounts {
            kernel,
            network,
            process,
        } = self.open;
        kernel.saturating_add(network).saturating_add(process)
    }
}

/// Pairs in the making: the lesser party is first.
type Pairs<Id> = BTreeMap<(Id, Id), (PathCounts, [PathBytes; 2])>;

fn entry<Id: Ord>(pairs: &mut Pairs<Id>, from: Id, to: Id) -> (&mut PathCounts, &mut PathBytes) {
    let backwards = from > to;
    let key = if backwards { (to, from) } else { (from, to) };
    let (open, sent) = pairs.entry(key).or_default();
    (open, &mut sent[usize::from(backwards)])
}

/// Sums by the ids of functions; 0 is who is no function.
fn pairs_of(closed: &[(TrafficKey, TrafficEntry)], flows: &[Flow]) -> Pairs<u32> {
    let mut pairs = Pairs::new();
    for (key, sums) in closed {
        // Of functions that are gone, and of pairs that did not fit, nobody knows who they were.
        if (1..=MAX_ID).contains(&key.src) {
            let (_, sent) = entry(&mut pairs, key.src, key.dst);
            sent.kernel += sums.sent.redirect_bytes;
            sent.network += sums.sent.tcp_bytes;
        }
    }
    for flow in flows {
        let (_, sent) = entry(&mut pairs, flow.function, flow.peer_function);
        sent.kernel += flow.sent.redirect_bytes;
        sent.network += flow.sent.tcp_bytes;
    }
    for connection in connections(flows).values() {
        let (open, _) = entry(&mut pairs, connection.ends.0, connection.ends.1);
        if connection.on_kernel_path() {
            open.kernel += 1;
        } else {
            open.network += 1;
        }
    }
    pairs
}

/// The pairs as they are shown. `title` gives the name of an id, `None` for functions that are registered no more.
fn named<'a>(pairs: Pairs<u32>, title: impl Fn(u32) -> Option<&'a str>) -> Pairs<Party> {
    let party = |id| match id {
        0 => Some(Party::Elsewhere),
        _ => title(id).map(|title| Party::Function(title.to_owned())),
    };
    let mut all = Pairs::new();
    for ((a, b), (counts, [from_a, from_b])) in pairs {
        let (Some(a), Some(b)) = (party(a), party(b)) else {
            continue;
        };
        let (open, sent) = entry(&mut all, a.clone(), b.clone());
        open.kernel += counts.kernel;
        open.network += counts.network;
        sent.add(from_a);
        entry(&mut all, b, a).1.add(from_b);
    }
    all
}

/// The pairs that count most first, as many as are listed.
fn listed(pairs: Pairs<Party>) -> Listed<Pair> {
    let pairs = pairs.into_iter().map(|((a, b), (open, sent))| Pair {
        ends: [a, b],
        open,
        sent,
    });
    let mut pairs: Vec<Pair> = pairs
        // Refused connections leave entries without a byte.
        .filter(|pair| pair.connections() > 0 || pair.bytes() > 0)
        .collect();
    pairs.sort_by_key(|pair| std::cmp::Reverse((pair.connections().min(1), pair.bytes())));
    Listed::first(pairs, MAX_PAIRS_SHOWN)
}

impl Agent {
    /// The node at a glance.
    pub fn overview(&mut self) -> Overview {
        let reading = self.read_with_usage();
        self.recent.note(&reading.totals, Instant::now());
        let titles: HashMap<u32, String> = self
            .functions
            .iter()
            .map(|(id, entry)| (*id, entry.title()))
            .collect();
        let mut pairs = named(pairs_of(&reading.closed, &reading.flows), |id| {
            titles.get(&id).map(String::as_str)
        });
        for function in self.functions.values() {
            let party = |name: &str| Party::Function(format!("{}/{name}", function.saved.spec.namespace));
            for ((a, b), (count, [from_a, from_b])) in self.processes.pairs(function.saved.cgroup_id) {
                let (open, sent) = entry(&mut pairs, party(a), party(b));
                open.process = open.process.saturating_add(count);
                sent.process = sent.process.saturating_add(from_a);
                let (_, sent) = entry(&mut pairs, party(b), party(a));
                sent.process = sent.process.saturating_add(from_b);
            }
        }
        let counts = Reason::ALL.into_iter().zip(reading.totals.fallbacks());
        let mut fallbacks: Vec<Fallback> = counts
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| Fallback {
                reason: reason.label(),
                count,
                advice: advice(reason),
            })
            .collect();
        fallbacks.sort_by_key(|fallback| std::cmp::Reverse(fallback.count));
        let mut functions: Vec<Shown> = self.list(&reading).into_iter().map(Shown::from).collect();
        functions.sort_by_key(|function| std::cmp::Reverse(function.sent.sum()));
        let mut functions = Listed::first(functions, MAX_FUNCTIONS_SHOWN);
        // By traffic they would change places at every look.
        functions
            .shown
            .sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Overview {
            version: version(),
            accelerating: self.accelerating(),
            enabled: self.enabled(),
            degraded: self.degradations(&reading.maps),
            open: self.count_paths(&reading.flows),
            sent: reading.totals.traffic.into(),
            fallbacks,
            functions,
            pairs: listed(pairs),
        }
    }
}
