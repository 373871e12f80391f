//! `containerd-shim-cwasi-v1`: functions as containers and as pods.
//!
//! A containerd shim serves one pod (or one container of `ctr run`). Its processes: the shim, which talks to containerd and to
//! the node's agent; a zygote, forked before the shim has threads; and of each container one process, forked from a
//! zygote without an exec, in the container's namespaces, with the container's rights only.
//!
//! - [`bundle`]: what containerd says of a container: the runtime specification, its annotations, the pod.
//! - [`image`]: Wasm layers out of containerd's content store.
//! - [`workload`]: whether a container is a guest or a native program, and where its bytes are.
//! - [`compile`]: machine code for a guest, from the cache or made in a process of its own.
//! - [`container`]: a container as libcontainer makes it.
//! - [`executor`]: the container's process: it runs the guest, or executes the native program.
//! - [`leaf`]: the cgroup v2 leaf of a guest, on pure and on hybrid hosts.
//! - [`function`]: a guest as a function of the node's agent.
//! - [`embed`]: pods whose guests run in one process.
//! - [`task`]: the life of a container; `tasks`: those of a shim.
//! - `pidfd` and `oom`: how its process ended.
//! - `service`: what containerd asks of the containers of a shim; `events` and `logger`: what it is told of them.
//! - [`trace`]: how long the stages of a start took, for a collector of traces.
//! - [`remains`]: what a shim that was killed left.
//! - [`main`]: the command line.

pub mod bundle;
pub mod compile;
pub mod container;
pub mod embed;
pub mod error;
mod events;
pub mod executor;
pub mod function;
#[cfg(test)]
mod hostile;
pub mod image;
pub mod leaf;
mod logger;
mod main;
mod oom;
mod pidfd;
pub mod remains;
mod service;
pub mod task;
mod tasks;
pub mod trace;
pub mod workload;

pub use error::ShimError;
pub use main::main;

/// Name of the runtime, as in `io.containerd.cwasi.v1`.
pub const RUNTIME: &str = "cwasi";
