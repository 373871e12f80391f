//! What guests and native programs share where they are compared: the same code runs as a component and natively, so that a
//! difference between two figures is one of the hosts and the paths.
//!
//! - [`socket`]: non-blocking sockets with waits in poll(2), TCP everywhere and AF_UNIX where there is one.
//! - [`message`], [`server`], [`client`]: requests of one size and answers of another, on one or many connections, to one or
//!   many servers.
//! - [`bulk`]: bytes in one direction, as fast as they go.
//! - [`cycle`], [`pattern`], [`stats`]: bytes to send, and the distribution of times.

pub mod bulk;
pub mod client;
pub mod cycle;
mod error;
pub mod message;
pub mod pattern;
pub mod server;
pub mod socket;
pub mod stats;

pub use error::{Error, Result};
