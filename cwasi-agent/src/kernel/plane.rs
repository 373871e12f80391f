//! The data plane of the running kernel: pinned maps, a program on each function's cgroup, one on the sockhash.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::mem::ManuallyDrop;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, MapData, MapError, PerCpuArray, RingBuf, SockHash};
use aya::programs::sk_msg::SkMsgLink;
use cwasi_client::protocol::MapUsage;
use cwasi_ebpf_common::learn::Record;
use cwasi_ebpf_common::maps::{
    Addr, Config, Destination, Event, Flow, FunctionEntry, Locality, MAX_FUNCTIONS, MAX_LEARNED,
    MAX_LOCALITY, MAX_SOCKETS, MAX_TRAFFIC, PairEnd, PairKey, TrafficEntry, TrafficKey, names,
};
use cwasi_ebpf_common::offsets::QueueMeasure;
use ipnet::Ipv6Net;

use super::bpffs::{self, Hold, Pins};
use super::error::PlaneError;
use super::object::{Loaded, Object, SK_MSG};
use super::{fit, links, pinned};
use crate::plane::Plane;

/// Names of the maps whose fill is told, as in the object but for the case.
pub const USAGE_MAPS: [&str; 7] = [
    "functions",
    "locality",
    "pairs",
    "sockets",
    "flows",
    "traffic",
    "learned",
];

/// Where the sums of functions that are gone are kept, by whether the peer was known; the kernel never writes there.
const FOLDED: [TrafficKey; 2] = [
    TrafficKey {
        src: u32::MAX,
        dst: 0,
    },
    TrafficKey {
        src: u32::MAX,
        dst: u32::MAX,
    },
];

/// How to open a [`KernelPlane`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the pins, on a bpffs.
    pub bpffs: PathBuf,
    /// Bytes in a receiver's redirect queue above which the sender goes back to TCP.
    pub budget: u32,
    /// How the queue is measured, as [`super::selftest`] found it to work.
    pub measure: QueueMeasure,
    /// Number of sockets that the sockhash takes, [`MAX_SOCKETS`] when `None`.
    pub max_sockets: Option<u32>,
    /// How long an entry without a live socket is left alone: longer than a closing socket can linger.
    pub sweep_grace: Duration,
    /// What is loaded.
    pub object: Object,
}

impl Options {
    /// The options of an agent that is told nothing but where its pins are.
    #[must_use]
    pub fn new(bpffs: PathBuf, measure: QueueMeasure) -> Self {
        let sweep_grace = Duration::from_secs(180);
        Self {
            bpffs,
            budget: Config::DEFAULT_BUDGET,
            measure,
            max_sockets: None,
            sweep_grace,
            object: Object::embedded(),
        }
    }
}

type HashMapOf<K, V> = aya::maps::HashMap<MapData, K, V>;

/// The maps of a loaded object.
pub(super) struct Maps {
    pub(super) functions: HashMapOf<u64, FunctionEntry>,
    pub(super) locality: LpmTrie<MapData, Addr, u32>,
    pub(super) pairs: HashMapOf<PairKey, PairEnd>,
    pub(super) sockets: SockHash<MapData, u64>,
    pub(super) flows: HashMapOf<u64, Flow>,
    pub(super) traffic: HashMapOf<TrafficKey, TrafficEntry>,
    learned: HashMapOf<Destination, Record>,
    pub(super) config: Array<MapData, Config>,
    events: RingBuf<MapData>,
    lost_events: PerCpuArray<MapData, u64>,
}

impl Maps {
    pub(super) fn take(object: &mut Loaded) -> Result<Self, PlaneError> {
        Ok(Self {
            functions: object.map(names::FUNCTIONS)?,
            locality: object.map(names::LOCALITY)?,
            pairs: object.map(names::PAIRS)?,
            sockets: object.map(names::SOCKETS)?,
            flows: object.map(names::FLOWS)?,
            traffic: object.map(names::TRAFFIC)?,
            learned: object.map(names::LEARNED)?,
            config: object.map(names::CONFIG)?,
            events: object.map(names::EVENTS)?,
            lost_events: object.map(names::LOST_EVENTS)?,
        })
    }

