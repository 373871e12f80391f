//! What a program on the node needs to make a process a function of the data plane.
//!
//! - [`protocol`]: the messages of the agent's Unix socket.
//! - [`client`]: a blocking client of that socket.
//! - [`announce`]: what a launcher leaves for an agent that comes later.
//! - [`cgroup`]: the cgroup v2 leaf by which the kernel recognises a function.
//! - [`process_report`]: what the agent is told of connections that stay inside of a process.
//! - [`netns`]: the network namespace in which a function's sockets are opened.
//! - [`spec`]: what may be said of a function.

pub mod announce;
pub mod cgroup;
pub mod client;
pub mod netns;
pub mod process_report;
pub mod protocol;
pub mod spec;

/// Where the agent listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/cwasi/agent.sock";
