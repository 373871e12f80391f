//! Native peers of the guests in `bench/functions`, for figures without a Wasm runtime in them.
//!
//! Each client prints one JSON object on stdout. Servers serve until they are killed, or until `--connections` are over.

mod args;
mod connect;
mod echo;
mod file;
mod net;
mod pattern;
mod ping;
mod stream;

pub use args::Args;
pub use connect::Rate;
pub use file::Fetched;
pub use ping::Ping;
pub use stream::Streamed;