    /// Puts the sk_msg program on the sockhash, in the place of an older one. The sockets already in it keep theirs.
    pub(super) fn attach_verdict(&self, object: &mut Loaded) -> Result<SkMsgLink, PlaneError> {
        let program = object.sk_msg()?;
        let id = program
            .attach(self.sockets.fd())
            .map_err(PlaneError::program(SK_MSG, "attach"))?;
        program
            .take_link(id)
            .map_err(PlaneError::program(SK_MSG, "attach"))
    }
}

/// The data plane of the running kernel. Dropping it leaves everything in place: flows go on, and new ones are accelerated.
pub struct KernelPlane {
    object: Loaded,
    maps: Maps,
    // Dropping the link would take the program off the sockhash.
    verdict: ManuallyDrop<SkMsgLink>,
    pins: Pins,
    options: Options,
    /// Cgroups of functions that were detached while they had open connections: their links stay until those close.
    retired: HashMap<u64, Option<u32>>,
    /// Entries whose socket is not in the sockhash, and since when.
    missing: HashMap<Suspect, Instant>,
    _hold: Hold,
}

/// An entry that may have been left behind.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Suspect {
    Flow { sock: u64, cookie: u64 },
    Pair { active: u32, passive: u32, role: u32 },
}

impl KernelPlane {
    /// Loads the object and takes over what an agent before left in `options.bpffs`, or begins anew. What is pinned there in another
    /// layout is taken away once this one is in place: connections enrolled in it go on by TCP.
    ///
    /// # Errors
    /// Another agent holds the directory, or the kernel lacks something: [`PlaneError::remedy`] says what to do.
    pub fn open(options: Options) -> Result<Self, PlaneError> {
        let hold = bpffs::hold(&options.bpffs)?;
        let pins = Pins::new(&options.bpffs, options.object.layout());
        let mut others = Pins::all(&options.bpffs);
        others.retain(|other| *other != pins);
        pins.create()?;
        fit::check(&pins)?;
        let mut object = Loaded::load(
            options.object,
            options.measure,
            options.max_sockets,
            Some(&pins.maps()),
        )?;
        let maps = Maps::take(&mut object)?;
        let verdict = ManuallyDrop::new(maps.attach_verdict(&mut object)?);
        let mut plane = Self {
            object,
            maps,
            verdict,
            pins,
            options,
            retired: HashMap::new(),
            missing: HashMap::new(),
            _hold: hold,
        };
        plane.begin(&others)?;
        // A socket belongs to one sockhash: no function is attached before the programs of another layout are gone.
        others.iter().try_for_each(pinned::retire)?;
        plane.adopt()?;
        Ok(plane)
    }

    /// Fills what an empty map cannot mean: the configuration, whose switch is as it was in another layout, and the sums that take
    /// what does not fit elsewhere.
    fn begin(&mut self, others: &[Pins]) -> Result<(), PlaneError> {
        let mut config = self.config()?;
        if config.budget == 0 {
            config = Config::default();
            for other in others {
                if pinned::is_enabled(other)? == Some(false) {
                    config.enabled = 0;
                }
            }
        }
        config.budget = self.options.budget;
        self.set_config(&config)?;
        for key in [TrafficKey::OTHER, FOLDED[0], FOLDED[1]] {
            if lookup(&self.maps.traffic, &key, names::TRAFFIC)?.is_none() {
                let insert = self.maps.traffic.insert(key, TrafficEntry::EMPTY, 0);
                insert.map_err(PlaneError::map(names::TRAFFIC, "update"))?;
            }
        }
        Ok(())
    }

    /// Puts this agent's program on the cgroups that an agent before had attached.
    fn adopt(&mut self) -> Result<(), PlaneError> {
        for cgroup_id in self.pins.linked() {
            let pin = self.pins.link(cgroup_id);
            if !links::adopt(self.object.sock_ops()?, &pin)? {
                unpin(&pin)?;
                self.remove_function(cgroup_id)?;
            } else if lookup(&self.maps.functions, &cgroup_id, names::FUNCTIONS)?.is_none() {
                self.retired.insert(cgroup_id, None);
            }
        }
        Ok(())
    }

    fn remove_function(&mut self, cgroup_id: u64) -> Result<(), PlaneError> {
        remove(&mut self.maps.functions, &cgroup_id, names::FUNCTIONS)
    }

