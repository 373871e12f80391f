//! Functions and containers in one containerd, compared: how soon they work, what they hold, how many a node gets through.
//!
//! All are made over the CRI, as a kubelet does it: `ctr` would add the start of a client program and its copying of output to
//! every figure. Figures are ratios of medians of one run. Each round runs every peer once, in an order that rotates from
//! round to round; a first round is not counted.
//!
//! The shims and the agent must be built beside the program:
//! `cargo build --release -p cwasi-shim --features cwasi-shim/containerd -p cwasi-stock-shim -p cwasi-agent -p cwasi-bench-start`.
//!
//! - [`args`]: the command line of `cwasi-bench-start`.
//! - [`peer`]: what is compared: functions of this shim, with and without compiled code, of a stock shim, and runc's containers.
//! - [`stage`]: the node on which all of them run.
//! - [`group`]: the kinds of figures.
//! - [`start`]: from a call to the first output, or to the first answered request.
//! - [`memory`]: proportional set sizes (PSS) of idle functions.
//! - [`rate`]: functions started and finished in a second.
//! - [`guests`]: two functions that talk to each other.
//! - [`results`]: medians, ratios, the table and JSON.

pub mod args;
mod error;
pub mod group;
pub mod guests;
pub mod memory;
pub mod peer;
pub mod rate;
pub mod results;
pub mod stage;
pub mod start;

pub use args::Args;
pub use error::{Error, Result};
pub use group::Group;
pub use peer::Peer;
pub use stage::Stage;
