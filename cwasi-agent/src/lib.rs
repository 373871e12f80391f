//! The node agent of cwasi.
//!
//! Data flows one way: kernel events → agent state → metrics and API.
//!
//! - [`kernel`]: the data plane of the running kernel, behind the trait of [`plane`].
//! - [`agent`]: the state: functions, prefixes of this node, counters, what is wrong.
//! - [`api`]: the Unix socket. [`announced`]: the files of launchers that found no agent. [`metrics`] and [`http`]: Prometheus.
//!   [`page`]: the status page.
//! - [`run`]: the agent's process. [`exec`]: a command as a function. [`probe`]: what the kernel offers.
//! - [`capabilities`]: what the agent may; [`prepare`]: directories for an agent that is not root.
//! - [`cli`]: the commands. [`testing`]: a plane and a node made of memory.

pub mod agent;
pub mod announced;
pub mod api;
pub mod capabilities;
pub mod cli;
pub mod exec;
pub mod http;
pub mod kernel;
pub mod metrics;
pub mod page;
pub mod plane;
pub mod prepare;
pub mod probe;
pub mod run;
pub mod testing;