    /// Takes the programs off retired cgroups whose connections are all closed.
    fn unlink_retired(&mut self, flows: &[Flow]) -> Result<(), PlaneError> {
        let registered: HashSet<u32> = self.attached()?.iter().map(|(_, entry)| entry.id).collect();
        let busy: HashSet<u32> = flows.iter().map(|flow| flow.function).collect();
        let orphans = busy.iter().any(|function| !registered.contains(function));
        let idle = |function: &Option<u32>| function.map_or(!orphans, |id| !busy.contains(&id));
        let done: Vec<u64> = self
            .retired
            .iter()
            .filter(|(_, function)| idle(function))
            .map(|(id, _)| *id)
            .collect();
        for cgroup_id in done {
            unpin(&self.pins.link(cgroup_id))?;
            self.retired.remove(&cgroup_id);
        }
        Ok(())
    }

    /// Adds up the sums of functions that are gone, so that the map has room for those to come.
    fn fold(&mut self, flows: &[Flow]) -> Result<(), PlaneError> {
        let mut alive: HashSet<u32> = self.attached()?.iter().map(|(_, entry)| entry.id).collect();
        alive.extend(flows.iter().flat_map(|flow| [flow.function, flow.peer_function]));
        alive.insert(0);
        let is_kept =
            |key: &TrafficKey| FOLDED.contains(key) || (alive.contains(&key.src) && alive.contains(&key.dst));
        let finished = self.traffic()?.into_iter().filter(|(key, _)| !is_kept(key));
        let (unknown, known): (Vec<_>, Vec<_>) = finished.partition(|(key, _)| key.dst == 0);
        for (folded, finished) in FOLDED.into_iter().zip([unknown, known]) {
            if finished.is_empty() {
                continue;
            }
            let mut sum = lookup(&self.maps.traffic, &folded, names::TRAFFIC)?.unwrap_or(TrafficEntry::EMPTY);
            for (key, entry) in &finished {
                add(&mut sum, entry);
                remove(&mut self.maps.traffic, key, names::TRAFFIC)?;
            }
            let insert = self.maps.traffic.insert(folded, sum, 0);
            insert.map_err(PlaneError::map(names::TRAFFIC, "update"))?;
        }
        Ok(())
    }

    /// Removes flows and pairs whose socket has not been in the sockhash for the whole grace.
    fn remove_orphans(&mut self, flows: &[Flow]) -> Result<usize, PlaneError> {
        let cookies = walk(self.maps.sockets.keys(), names::SOCKETS)?;
        let pairs: Vec<(PairKey, PairEnd)> = entries(&self.maps.pairs, names::PAIRS)?;
        let lost_flows = flows.iter().map(|flow| {
            (
                flow.cookie,
                Suspect::Flow {
                    sock: flow.sock,
                    cookie: flow.cookie,
                },
            )
        });
        let lost_pairs = pairs.iter().map(|(key, end)| {
            (
                end.cookie,
                Suspect::Pair {
                    active: key.active,
                    passive: key.passive,
                    role: key.role,
                },
            )
        });
        let suspects: HashSet<Suspect> = lost_flows
            .chain(lost_pairs)
            .filter(|(cookie, _)| !cookies.contains(cookie))
            .map(|(_, it)| it)
            .collect();
        self.missing.retain(|suspect, _| suspects.contains(suspect));
        let now = Instant::now();
        let mut removed = 0;
        for suspect in suspects {
            let since = *self.missing.entry(suspect).or_insert(now);
            if now.duration_since(since) < self.options.sweep_grace {
                continue;
            }
            match suspect {
                Suspect::Flow { sock, .. } => remove(&mut self.maps.flows, &sock, names::FLOWS)?,
                Suspect::Pair {
                    active,
                    passive,
                    role,
                } => {
                    remove(
                        &mut self.maps.pairs,
                        &PairKey {
                            active,
                            passive,
                            role,
                        },
                        names::PAIRS,
                    )?;
                }
            }
            self.missing.remove(&suspect);
            removed += 1;
        }
        Ok(removed)
    }
}

impl Plane for KernelPlane {
    fn attach(&mut self, cgroup: &Path, function: FunctionEntry) -> Result<u64, PlaneError> {
        let metadata = std::fs::metadata(cgroup).map_err(PlaneError::syscall("stat", cgroup.display()))?;
        let cgroup_id = metadata.ino();
        self.maps
            .functions
            .insert(cgroup_id, function, 0)
            .map_err(PlaneError::map(names::FUNCTIONS, "update"))?;
        self.retired.remove(&cgroup_id);
        let pin = self.pins.link(cgroup_id);
        if !pin.exists() {
            // They were made at the start, and may have been removed by hand.
            let pinned = self.pins.create();
            let attached = pinned.and_then(|()| links::attach_pinned(self.object.sock_ops()?, cgroup, &pin));
            if attached.is_err() {
                self.remove_function(cgroup_id)?;
            }
            attached?;
        }
        Ok(cgroup_id)
    }

