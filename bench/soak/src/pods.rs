//! A stream between two containers, of two pods or of one whose functions share a process, and what befalls them.

use std::time::{Duration, Instant};

use cwasi_bench::interrupt;
use cwasi_testnode::cri::State;
use cwasi_testnode::faults::signal;
use cwasi_testnode::functions::is_alive;
use cwasi_testnode::{Container, ContainerSpec, Error as NodeError, Pod, PodSpec};
use fastrand::Rng;
use nix::sys::signal::Signal;

use super::containerd::Containerd;
use super::faults::{Fault, milliseconds};
use super::session::{AFTER_FAILURE, END, Outcome, POLL, Session};
use crate::Result;

/// Makes the functions of a pod share a process.
const EMBED: &str = "cwasi.dev/embed";

/// Memory of a container that may run out of it, in bytes.
const MEMORY: i64 = 128 << 20;

/// What CRI tells where containerd was away at the end of a container, and did not learn its code.
const UNKNOWN: i32 = 255;

/// Where the sink listens.
const PORT: u16 = 7000;

/// A stream between containers.
pub(super) struct Stream<'n> {
    containerd: &'n Containerd,
    /// The sink's first; one when they share it.
    pods: Vec<Pod<'n>>,
    sink: Container<'n>,
    source: Container<'n>,
    /// Their processes, which are looked at without containerd.
    pids: [i32; 2],
    bytes: u64,
    /// How often containerd was away before.
    faults: u64,
}

/// Why there is no stream.
pub(super) enum NotBegun {
    /// containerd was away.
    Away,
    /// Another reason, which is none.
    Refused(String),
}

/// What befalls a stream.
#[derive(Clone, Copy)]
enum PodFault {
    /// SIGSTOP and SIGCONT of a container's process.
    Stopped,
    /// The same of a shim.
    ShimStopped,
    /// SIGKILL of a container's process.
    Killed,
    /// SIGKILL of a shim alone.
    ShimKilled,
    /// The memory of a container runs out, and the kernel kills for it.
    OutOfMemory,
    /// Its pod is deleted, without a grace period.
    Deleted,
}

impl PodFault {
    /// Most of them leave the connection alone: bytes are compared when a stream is whole.
    fn draw(random: &mut Rng) -> Self {
        match random.u8(..20) {
            0 => Self::Killed,
            1 => Self::ShimKilled,
            2 => Self::OutOfMemory,
            3 => Self::Deleted,
            4..11 => Self::ShimStopped,
            _ => Self::Stopped,
        }
    }

    const fn fault(self) -> Fault {
        let (name, deadly) = match self {
            Self::Stopped => ("container stopped and continued", false),
            Self::ShimStopped => ("shim stopped and continued", false),
            Self::Killed => ("container killed", true),
            Self::ShimKilled => ("shim killed", true),
            Self::OutOfMemory => ("container killed for its memory", true),
            Self::Deleted => ("pod deleted", true),
        };
        Fault { name, deadly }
    }
}

impl<'n> Stream<'n> {
    /// Begins a stream of so many bytes. What was made of one that does not begin is removed.
    pub(super) fn begin(
        containerd: &'n Containerd,
        embedded: bool,
        size: u64,
        bytes: u64,
    ) -> Result<std::result::Result<Self, NotBegun>> {
        let faults = containerd.faults();
        let mut pods = Vec::new();
        match Self::make(containerd, &mut pods, embedded, size, bytes) {
            Ok((sink, source)) => {
                let pids = containerd.insist(|_| Ok([pid(&sink)?, pid(&source)?]))?;
                Ok(Ok(Self {
                    containerd,
                    pods,
                    sink,
                    source,
                    pids,
                    bytes,
                    faults,
                }))
            }
            Err(error) => {
                for pod in pods {
                    containerd.remove(pod.id())?;
                }
                Ok(Err(if containerd.faults() == faults {
                    NotBegun::Refused(error.to_string())
                } else {
                    NotBegun::Away
                }))
            }
        }
    }

