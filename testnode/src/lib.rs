//! A node of a cluster on the machine at hand, for tests and measurements: containerd with its CRI, pods on a CNI bridge, and
//! an agent of its own, side by side with others and without a registry.
//!
//! - [`node`]: the node, and what must not be left of it.
//! - [`cri`]: pods and containers as a kubelet makes them.
//! - [`ctr`]: containers as containerd's own client makes them.
//! - [`agent`]: the node's agent, started, killed and asked.
//! - [`containerd`]: the versions of containerd that a node can have, and the runtimes that it knows.
//! - [`faults`]: signals to its parts, and a container without memory.
//! - [`functions`]: the guests of bench/functions on a node, and modules that are wrong.
//! - [`images`]: container images, made here (`cargo xtask images` writes them to files).
//! - [`native`]: static native programs, for the pause image and as peers of Wasm functions.
//! - [`machine`]: a machine of its own that systemd boots, to install packages and services on.
//! - [`namespaces`]: the network and mount namespace in which all of a node runs.
//! - [`testing`], [`wait`]: skipping visibly, and waiting with an end.
//!
//! Needs root, cgroup v2 (pure or hybrid), Debian's packages containerd, runc, containernetworking-plugins and iproute2, and a
//! C compiler with its static library.

pub mod agent;
mod cgroups;
pub mod containerd;
pub mod cri;
pub mod ctr;
mod error;
pub mod faults;
pub mod functions;
pub mod machine;
pub mod namespaces;
pub mod native;
pub mod node;
mod reap;
mod snapshot;
pub mod testing;
pub mod wait;

use std::env;
use std::path::PathBuf;

pub use containerd::{Containerd, Runtime};
pub use cri::{Container, ContainerSpec, Cri, Pod, PodSpec};
pub use error::{Error, Result};
pub use node::Node;
pub use xtask::images;

use crate::error::IoContext;

/// A program that cargo builds beside this one; `package` are the words after `cargo build -p` that build it.
///
/// # Errors
/// [`Error::Missing`] when it is not built.
pub fn built(program: &str, package: &str) -> Result<PathBuf> {
    let here = env::current_exe().action(|| "find this program's own file")?;
    // Tests are one directory deeper.
    let directories = here.ancestors().skip(1).take(2);
    let mut candidates = directories.map(|directory| directory.join(program));
    candidates
        .find(|path| path.is_file())
        .ok_or_else(|| Error::Missing {
            what: format!("{program} is not built"),
            remedy: format!("build it: cargo build -p {package}"),
        })
}