    fn detach(&mut self, cgroup_id: u64) -> Result<(), PlaneError> {
        let function = lookup(&self.maps.functions, &cgroup_id, names::FUNCTIONS)?.map(|entry| entry.id);
        self.remove_function(cgroup_id)?;
        if self.pins.link(cgroup_id).exists() {
            self.retired.insert(cgroup_id, function);
        }
        let flows = self.flows()?;
        self.unlink_retired(&flows)
    }

    fn is_attached(&self, cgroup_id: u64) -> bool {
        self.pins.link(cgroup_id).exists()
    }

    fn attached(&self) -> Result<Vec<(u64, FunctionEntry)>, PlaneError> {
        entries(&self.maps.functions, names::FUNCTIONS)
    }

    fn set_locality(&mut self, prefix: Ipv6Net, locality: Option<Locality>) -> Result<(), PlaneError> {
        let key = Key::new(u32::from(prefix.prefix_len()), prefix.network().octets());
        let map = &mut self.maps.locality;
        match locality {
            Some(locality) => map
                .insert(&key, locality as u32, 0)
                .map_err(PlaneError::map(names::LOCALITY, "update")),
            None => absent_is_done(map.remove(&key)).map_err(PlaneError::map(names::LOCALITY, "delete")),
        }
    }

    fn localities(&self) -> Result<Vec<(Ipv6Net, Locality)>, PlaneError> {
        let mut found = Vec::new();
        for entry in self.maps.locality.iter() {
            let (key, value) = entry.map_err(PlaneError::map(names::LOCALITY, "iterate"))?;
            let length = u8::try_from(key.prefix_len()).unwrap_or(128);
            let prefix = Ipv6Net::new(key.data().into(), length.min(128)).ok();
            found.extend(prefix.zip(Locality::from_value(value)));
        }
        Ok(found)
    }

    fn config(&self) -> Result<Config, PlaneError> {
        self.maps
            .config
            .get(&0, 0)
            .map_err(PlaneError::map(names::CONFIG, "lookup"))
    }

    fn set_config(&mut self, config: &Config) -> Result<(), PlaneError> {
        self.maps
            .config
            .set(0, config, 0)
            .map_err(PlaneError::map(names::CONFIG, "update"))
    }

    fn flows(&self) -> Result<Vec<Flow>, PlaneError> {
        let flows = entries(&self.maps.flows, names::FLOWS)?;
        // A flow without a cookie is being filled just now.
        Ok(flows
            .into_iter()
            .map(|(_, flow)| flow)
            .filter(|flow| flow.cookie != 0)
            .collect())
    }

    fn traffic(&self) -> Result<Vec<(TrafficKey, TrafficEntry)>, PlaneError> {
        entries(&self.maps.traffic, names::TRAFFIC)
    }

    fn learned(&self, destination: &Destination) -> Result<Option<Record>, PlaneError> {
        lookup(&self.maps.learned, destination, names::LEARNED)
    }

    fn usage(&self) -> Result<Vec<MapUsage>, PlaneError> {
        let usage = |name: &str, entries: usize, capacity: u32| MapUsage {
            name: name.to_ascii_lowercase(),
            entries: entries as u64,
            capacity: u64::from(capacity),
        };
        let sockets = self.options.max_sockets.unwrap_or(MAX_SOCKETS);
        let maps = &self.maps;
        Ok(vec![
            usage(
                names::FUNCTIONS,
                walk(maps.functions.keys(), names::FUNCTIONS)?.len(),
                MAX_FUNCTIONS,
            ),
            usage(names::LOCALITY, maps.locality.keys().count(), MAX_LOCALITY),
            usage(
                names::PAIRS,
                walk(maps.pairs.keys(), names::PAIRS)?.len(),
                MAX_SOCKETS,
            ),
            usage(
                names::SOCKETS,
                walk(maps.sockets.keys(), names::SOCKETS)?.len(),
                sockets,
            ),
            usage(
                names::FLOWS,
                walk(maps.flows.keys(), names::FLOWS)?.len(),
                MAX_SOCKETS,
            ),
            usage(
                names::TRAFFIC,
                walk(maps.traffic.keys(), names::TRAFFIC)?.len(),
                MAX_TRAFFIC,
            ),
            usage(
                names::LEARNED,
                walk(maps.learned.keys(), names::LEARNED)?.len(),
                MAX_LEARNED,
            ),
        ])
    }

