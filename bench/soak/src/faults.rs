//! What is done to the agent, to containerd and to functions at random moments.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cwasi_bench::agent::Agent;
use cwasi_bench::error::IoContext;
use cwasi_bench::interrupt;
use cwasi_bench::process::Process;
use cwasi_client::protocol::Request;
use fastrand::Rng;
use nix::sys::signal::{Signal, kill};

use super::containerd::Containerd;
use super::results::{Tally, lock};
use crate::Result;

/// What was done to a session.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// Whether its connections end by it.
    pub(super) deadly: bool,
}

/// A fault of the agent.
#[derive(Clone, Copy, Debug)]
enum AgentFault {
    SwitchedOff,
    Stopped,
    Killed,
    Replaced,
}

/// Does faults to the agent until it is `over`; leaves it running and switched on.
pub(super) fn of_the_agent(
    agent: &Agent,
    mut random: Rng,
    tally: &Mutex<Tally>,
    over: &AtomicBool,
) -> Result<()> {
    use AgentFault::{Killed, Replaced, Stopped, SwitchedOff};
    while !over.load(Ordering::Relaxed) {
        interrupt::pause(milliseconds(&mut random, 200, 2000))?;
        let length = milliseconds(&mut random, 1, 700);
        let fault = [SwitchedOff, Stopped, Killed, Replaced][random.usize(..4)];
        let name = match fault {
            SwitchedOff => {
                agent.set_enabled(false)?;
                interrupt::pause(length)?;
                agent.set_enabled(true)?;
                "kill switch off and on"
            }
            Stopped => {
                if let Some(pid) = agent.pid() {
                    kill(pid, Signal::SIGSTOP).action(|| "stop the agent")?;
                    let paused = interrupt::pause(length);
                    kill(pid, Signal::SIGCONT).action(|| "continue the agent")?;
                    paused?;
                }
                "agent stopped and continued"
            }
            Killed => {
                agent.replace(Signal::SIGKILL, length)?;
                "agent killed and started"
            }
            Replaced => {
                agent.replace(Signal::SIGTERM, Duration::ZERO)?;
                "agent replaced"
            }
        };
        // It answers again.
        agent.call(&Request::Version)?;
        lock(tally).fault(name);
    }
    Ok(())
}

/// Does faults to containerd until it is `over`; leaves it running.
pub(super) fn of_containerd(
    containerd: &Containerd,
    mut random: Rng,
    tally: &Mutex<Tally>,
    over: &AtomicBool,
) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        interrupt::pause(milliseconds(&mut random, 500, 6000))?;
        let length = milliseconds(&mut random, 1, 1000);
        let name = match random.u8(..3) {
            0 => {
                containerd.hold(length)?;
                "containerd stopped and continued"
            }
            1 => {
                containerd.replace(Signal::SIGKILL, length)?;
                "containerd killed and started"
            }
            _ => {
                containerd.replace(Signal::SIGTERM, Duration::ZERO)?;
                "containerd replaced"
            }
        };
        lock(tally).fault(name);
    }
    Ok(())
}

/// A fault of functions.
#[derive(Clone, Copy, Debug)]
pub(super) enum FunctionFault {
    /// SIGSTOP and SIGCONT: a reader that does not read, or a writer that does not write.
    Stopped,
    /// SIGKILL of a launcher and all that it started.
    Killed,
    /// SIGKILL of a launcher alone.
    Orphaned,
}

impl FunctionFault {
    /// Most of them leave the connection alone: bytes are compared when a stream is whole.
    pub(super) fn draw(random: &mut Rng) -> Self {
        match random.u8(..8) {
            0 => Self::Killed,
            1 => Self::Orphaned,
            _ => Self::Stopped,
        }
    }

    pub(super) const fn fault(self) -> Fault {
        let (name, deadly) = match self {
            Self::Stopped => ("function stopped and continued", false),
            Self::Killed => ("function killed", true),
            Self::Orphaned => ("launcher killed", true),
        };
        Fault { name, deadly }
    }

    pub(super) fn hit(self, process: &Process, random: &mut Rng) -> Result<()> {
        match self {
            Self::Stopped => {
                process.signal_group(Signal::SIGSTOP)?;
                let paused = interrupt::pause(milliseconds(random, 1, 300));
                process.signal_group(Signal::SIGCONT)?;
                paused?;
            }
            Self::Killed => process.signal_group(Signal::SIGKILL)?,
            Self::Orphaned => process.signal(Signal::SIGKILL)?,
        }
        Ok(())
    }
}

/// A while between two numbers of milliseconds.
pub(super) fn milliseconds(random: &mut Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(random.u64(least..=most))
}
