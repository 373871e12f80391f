//! The repository's own tasks, run as `cargo xtask <command>`.
//!
//! One module per command under [`commands`]; the other modules are what the commands share: where things
//! live ([`paths`]), how programs are run ([`process`]) and how the pinned build tools are had
//! ([`toolchain`], [`rust_src`], [`bpf_linker`], [`debian`]).

pub mod bpf_linker;
pub mod commands;
pub mod committed;
pub mod debian;
pub mod error;
pub mod paths;
pub mod process;
pub mod progress;
pub mod rust_src;
pub mod toolchain;

pub use commands::Cli;
pub use error::{Error, Result};
