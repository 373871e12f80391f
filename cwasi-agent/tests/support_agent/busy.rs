//! Two functions with streams between them, for tests of what happens meanwhile.

use std::sync::Arc;

use super::agent::Agent;
use super::function::{Caller, Talker, echo};
use crate::support;
use crate::support::netns::{NetNs, veth};

/// Where the echo listens.
pub const SERVER: &str = "10.1.0.11:7";
/// Connections that stream during a test.
pub const STREAMS: usize = 4;
/// Round trips after which a connection has gained more than its enrolment cost.
pub const ROUNDS: usize = 50;

/// Two functions, started by `exec` in pods, with streams between them.
pub struct Busy {
    pub caller: Caller,
    pub echo: Talker,
    pub netns: [Arc<NetNs>; 2],
}

impl Busy {
    pub fn start(agent: &Agent) -> Self {
        let netns = veth();
        let echo = echo(agent, "echo", &netns[1], SERVER);
        let mut caller = Caller::start(agent, "caller", &netns[0], SERVER);
        caller.stream(STREAMS);
        Self { caller, echo, netns }
    }

    /// Waits until the kernel moves bytes in both directions, and the streams go on.
    pub fn is_redirected(&mut self, agent: &Agent) {
        for function in ["caller", "echo"] {
            let before = agent.redirected(function);
            support::eventually("bytes are redirected", || agent.redirected(function) > before);
        }
        self.caller.goes_on();
    }

    /// A connection that is made now is enrolled and redirected.
    pub fn new_connection_is_redirected(&mut self, agent: &Agent) {
        let (address, bytes) = self.caller.talk(ROUNDS);
        agent.has_moved(address, bytes);
    }

    /// The last byte of every stream has come back, and both functions have ended. Gives their networks back.
    #[must_use = "closed sockets may still have to tell each other, and stay as long as they cannot"]
    pub fn end(self) -> [Arc<NetNs>; 2] {
        self.caller.finish();
        drop(self.echo);
        self.netns
    }
}
