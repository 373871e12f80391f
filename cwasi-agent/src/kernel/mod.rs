//! The data plane of the running kernel.
//!
//! - [`btf`] and `layout`: where this kernel keeps the fields that the programs read.
//! - [`object`]: the eBPF object that is loaded.
//! - `bpffs`, `links`, `plane`: maps and links, pinned so that they outlive the agent: [`KernelPlane`].
//! - `fit`: whether maps that are pinned already are the right ones.
//! - [`pinned`]: the kill switch without an agent, and the end of other layouts.
//! - [`readers`]: whether this kernel tells how the reader of a socket waits.
//! - [`sockets`] and [`selftest`]: proof on private sockets that the kernel does what the data plane needs.

mod bpffs;
pub mod btf;
mod error;
mod fit;
mod layout;
mod links;
pub mod object;
pub mod pinned;
mod plane;
pub mod readers;
pub mod selftest;
pub mod sockets;
mod sys;

pub use bpffs::make_bpffs;
pub use error::PlaneError;
pub use plane::{KernelPlane, Options, USAGE_MAPS};
