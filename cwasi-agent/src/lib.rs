//! The node agent of cwasi.
//!
//! Data flows one way: kernel events → agent state → metrics and API.

pub mod kernel;
pub mod plane;
