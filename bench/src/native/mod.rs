//! Native peers of the guests in `bench/functions`, for figures without a Wasm runtime in them.
//!
//! `rr` and `bulk` run the very code of the guests of these names ([`cwasi_peer`]). Each client prints one JSON object on stdout.
//! Servers say where they listen on stderr, and serve until they are killed, or until `--connections` are over. An address is
//! `HOST:PORT`, or `unix:PATH` for AF_UNIX.

mod args;
mod connect;
mod echo;
mod file;
mod net;
mod ping;
mod rr;

pub use args::Args;
pub use connect::Rate;
pub use file::Fetched;
pub use ping::Ping;
