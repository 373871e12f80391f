//! The same workload between two pods three ways, interleaved: plain TCP, enrolled, and enrolled with acceleration off.
//!
//! Figures are ratios of medians of one run. Each round runs every mode once, in an order that rotates from round to
//! round, on fresh processes and another port, and on the same processors in every mode. A first round, which verifies every
//! byte where the workload can, is not counted. With known destinations each client runs twice, and the first is not counted.

mod args;
mod http;
mod mode;
mod native;
pub(crate) mod redis;
mod results;
mod run;
mod settle;
mod workload;

pub use args::{Args, Group};
pub use mode::{Cpus, Destination, Mode};
pub use results::{Compared, Report, Skipped};
pub use workload::{Measure, Unit, Workload};
