//! Runs WebAssembly programs as functions of cwasi: command and HTTP components of WASI 0.2, and modules of WASI 0.1; with the feature
//! `p3`, command components of WASI 0.3.
//!
//! - [`engine`]: wasmtime, set up once for every guest, and the way from bytes to a program that can run.
//! - [`program`]: what the engine can run.
//! - [`code`]: machine code in an open file, which one process may prepare and another may run.
//! - [`cache`]: machine code on disk, by content digest.
//! - [`guest`]: what one guest is given, and how it ended.
//! - [`http`]: serving a guest that handles HTTP.
//! - [`limits`]: how much memory a guest may have.
//! - [`sockets`]: the TCP sockets of guests, over the kernel or inside the process.
//! - [`network`]: which peers a guest may connect to.
//! - [`preopen`]: which directories a guest sees.
//! - [`enrol`]: the guest's process as a function of the node's agent.
//! - [`sandbox`]: guests that run side by side on one thread.
//! - [`stdio`]: a guest's standard streams.
//! - [`signals`]: an orderly end on the signals that end a container.
//! - [`ticks`]: how guests that share a thread take turns.
//! - [`exit`]: the exit codes.
//! - [`cli`]: the command line of `cwasi-run`.
//! - `containerd` (with the feature of that name): the shim of containerd.

pub mod cache;
pub mod cli;
pub mod code;
#[cfg(feature = "containerd")]
pub mod containerd;
pub mod engine;
pub mod enrol;
pub mod exit;
pub mod guest;
pub mod http;
pub mod limits;
pub mod network;
mod outgoing;
pub mod preopen;
pub mod program;
pub mod sandbox;
pub mod signals;
pub mod sockets;
mod state;
pub mod stdio;
mod text;
pub mod ticks;