    fn make(
        containerd: &'n Containerd,
        pods: &mut Vec<Pod<'n>>,
        embedded: bool,
        size: u64,
        bytes: u64,
    ) -> std::result::Result<(Container<'n>, Container<'n>), NodeError> {
        let spec = |name: &str| {
            let spec = PodSpec::new(name);
            if embedded {
                spec.annotation(EMBED, "true")
            } else {
                spec
            }
        };
        for _ in 0..if embedded { 1 } else { 2 } {
            pods.push(containerd.pod(spec)?);
        }
        let [server, client] = [&pods[0], &pods[pods.len() - 1]];
        let run = |pod: &Pod<'n>, name: &str, args: &[&str]| {
            pod.run(
                &ContainerSpec::new(name, containerd.image())
                    .memory(MEMORY)
                    .args(args),
            )
        };
        let listen = format!("0.0.0.0:{PORT}");
        let sink = run(
            server,
            "sink",
            &["sink", &listen, "--connections", "1", "--verify"],
        )?;
        let address = format!("{}:{PORT}", server.ip()?);
        let (size, bytes) = (size.to_string(), bytes.to_string());
        let call = ["source", &address, "--size", &size, "--bytes", &bytes];
        // It waits for a sink that is late.
        Ok((sink, run(client, "source", &call)?))
    }

    fn running(&self) -> usize {
        self.pids.into_iter().filter(|pid| is_alive(*pid)).count()
    }

    /// The exit codes of both, the source's first.
    fn codes(&self) -> std::result::Result<[i32; 2], NodeError> {
        let code = |container: &Container<'_>| match container.state()? {
            State::Exited { code, .. } => Ok(code),
            // Its process has ended, and containerd will hear of it.
            state => Err(NodeError::Timeout {
                what: format!("the end of {}, which is {state:?}", container.id()),
                after: Duration::ZERO,
            }),
        };
        Ok([code(&self.source)?, code(&self.sink)?])
    }

    fn remove(self) -> Result<()> {
        for pod in self.pods {
            self.containerd.remove(pod.id())?;
        }
        Ok(())
    }
}

/// The process of a container, 0 for one that has ended.
fn pid(container: &Container<'_>) -> std::result::Result<i32, NodeError> {
    match container.pid() {
        Err(NodeError::Output { .. }) => Ok(0),
        pid => pid,
    }
}

impl Session for Stream<'_> {
    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.running() < self.pids.len())
    }

    fn hurt(&mut self, random: &mut Rng) -> Result<Fault> {
        let first = random.bool();
        let (container, pid) = if first {
            (&self.sink, self.pids[0])
        } else {
            (&self.source, self.pids[1])
        };
        let pod = &self.pods[if first { 0 } else { self.pods.len() - 1 }];
        let shim = self.containerd.node().shim(pod.id());
        let hold = |pid: i32, random: &mut Rng| -> Result<()> {
            signal(pid, Signal::SIGSTOP)?;
            let paused = interrupt::pause(milliseconds(random, 1, 300));
            signal(pid, Signal::SIGCONT)?;
            Ok(paused?)
        };
        let mut fault = PodFault::draw(random);
        if matches!(fault, PodFault::OutOfMemory) && self.pods.len() == 1 {
            // Its memory is that of a process which is not the container's.
            fault = PodFault::Killed;
        }
        match (fault, shim) {
            (PodFault::Stopped, _) => hold(pid, random)?,
            (PodFault::ShimStopped, Some(shim)) => hold(shim, random)?,
            (PodFault::Killed, _) => signal(pid, Signal::SIGKILL)?,
            (PodFault::ShimKilled, Some(shim)) => signal(shim, Signal::SIGKILL)?,
            // One that has just ended by itself has no limit any more.
            (PodFault::OutOfMemory, _) => match container.exhaust_memory() {
                Err(error) if is_alive(pid) => return Err(error.into()),
                _ => {}
            },
            (PodFault::Deleted, _) => self.containerd.remove(pod.id())?,
            // A shim ends with its pod only.
            (PodFault::ShimStopped | PodFault::ShimKilled, None) => {
                return Err(NodeError::Missing {
                    what: format!("the shim of the pod {}", pod.id()),
                    remedy: "see containerd's log".to_owned(),
                }
                .into());
            }
        }
        Ok(fault.fault())
    }

    fn give_up(&mut self) {
        for pid in self.pids.into_iter().filter(|pid| is_alive(*pid)) {
            // What has ended meanwhile is what is wanted.
            let _ = signal(pid, Signal::SIGKILL);
        }
    }

    fn end(mut self: Box<Self>, hurt: bool) -> Result<Outcome> {
        let begun = Instant::now();
        let patience = if hurt { AFTER_FAILURE } else { END };
        while self.running() > 0 {
            if begun.elapsed() > patience {
                self.give_up();
            }
            interrupt::pause(POLL)?;
        }
        // A container that was deleted has no code.
        let codes = if hurt {
            self.codes().ok()
        } else {
            Some(self.containerd.insist(|_| self.codes())?)
        };
        let outcome = if codes == Some([0, 0]) {
            // The source knows whether everything arrived.
            Outcome::Right(self.bytes)
        } else {
            let (source, sink) = (self.source.stderr()?, self.sink.stderr()?);
            let is_unknown = codes.is_some_and(|codes| codes.iter().all(|code| [0, UNKNOWN].contains(code)));
            let was_away = self.containerd.faults() != self.faults;
            if is_unknown && was_away && source.is_empty() && !sink.contains("failed") {
                Outcome::Unknown
            } else {
                let said = [source, sink].join(" | ");
                Outcome::Broken {
                    wrong: said.contains("wrong"),
                    why: format!("the source and the sink ended with {codes:?}: {said}"),
                }
            }
        };
        self.remove()?;
        Ok(outcome)
    }
}
