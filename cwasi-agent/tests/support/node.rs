//! A data plane of the test's own.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use cwasi_agent::kernel::{KernelPlane, Options, PlaneError};
use cwasi_agent::plane::Plane;
use cwasi_ebpf_common::maps::{Config, Flow, FunctionEntry, Locality, Sockets, TrafficEntry, TrafficKey};
use cwasi_ebpf_common::offsets::QueueMeasure;
use cwasi_ebpf_common::reason::Reason;
use ipnet::Ipv6Net;

use super::{probe, tcp};

/// How the self-test says that the queue is to be measured on this kernel.
pub fn measure() -> QueueMeasure {
    let report = probe::self_test();
    report
        .measure
        .unwrap_or_else(|| panic!("the self-test fails on this kernel: {:#?}", report.checks))
}

/// A [`KernelPlane`] with its own bpffs directory. Dropping it unloads the programs and removes the directory.
pub struct Node {
    options: Options,
    plane: Mutex<Option<Box<KernelPlane>>>,
    next_id: AtomicU32,
}

impl Node {
    /// A node that does not learn, and knows every address as local.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A node with other options.
    pub fn with(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new(directory(), measure());
        change(&mut options);
        let node = Self {
            plane: Mutex::new(None),
            options,
            next_id: AtomicU32::new(1),
        };
        node.open();
        node.configure(|config| config.learn = 0);
        node.locality("::/0", Some(Locality::Local));
        node
    }

    /// Takes a new agent's place: opens the plane on what an agent before left in the directory.
    pub fn open(&self) {
        let plane = KernelPlane::open(self.options.clone());
        let plane = plane.unwrap_or_else(|error| panic!("open the plane: {error}; {}", error.remedy()));
        *self.slot() = Some(Box::new(plane));
    }

    /// Opens a second plane on the directory.
    pub fn open_again(&self) -> Result<KernelPlane, PlaneError> {
        KernelPlane::open(self.options.clone())
    }

    /// Ends as an agent does: everything stays in the kernel.
    pub fn close(&self) {
        *self.slot() = None;
    }

    /// Unloads the programs and removes the pins.
    pub fn unload(&self) {
        let plane = self.slot().take().expect("the plane is open");
        plane.unload().expect("unload the plane");
    }

    /// The bpffs directory.
    pub fn bpffs(&self) -> &Path {
        &self.options.bpffs
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Box<KernelPlane>>> {
        // A test that panicked elsewhere still wants its node unloaded.
        self.plane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the plane.
    pub fn with_plane<T>(&self, ask: impl FnOnce(&mut KernelPlane) -> T) -> T {
        ask(self.slot().as_mut().expect("the plane is open"))
    }

    /// Makes the processes of a cgroup a function, and gives its id.
    pub fn function(&self, cgroup: &Path, sockets: Sockets) -> u32 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let entry = FunctionEntry {
            id,
            sockets: sockets as u32,
        };
        self.with_plane(|plane| plane.attach(cgroup, entry))
            .expect("attach a function");
        id
    }

    /// Changes the live configuration.
    pub fn configure(&self, change: impl FnOnce(&mut Config)) {
        self.with_plane(|plane| {
            let mut config = plane.config().expect("read the configuration");
            change(&mut config);
            plane.set_config(&config).expect("write the configuration");
        });
    }

    /// Sets the locality of a prefix, IPv4 or IPv6.
    pub fn locality(&self, prefix: &str, locality: Option<Locality>) {
        let prefix: ipnet::IpNet = prefix.parse().expect("a prefix");
        let mapped = match prefix.addr() {
            IpAddr::V4(v4) => Ipv6Net::new(v4.to_ipv6_mapped(), 96 + prefix.prefix_len()),
            IpAddr::V6(v6) => Ipv6Net::new(v6, prefix.prefix_len()),
        };
        self.with_plane(|plane| plane.set_locality(mapped.expect("a prefix"), locality))
            .expect("set a locality");
    }

    /// Every enrolled socket.
    pub fn flows(&self) -> Vec<Flow> {
        self.with_plane(|plane| plane.flows()).expect("read the flows")
    }

    /// The flow of a socket, `None` when it is not enrolled.
    pub fn flow_of(&self, stream: &TcpStream) -> Option<Flow> {
        let cookie = tcp::cookie(stream);
        self.flows().into_iter().find(|flow| flow.cookie == cookie)
    }

    /// The flow of a socket that must be enrolled.
    pub fn flow(&self, stream: &TcpStream) -> Flow {
        self.flow_of(stream).expect("the socket is enrolled")
    }

    /// Sums over the closed connections of one function to another, empty when there are none.
    pub fn traffic(&self, src: u32, dst: u32) -> TrafficEntry {
        let all = self
            .with_plane(|plane| plane.traffic())
            .expect("read the traffic");
        let found = all.into_iter().find(|(key, _)| *key == TrafficKey { src, dst });
        found.map_or(TrafficEntry::EMPTY, |(_, entry)| entry)
    }

    /// Connections of a function that were left to TCP for a reason.
    pub fn left(&self, function: u32, reason: Reason) -> u64 {
        self.traffic(function, 0).fallbacks[reason.index()]
    }

    /// Entries of a map.
    pub fn entries(&self, map: &str) -> u64 {
        let usage = self
            .with_plane(|plane| plane.usage())
            .expect("read the maps' fill");
        let found = usage.iter().find(|usage| usage.name.eq_ignore_ascii_case(map));
        found.unwrap_or_else(|| panic!("no map {map}")).entries
    }

    /// Waits until no socket is enrolled, and fails the test when something of one stays behind.
    pub fn settles(&self) {
        for map in ["flows", "sockets", "pairs"] {
            super::eventually(&format!("the map {map} is empty"), || self.entries(map) == 0);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let plane = self.slot().take();
        let plane = plane.or_else(|| KernelPlane::open(self.options.clone()).ok().map(Box::new));
        let unloaded = plane.map(|plane| plane.unload());
        let _ = fs::remove_dir_all(&self.options.bpffs);
        if !std::thread::panicking() {
            assert!(
                matches!(unloaded, Some(Ok(()))),
                "unload at the end of a test failed"
            );
        }
    }
}

/// A bpffs directory that no other test has.
pub fn directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/sys/fs/bpf/cwasi-test-{}-{number}", std::process::id()))
}

/// An address as the maps hold it.
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => Ipv6Addr::octets(&v6),
    }
}
