//! Two pods of one node on a private bridge, and programs in them whose speed is compared.
//!
//! - [`topology`]: network namespaces, veth pairs, a bridge and Service addresses, all removed again.
//! - [`agent`]: a private agent beside any that the node already runs.
//! - [`process`], [`interrupt`], [`tool`]: programs that are started, watched and ended.
//! - [`native`]: native peers of the Wasm guests in `bench/functions` (`cwasi-native`); native-c has those in C (`cwasi-native-c`).
//! - [`stats`], [`report`]: medians, paired ratios, tables and JSON.
//! - [`compare`]: the same workload plain, enrolled and enrolled with acceleration off, interleaved (`cwasi-bench ab`).
//! - [`suite`]: functions and what they are compared with, guest to guest, side by side (`cargo xtask bench`).
//! - [`demo`]: Wasm functions in pods, in the kernel and by TCP (`cargo xtask demo`).

pub mod agent;
pub mod compare;
pub mod demo;
pub mod error;
pub mod interrupt;
pub mod native;
pub mod process;
pub mod report;
pub mod stats;
pub mod suite;
pub mod tool;
pub mod topology;

pub use error::{Error, Result};
