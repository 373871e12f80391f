//! What befalls the parts of a node: signals to containerd and to shims, and a container without memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cri::Container;
use crate::error::{IoContext, on};
use crate::node::Node;
use crate::{Error, Result, wait};

/// The program whose processes shims are.
const SHIM: &str = "containerd-shim-cwasi-v1";

/// Files of a cgroup with the memory limit in bytes: of the v2 hierarchy, and of v1's.
const LIMITS: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];

/// Where a node has a file system in memory of its own.
const IN_MEMORY: &str = "/run";

/// What the limit leaves to who fills the memory.
const REST: u64 = 256 << 10;

/// Sends a signal to a process; one that is gone is no error.
///
/// # Errors
/// The caller may not.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    // To the kernel others are process groups.
    if pid <= 0 {
        return Ok(());
    }
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno).action(|| format!("send {signal} to process {pid}")),
    }
}

impl Node {
    /// Sends a signal to containerd alone, such as SIGSTOP and SIGCONT; [`Node::stop_containerd`] ends it.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal_containerd(&self, what: Signal) -> Result<()> {
        let pid = self.containerd_pid().ok_or_else(|| Error::Missing {
            what: "containerd does not run".to_owned(),
            remedy: "start it".to_owned(),
        })?;
        signal(pid, what)
    }

    /// The shims of this node that serve pods: the process of each that containerd talks to, without what it has started.
    #[must_use]
    pub fn shims(&self) -> Vec<i32> {
        self.shims_like(&[])
    }

    /// The shim of a pod, `None` when it has none.
    #[must_use]
    pub fn shim(&self, pod: &str) -> Option<i32> {
        self.shims_like(&[pod]).first().copied()
    }

    fn shims_like(&self, words: &[&str]) -> Vec<i32> {
        // Those that containerd runs for an answer are over in a moment.
        let serves = |line: &str| {
            !["start", "delete"]
                .iter()
                .any(|word| line.trim_end().ends_with(word))
        };
        let all: Vec<i32> = self
            .namespaces()
            .processes()
            .into_iter()
            .filter(|(_, line)| line.contains(SHIM) && words.iter().all(|word| line.contains(word)))
            .filter(|(_, line)| serves(line))
            .map(|(pid, _)| pid)
            .collect();
        // What a shim forks has its command line.
        let first = |pid: &&i32| parent(**pid).is_none_or(|parent| !all.contains(&parent));
        all.iter().filter(first).copied().collect()
    }
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // After the name, which is in parentheses: the state, then the parent.
    stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

impl Container<'_> {
    /// Fills what its memory limit leaves, as a file in an `emptyDir` of the medium `Memory` does, until the kernel kills
    /// the container's process for it.
    ///
    /// # Errors
    /// It has no limit, or does not run.
    pub fn exhaust_memory(&self) -> Result<()> {
        let (cgroup, limit) = self.memory_limit()?;
        let node = self.node();
        node.namespaces().run(|| {
            let file = Path::new(IN_MEMORY).join(format!("fill-{}", self.id()));
            // It moves itself, so that what it writes counts for the container; the kernel shall not choose it.
            let mut fill = Command::new("/bin/sh");
            fill.args([
                "-c",
                "echo -1000 > /proc/self/oom_score_adj; echo $$ > \"$0\" && exec head -c \"$1\" /dev/zero > \"$2\"",
            ]);
            fill.arg(cgroup.join("cgroup.procs"))
                .arg(limit.saturating_sub(REST).to_string())
                .arg(&file);
            let filled = wait::output(&mut fill);
            fs::remove_file(&file).action(on("remove", &file))?;
            filled.map(drop)
        })
    }

    /// The cgroup with its memory limit, and the limit in bytes.
    fn memory_limit(&self) -> Result<(PathBuf, u64)> {
        let found = self.cgroups().into_iter().find_map(|cgroup| {
            let limits = LIMITS.iter();
            let mut texts = limits.filter_map(|file| fs::read_to_string(cgroup.join(file)).ok());
            Some((cgroup.clone(), texts.next()?.trim().parse().ok()?))
        });
        found.ok_or_else(|| Error::Missing {
            what: format!("the container {} has no memory limit", self.id()),
            remedy: "give it one".to_owned(),
        })
    }
}
