//! The repository's own tasks, run as `cargo xtask <command>`.
//!
//! One module per command under [`commands`]; the other modules are what the commands share: where things
//! live ([`paths`]), how programs are run ([`process`]), how the pinned build tools are had ([`toolchain`],
//! [`rust_src`], [`bpf_linker`], [`cargo_tool`], [`wasi`], [`debian`]), how the Debian package is made ([`cargo_deb`]), what a
//! machine must have installed ([`apt`]), container images ([`images`]), the tools of Kubernetes ([`kubernetes`], [`pypi`]), other
//! kernels ([`kernels`]) and what the pages of the documentation say of each other ([`links`]).

pub mod apt;
pub mod bpf_linker;
pub mod cargo_deb;
pub mod cargo_tool;
pub mod commands;
pub mod committed;
pub mod debian;
pub mod digest;
pub mod dist;
pub mod ebpf;
pub mod error;
pub mod features;
pub mod hosts;
pub mod images;
pub mod kernels;
pub mod kubernetes;
pub mod leftovers;
pub mod links;
pub mod markdown;
pub mod paths;
pub mod process;
pub mod progress;
pub mod pypi;
pub mod rust_src;
pub mod rustc_wrapper;
pub mod toolchain;
pub mod wasi;

pub use commands::Cli;
pub use error::{Error, Result};
