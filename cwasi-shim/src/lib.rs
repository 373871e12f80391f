//! Runs WASI 0.2 command components as functions of cwasi.
//!
//! - [`engine`]: wasmtime, set up once for every guest, and the way from bytes to a component that can run.
//! - [`cache`]: compiled components on disk, by content digest.
//! - [`guest`]: what one guest is given, and how it ended.
//! - [`limits`]: how much memory a guest may have.
//! - [`network`]: which peers a guest may connect to.
//! - [`preopen`]: which directories a guest sees.
//! - [`enrol`]: the guest's process as a function of the node's agent.
//! - [`signals`]: an orderly end on SIGTERM, SIGINT and SIGHUP.
//! - [`exit`]: the exit codes.
//! - [`cli`]: the command line of `cwasi-run`.

pub mod cache;
pub mod cli;
pub mod engine;
pub mod enrol;
pub mod exit;
pub mod guest;
pub mod limits;
pub mod network;
pub mod preopen;
pub mod signals;
