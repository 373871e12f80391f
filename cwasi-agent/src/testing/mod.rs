//! A data plane and a node made of memory, for tests of everything above them, and a strict reader of what the metrics say.

pub mod exposition;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cwasi_client::cgroup::CgroupError;
use cwasi_client::protocol::MapUsage;
use cwasi_ebpf_common::learn::Record;
use cwasi_ebpf_common::maps::{
    Config, Destination, Event, Flow, FunctionEntry, Locality, TrafficEntry, TrafficKey,
};
use cwasi_ebpf_common::offsets::QueueMeasure;
use ipnet::Ipv6Net;

use crate::agent::Host;
use crate::kernel::PlaneError;
use crate::plane::Plane;

/// What the fake kernel and node hold. It outlives planes, as pins do.
#[derive(Debug, Default)]
pub struct World {
    /// Functions by cgroup id.
    pub attached: BTreeMap<u64, FunctionEntry>,
    /// Prefixes.
    pub localities: BTreeMap<Ipv6Net, Locality>,
    /// Configuration.
    pub config: Config,
    /// Enrolled sockets.
    pub flows: Vec<Flow>,
    /// Sums.
    pub traffic: BTreeMap<TrafficKey, TrafficEntry>,
    /// What was learned.
    pub learned: HashMap<Destination, Record>,
    /// Events that wait.
    pub events: Vec<Event>,
    /// Events lost.
    pub lost_events: u64,
    /// Fill of maps.
    pub usage: Vec<MapUsage>,
    /// How often the fill of maps was read.
    pub usage_reads: u64,
    /// Cgroup directories with their ids and numbers of processes.
    pub cgroups: BTreeMap<PathBuf, (u64, usize)>,
    /// Start times of the living processes.
    pub processes: HashMap<u32, u64>,
    /// Makes attach fail for these cgroups.
    pub refuse_attach: Vec<PathBuf>,
    /// Makes every change of a prefix fail.
    pub refuse_locality: bool,
    /// Makes every read fail.
    pub refuse_reads: bool,
    /// Set by an unload.
    pub unloaded: bool,
}

/// A handle on a [`World`].
#[derive(Clone, Debug, Default)]
pub struct Fake(Arc<Mutex<World>>);

impl Fake {
    /// The world behind it.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A plane on this world.
    #[must_use]
    pub fn plane(&self) -> Box<dyn Plane> {
        Box::new(self.clone())
    }

    /// The node of this world.
    #[must_use]
    pub fn host(&self) -> Box<dyn Host> {
        Box::new(self.clone())
    }

    fn read<T>(&self, take: impl FnOnce(&World) -> T) -> Result<T, PlaneError> {
        let world = self.world();
        if world.refuse_reads {
            Err(refused("bpf(BPF_MAP_LOOKUP_ELEM)"))
        } else {
            Ok(take(&world))
        }
    }
}

fn refused(call: &'static str) -> PlaneError {
    PlaneError::Syscall {
        call,
        target: "fake".to_owned(),
        source: std::io::Error::from_raw_os_error(libc::EPERM),
    }
}

impl Plane for Fake {
    fn attach(&mut self, cgroup: &Path, function: FunctionEntry) -> Result<u64, PlaneError> {
        let mut world = self.world();
        let known = world
            .cgroups
            .get(cgroup)
            .filter(|_| !world.refuse_attach.iter().any(|path| path == cgroup));
        let (cgroup_id, _) = *known.ok_or_else(|| refused("bpf(BPF_LINK_CREATE)"))?;
        world.attached.insert(cgroup_id, function);
        Ok(cgroup_id)
    }

    fn detach(&mut self, cgroup_id: u64) -> Result<(), PlaneError> {
        self.world().attached.remove(&cgroup_id);
        Ok(())
    }

    fn is_attached(&self, cgroup_id: u64) -> bool {
        self.world().attached.contains_key(&cgroup_id)
    }

    fn attached(&self) -> Result<Vec<(u64, FunctionEntry)>, PlaneError> {
        self.read(|world| world.attached.iter().map(|(id, entry)| (*id, *entry)).collect())
    }

    fn set_locality(&mut self, prefix: Ipv6Net, locality: Option<Locality>) -> Result<(), PlaneError> {
        let mut world = self.world();
        if world.refuse_locality {
            return Err(refused("bpf(BPF_MAP_UPDATE_ELEM)"));
        }
        match locality {
            Some(locality) => world.localities.insert(prefix, locality),
            None => world.localities.remove(&prefix),
        };
        Ok(())
    }

    fn localities(&self) -> Result<Vec<(Ipv6Net, Locality)>, PlaneError> {
        self.read(|world| {
            world
                .localities
                .iter()
                .map(|(prefix, locality)| (*prefix, *locality))
                .collect()
        })
    }

    fn config(&self) -> Result<Config, PlaneError> {
        self.read(|world| world.config)
    }

    fn set_config(&mut self, config: &Config) -> Result<(), PlaneError> {
        self.world().config = *config;
        Ok(())
    }

    fn flows(&self) -> Result<Vec<Flow>, PlaneError> {
        self.read(|world| world.flows.clone())
    }

    fn traffic(&self) -> Result<Vec<(TrafficKey, TrafficEntry)>, PlaneError> {
        self.read(|world| world.traffic.iter().map(|(key, entry)| (*key, *entry)).collect())
    }

    fn learned(&self, destination: &Destination) -> Result<Option<Record>, PlaneError> {
        self.read(|world| world.learned.get(destination).copied())
    }

    fn usage(&self) -> Result<Vec<MapUsage>, PlaneError> {
        self.world().usage_reads += 1;
        self.read(|world| world.usage.clone())
    }

    fn events(&mut self, limit: usize) -> Result<Vec<Event>, PlaneError> {
        let events = &mut self.world().events;
        let taken = limit.min(events.len());
        Ok(events.drain(..taken).collect())
    }

    fn lost_events(&self) -> Result<u64, PlaneError> {
        self.read(|world| world.lost_events)
    }

    fn sweep(&mut self) -> Result<usize, PlaneError> {
        Ok(0)
    }

    fn measure(&self) -> QueueMeasure {
        QueueMeasure::MessageTotal
    }

    fn unload(self: Box<Self>) -> Result<(), PlaneError> {
        let mut world = self.world();
        world.attached.clear();
        world.localities.clear();
        world.unloaded = true;
        Ok(())
    }
}

impl Host for Fake {
    fn cgroup_id(&self, dir: &Path) -> Option<u64> {
        self.world().cgroups.get(dir).map(|(id, _)| *id)
    }

    fn is_empty_leaf(&self, dir: &Path) -> bool {
        dir.starts_with("/cg/cwasi")
            && self
                .world()
                .cgroups
                .get(dir)
                .is_some_and(|(_, processes)| *processes == 0)
    }

    fn remove_cgroup(&self, dir: &Path) -> Result<(), CgroupError> {
        self.world().cgroups.remove(dir);
        Ok(())
    }

    fn started(&self, pid: u32) -> Option<u64> {
        self.world().processes.get(&pid).copied()
    }

    fn boot(&self) -> String {
        "this-boot".to_owned()
    }
}