    fn events(&mut self, limit: usize) -> Result<Vec<Event>, PlaneError> {
        #[cfg(feature = "log")]
        self.object.flush_logs();
        let mut events = Vec::new();
        while events.len() < limit {
            let Some(item) = self.maps.events.next() else {
                break;
            };
            if item.len() != size_of::<Event>() {
                return Err(PlaneError::NotAnEvent { len: item.len() });
            }
            // SAFETY: the kernel wrote an `Event` of this size; it is plain integers, valid in any bit pattern.
            events.push(unsafe { std::ptr::read_unaligned(item.as_ptr().cast()) });
        }
        Ok(events)
    }

    fn lost_events(&self) -> Result<u64, PlaneError> {
        let counts = self
            .maps
            .lost_events
            .get(&0, 0)
            .map_err(PlaneError::map(names::LOST_EVENTS, "lookup"))?;
        Ok(counts.iter().sum())
    }

    fn sweep(&mut self) -> Result<usize, PlaneError> {
        let flows = self.flows()?;
        let removed = self.remove_orphans(&flows)?;
        self.unlink_retired(&flows)?;
        self.fold(&flows)?;
        Ok(removed)
    }

    fn measure(&self) -> QueueMeasure {
        self.options.measure
    }

    fn unload(mut self: Box<Self>) -> Result<(), PlaneError> {
        // What live sockets hold of the programs stays with them: the switch sends every message to TCP.
        let config = Config {
            enabled: 0,
            ..self.config()?
        };
        self.set_config(&config)?;
        self.pins.remove()?;
        // SAFETY: the plane is consumed, and nothing reads the link after this.
        drop(unsafe { ManuallyDrop::take(&mut self.verdict) });
        Ok(())
    }
}

fn add(sum: &mut TrafficEntry, entry: &TrafficEntry) {
    sum.sent.redirect_messages += entry.sent.redirect_messages;
    sum.sent.redirect_bytes += entry.sent.redirect_bytes;
    sum.sent.tcp_messages += entry.sent.tcp_messages;
    sum.sent.tcp_bytes += entry.sent.tcp_bytes;
    sum.sent.to_redirect += entry.sent.to_redirect;
    sum.sent.to_tcp += entry.sent.to_tcp;
    sum.connections += entry.connections;
    for (total, count) in sum.fallbacks.iter_mut().zip(entry.fallbacks) {
        *total += count;
    }
}

fn unpin(pin: &Path) -> Result<(), PlaneError> {
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PlaneError::syscall("unlink", pin.display())(error))
        }
        _ => Ok(()),
    }
}

fn absent_is_done(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn remove<K: Pod, V: Pod>(map: &mut HashMapOf<K, V>, key: &K, name: &'static str) -> Result<(), PlaneError> {
    absent_is_done(map.remove(key)).map_err(PlaneError::map(name, "delete"))
}

fn lookup<K: Pod, V: Pod>(
    map: &HashMapOf<K, V>,
    key: &K,
    name: &'static str,
) -> Result<Option<V>, PlaneError> {
    match map.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(PlaneError::map(name, "lookup")(error)),
    }
}

/// Every key of a map that may change meanwhile. The walk begins anew when the key it stands on is removed: keys come once
/// all the same, and under steady change it ends after a few rounds.
fn walk<K: Pod + Eq + Hash>(
    keys: impl Iterator<Item = Result<K, MapError>>,
    name: &'static str,
) -> Result<HashSet<K>, PlaneError> {
    let mut found = HashSet::new();
    for (step, key) in keys.enumerate() {
        found.insert(key.map_err(PlaneError::map(name, "iterate"))?);
        if step > 4 * (found.len() + 1024) {
            break;
        }
    }
    Ok(found)
}

fn entries<K: Pod + Eq + Hash, V: Pod>(
    map: &HashMapOf<K, V>,
    name: &'static str,
) -> Result<Vec<(K, V)>, PlaneError> {
    let mut found = Vec::new();
    for key in walk(map.keys(), name)? {
        found.extend(lookup(map, &key, name)?.map(|value| (key, value)));
    }
    Ok(found)
}
