//! What the functions share: command line, connections, framing, checksum, statistics.
//!
//! The functions are plain `std::net` programs. The same sources run natively (`cargo run --bin echo -- …`) and as
//! wasm32-wasip2 components (`cargo xtask build-functions`). Components have no threads, so every server takes its
//! connections one after the other, but `rr`'s, which waits for all of them in poll(2).

pub mod args;
pub mod checksum;
pub mod clock;
pub mod error;
pub mod frame;
pub mod http1;
pub mod net;
pub mod report;
pub mod resp;
pub mod transfer;

pub use cwasi_peer::{pattern, stats};
pub use error::{Error, Result};
