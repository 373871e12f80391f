//! What the functions share: command line, connections, framing, checksum, statistics.
//!
//! The functions are plain `std::net` programs. The same sources run natively (`cargo run --bin echo -- …`) and as
//! wasm32-wasip2 components (`cargo xtask build-functions`). Components have no threads, so every server takes its
//! connections one after the other.

pub mod args;
pub mod checksum;
pub mod error;
pub mod frame;
pub mod net;
pub mod pattern;
pub mod report;
pub mod stats;
pub mod transfer;

pub use error::{Error, Result};
