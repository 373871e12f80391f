//! Puts the shim `containerd-shim-cwasi-v1` and containerd's runtime handler on a node, and takes them away again without a trace.
//!
//! What is to be done is written down beside containerd's configuration ([`journal`]) before it is done, and every file appears
//! or is replaced at once ([`host`]): whenever the installer is killed, another run goes on from there, in either direction.
//!
//! - [`cli`]: the commands.
//! - [`node`]: where everything is on the node, and one run at a time.
//! - [`install`], [`uninstall`], [`status`]: what they do.
//! - [`apply`]: one change of the configuration: written, looked at by containerd, loaded; or taken back.
//! - [`config`]: the handler in the text of a configuration file.
//! - [`target`]: which file gets it.
//! - [`containerd`]: the node's containerd: what it makes of its configuration, and its restart.
//! - [`host`]: the node's files and programs, seen through the directory where its root is mounted.

pub mod apply;
pub mod cli;
pub mod config;
pub mod containerd;
mod error;
pub mod host;
pub mod install;
pub mod journal;
pub mod node;
mod process;
pub mod status;
pub mod target;
pub mod uninstall;

pub use error::{Error, Result};

/// The program that containerd starts for a pod.
pub const SHIM: &str = "containerd-shim-cwasi-v1";
