//! The repository's own tasks, run as `cargo xtask <command>`.
//!
//! One module per command under [`commands`]; the other modules are what the commands share: where things
//! live ([`paths`]), how programs are run ([`process`]), how the pinned build tools are had ([`toolchain`],
//! [`rust_src`], [`bpf_linker`], [`wasi`], [`debian`]), what a machine must have installed ([`apt`]) and container images
//! ([`images`]).

pub mod apt;
pub mod bpf_linker;
pub mod commands;
pub mod committed;
pub mod debian;
pub mod digest;
pub mod ebpf;
pub mod error;
pub mod features;
pub mod hosts;
pub mod images;
pub mod leftovers;
pub mod paths;
pub mod process;
pub mod progress;
pub mod rust_src;
pub mod rustc_wrapper;
pub mod toolchain;
pub mod wasi;

pub use commands::Cli;
pub use error::{Error, Result};
