//! What the fuzz targets share: an agent on a node made of memory, and what must hold of it whatever it was told.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cwasi_agent::agent::{Agent, Kernel, Process, Settings, Store};
use cwasi_agent::api::{Shared, lock};
use cwasi_agent::metrics;
use cwasi_agent::testing::{Fake, exposition};

/// Cgroups of the node: more would only make the way to a registration longer.
pub const CGROUPS: u64 = 4;

/// Who asks.
pub const CALLER: Process = Process {
    pid: 100,
    started: Some(5),
};

/// The directory of a cgroup of the node.
#[must_use]
pub fn cgroup(number: u64) -> PathBuf {
    PathBuf::from(format!("/cg/cwasi/{}", number % CGROUPS))
}

/// A node with cgroups and a data plane.
#[must_use]
pub fn node() -> Fake {
    let fake = Fake::default();
    let cgroups = (0..CGROUPS).map(|number| (cgroup(number), (100 + number, 1)));
    fake.world().cgroups.extend(cgroups);
    fake.world().processes.insert(CALLER.pid, 5);
    fake
}

/// An agent of the node with this state directory.
///
/// # Panics
/// A constant is wrong.
#[must_use]
pub fn agent(node: &Fake, state: &Path) -> Shared {
    let kernel = Kernel {
        plane: Some(node.plane()),
        probes: Vec::new(),
        degraded: Vec::new(),
        held_off: false,
    };
    let settings = Settings {
        bpffs: "/no/bpffs".into(),
        budget: 4 << 20,
        local: vec!["10.1.0.0/24".parse().expect("a prefix")],
        service: Vec::new(),
        metrics_addr: None,
    };
    let agent = Agent::new(kernel, settings, node.host(), Store::new(state));
    Arc::new(Mutex::new(agent))
}

/// What must hold of an agent: no more functions than cgroups, each of them in the plane, and every view can be made.
///
/// # Panics
/// It does not hold.
pub fn check(agent: &Shared, node: &Fake) {
    let mut agent = lock(agent);
    let functions = agent.functions();
    assert!(functions.len() as u64 <= CGROUPS, "{functions:?}");
    assert!(node.world().attached.len() <= functions.len());
    let text = metrics::render(&agent.snapshot()).expect("metrics can be rendered");
    exposition::parse(&text).unwrap_or_else(|wrong| panic!("no exposition of Prometheus: {wrong}"));
    serde_json::to_vec(&agent.status()).expect("the status can be written");
    serde_json::to_vec(&agent.flows()).expect("flows can be written");
    serde_json::to_vec(&agent.overview()).expect("what the status page shows can be written");
}
