//! What the eBPF programs and user space must agree on.
//!
//! - [`maps`]: keys and values of the BPF maps.
//! - [`offsets`]: where the running kernel keeps the fields that the programs read.
//! - [`redirect`]: the state machine of one direction of a connection, a pure function.
//! - [`memory`]: whether there is memory for redirected bytes, pure functions.
//! - [`reader`]: whether a receiver may be redirected to, by how it waits, a pure function.
//! - [`learn`]: which destinations are worth enrolling, a pure function.
//! - [`reason`]: why a connection, or a message, goes by TCP.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod learn;
pub mod maps;
pub mod memory;
pub mod offsets;
pub mod reader;
pub mod reason;
pub mod redirect;
