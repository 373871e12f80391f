//! What the agent asks of a data plane. [`crate::kernel::KernelPlane`] is the real one; tests of the agent's state use a fake.

use std::path::Path;

use cwasi_client::protocol::MapUsage;
use cwasi_ebpf_common::maps::{
    Config, Destination, Event, Flow, FunctionEntry, Locality, TrafficEntry, TrafficKey,
};
use cwasi_ebpf_common::offsets::QueueMeasure;
use ipnet::Ipv6Net;

use crate::kernel::PlaneError;

/// A data plane: the maps and programs of one agent. Every change takes effect for new connections at once.
pub trait Plane: Send {
    /// Make the processes of the cgroup v2 directory `cgroup` `function`: from now on their new connections are
    /// looked at. Repeating it for the same cgroup replaces the entry. Returns the cgroup's id (the directory's inode).
    ///
    /// # Errors
    /// The directory is not a cgroup v2 one, the programs cannot be attached there, or a map is full.
    fn attach(&mut self, cgroup: &Path, function: FunctionEntry) -> Result<u64, PlaneError>;

    /// Undo [`Plane::attach`]; open connections go on as they are. A cgroup that is gone is no error.
    ///
    /// # Errors
    /// A map or a pin cannot be changed.
    fn detach(&mut self, cgroup_id: u64) -> Result<(), PlaneError>;

    /// Whether [`Plane::attach`] of a function still holds. It does not when its pin was removed by hand, or the bpffs unmounted.
    fn is_attached(&self, cgroup_id: u64) -> bool;

    /// The functions that the kernel knows, by cgroup id: after a restart, those of the agent before.
    ///
    /// # Errors
    /// The map cannot be read.
    fn attached(&self) -> Result<Vec<(u64, FunctionEntry)>, PlaneError>;

    /// Set the locality of a prefix (IPv4 as `::ffff:a.b.c.d/96+n`), or remove it with `None`.
    ///
    /// # Errors
    /// The map is full.
    fn set_locality(&mut self, prefix: Ipv6Net, locality: Option<Locality>) -> Result<(), PlaneError>;

    /// All locality prefixes.
    ///
    /// # Errors
    /// The map cannot be read.
    fn localities(&self) -> Result<Vec<(Ipv6Net, Locality)>, PlaneError>;

    /// What can be changed while flows are open.
    ///
    /// # Errors
    /// The map cannot be read.
    fn config(&self) -> Result<Config, PlaneError>;

    /// Change what can be changed; open connections follow at their next send.
    ///
    /// # Errors
    /// The map cannot be written.
    fn set_config(&mut self, config: &Config) -> Result<(), PlaneError>;

    /// Every enrolled socket. A connection between two functions has two.
    ///
    /// # Errors
    /// The map cannot be read.
    fn flows(&self) -> Result<Vec<Flow>, PlaneError>;

    /// Sums over closed connections.
    ///
    /// # Errors
    /// The map cannot be read.
    fn traffic(&self) -> Result<Vec<(TrafficKey, TrafficEntry)>, PlaneError>;

    /// What is known of a destination's gains, as (admitted, connections, balance).
    ///
    /// # Errors
    /// The map cannot be read.
    fn learned(
        &self,
        destination: &Destination,
    ) -> Result<Option<cwasi_ebpf_common::learn::Record>, PlaneError>;

    /// Fill of every map that can fill up.
    ///
    /// # Errors
    /// A map cannot be read.
    fn usage(&self) -> Result<Vec<MapUsage>, PlaneError>;

    /// Take the events that wait in the ring, at most `limit`. The kernel wakes nobody: call this once in a while.
    ///
    /// # Errors
    /// The ring holds something that is no event.
    fn events(&mut self, limit: usize) -> Result<Vec<Event>, PlaneError>;

    /// Events that found the ring full, since the maps were made.
    ///
    /// # Errors
    /// The map cannot be read.
    fn lost_events(&self) -> Result<u64, PlaneError>;

    /// Remove entries of sockets that no longer exist (their programs were detached before they closed). Returns how many.
    ///
    /// # Errors
    /// A map cannot be read or changed.
    fn sweep(&mut self) -> Result<usize, PlaneError>;

    /// How the peer's queue is measured.
    fn measure(&self) -> QueueMeasure;

    /// Switch redirection off, detach every program and remove the pins. Open connections go on by TCP.
    ///
    /// # Errors
    /// A pin cannot be removed.
    fn unload(self: Box<Self>) -> Result<(), PlaneError>;
}
