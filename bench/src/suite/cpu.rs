//! Processor time of a run, counted three ways.
//!
//! What a process is charged with is not all that its bytes cost: the other end of a veth pair is served in a soft interrupt, and
//! the kernel program's receivers are in part fed by kernel workers. The whole machine's time has all of it, and whatever else
//! runs meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cwasi_client::cgroup::{Leaf, PARENT, unified_root};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::error::{IoContext, on};
use crate::{Error, Result, tool};

/// Moves the shell into a cgroup, then becomes the command.
const ENTER: &str = r#"echo 0 >"$0" && exec "$@""#;

/// Ticks of /proc/stat per second: of the kernel's interface, whatever its own clock.
const USER_HZ: u32 = 100;

/// What the peers' processes are charged to.
#[derive(Debug)]
pub struct Meter {
    /// A cgroup beside those of the agent's functions, for processes that are none. While it exists, so does the parent.
    leaf: Leaf,
    /// The parent of all of them, which also knows the time of those that are gone.
    parent: PathBuf,
}

/// Processor times up to a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// User and system time of all processes that were started by this one and waited for.
    pub rusage: Duration,
    /// Time of the cgroups of functions, and of the other processes of the suite.
    pub cgroup: Duration,
    /// Time in which the machine's processors were not idle, soft interrupts and kernel workers included.
    pub machine: Duration,
}

impl Meter {
    /// Makes a cgroup for the peers.
    ///
    /// # Errors
    /// No cgroup v2 hierarchy is mounted, or it cannot be written.
    pub fn new() -> Result<Self> {
        Ok(Self {
            leaf: Leaf::create("bench")?,
            parent: unified_root()?.join(PARENT),
        })
    }

    /// The command, run in this meter's cgroup. A function of the agent leaves it for its own, which counts too.
    #[must_use]
    pub fn metered(&self, command: &Command) -> Command {
        let mut entered = tool::command("sh");
        entered
            .args(["-c", ENTER])
            .arg(self.leaf.procs())
            .arg(command.get_program())
            .args(command.get_args());
        entered
    }

    /// Processor times until now.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read(&self) -> Result<Reading> {
        Ok(Reading {
            rusage: children()?,
            cgroup: usage(&self.parent)?,
            machine: machine()?,
        })
    }
}

impl Reading {
    /// What was used since an earlier reading.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            rusage: self.rusage.saturating_sub(earlier.rusage),
            cgroup: self.cgroup.saturating_sub(earlier.cgroup),
            machine: self.machine.saturating_sub(earlier.machine),
        }
    }
}

fn children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).action(|| "read processor times (getrusage)")?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or_default()))
}

/// Time of a cgroup and of those that were below it.
fn usage(cgroup: &Path) -> Result<Duration> {
    let path = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&path).action(on("read", &path))?;
    let micros = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
    micros.map(Duration::from_micros).ok_or_else(|| Error::Output {
        program: path.display().to_string(),
        detail: "no usage_usec".to_owned(),
    })
}

fn machine() -> Result<Duration> {
    let path = "/proc/stat";
    let text = fs::read_to_string(path).action(on("read", path))?;
    let ticks = busy(&text).ok_or_else(|| Error::Output {
        program: path.to_owned(),
        detail: "no processor times".to_owned(),
    })?;
    Ok(Duration::from_secs(ticks) / USER_HZ)
}

/// Ticks of user, nice, system, irq and softirq time of all processors.
fn busy(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use crate::process::Process;

    use super::*;

    #[test]
    fn idle_time_is_not_busy() {
        let stat = "cpu  100 20 30 9999 99 5 7 88 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(busy(stat), Some(162));
        assert_eq!(busy("cpu 1 2"), None);
    }

    #[test]
    fn a_command_is_charged_to_its_cgroup_and_to_its_parent() {
        let meter = match Meter::new() {
            Ok(meter) => meter,
            Err(error) => {
                eprintln!("skipped: {error}");
                return;
            }
        };
        let before = meter.read().unwrap();
        // A command that tells which cgroup it is in, after some work.
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; cat /proc/self/cgroup",
        ]);
        let process = Process::spawn(&mut meter.metered(&command), None).unwrap();
        let told = process.wait(Duration::from_secs(30)).unwrap();
        let used = meter.read().unwrap().since(before);
        let name = meter.leaf.path().file_name().unwrap().to_str().unwrap();
        assert!(told.contains(name), "{told}");
        assert!(
            used.rusage > Duration::ZERO && used.cgroup > Duration::ZERO,
            "{used:?}"
        );
    }
}
