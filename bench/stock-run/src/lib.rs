//! What a node has without cwasi: a component of WASI 0.2 on wasmtime-wasi's own host, with wasmtime's defaults. It exists to
//! be measured beside `cwasi-run`, and nothing in it is tuned, up or down.
//!
//! | Setting | As |
//! |---|---|
//! | engine | `Config::new()`: Cranelift, speed, guard pages, no epochs, no fuel, no pool of instances |
//! | host | `wasmtime_wasi::p2::add_to_linker_async`; stdio, TCP, UDP and name lookup allowed, no directories |
//! | runtime | tokio's of many threads with I/O and time, the guest on the main thread: what `wasmtime run` and wasmtime-wasi's own `in_tokio` have |
//! | compiling | once for each component and engine when there is a cache directory, as the shims and `wasmtime compile` have it |
//!
//! wasmtime is built with the features of this workspace. `component-model-async` is not among them, which `wasmtime run` has: with
//! it each call between guest and host costs more, so that this is the faster of the two.

mod cache;
mod cli;
mod error;
mod guest;

pub use cache::Cache;
pub use cli::main;
pub use error::Error;
pub use guest::{engine, run};
