//! Cgroups whose memory is limited.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cwasi_client::cgroup::{self, Leaf};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support_agent::leaves;

/// Ends the test, visibly, where cgroups have no limits.
#[macro_export]
macro_rules! needs_limits {
    () => {
        if let Some(reason) = $crate::support_machine::limited::Limits::missing() {
            return $crate::support::probe::skipped(&reason);
        }
    };
}

/// Lets cgroups of functions have limits, as long as it lives.
pub struct Limits {
    // The parent of functions' cgroups goes with its last child.
    leaf: Leaf,
}

impl Limits {
    /// Why there are no limits here, if there are none.
    pub fn missing() -> Option<String> {
        let root = cgroup::unified_root().expect("cgroup v2");
        let controllers = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
        let memory = controllers.split_whitespace().any(|name| name == "memory");
        (!memory).then(|| "cgroup v2 has no memory controller".to_owned())
    }

    /// Turns them on.
    pub fn new() -> Self {
        let leaf = Leaf::create("limits").expect("make a cgroup");
        let parent = leaf.path().parent().expect("functions' cgroups have a parent");
        write(&parent.join("cgroup.subtree_control"), "+memory");
        Self { leaf }
    }

    /// A cgroup that has limits and is no function's.
    pub fn cgroup(&self) -> &Path {
        self.leaf.path()
    }
}

/// The cgroup of a function that `exec` started, the only one of that name.
pub fn cgroup_of(function: &str) -> PathBuf {
    let names = leaves(function);
    let [name] = names.as_slice() else {
        panic!("cgroups of {function}: {names:?}");
    };
    cgroup::unified_root()
        .expect("cgroup v2")
        .join("cwasi")
        .join(name)
}

/// Writes a file of a cgroup.
fn write(file: &Path, value: &str) {
    fs::write(file, value).unwrap_or_else(|error| panic!("write {value} to {}: {error}", file.display()));
}

/// Limits a cgroup to so many bytes more than it has.
pub fn leave(cgroup: &Path, room: u64) {
    let file = cgroup.join("memory.current");
    let current = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let current: u64 = current.trim().parse().expect("a number");
    write(&cgroup.join("memory.max"), &(current + room).to_string());
}

/// Runs a command in a cgroup, to which its memory is charged.
pub fn run(cgroup: &Path, command: &str) {
    let enter = format!("echo $$ >{} && {command}", cgroup.join("cgroup.procs").display());
    let done = Command::new("sh")
        .args(["-c", &enter])
        .stderr(Stdio::null())
        .status();
    assert!(done.expect("run sh").success(), "{command}");
}

/// Takes its memory away from a cgroup: the kernel kills what cannot do without. It may do so before this has returned, and the
/// cgroup may be gone by then.
pub fn starve(cgroup: &Path) {
    let _ = fs::write(cgroup.join("memory.max"), "64K");
}

/// How often the kernel has killed a process of the cgroup for its memory.
pub fn oom_kills(cgroup: &Path) -> u64 {
    let events = fs::read_to_string(cgroup.join("memory.events")).unwrap_or_default();
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.map_or(0, |count| count.parse().expect("a number"))
}

/// Sends a signal to every process of a function.
pub fn signal(function: &str, signal: Signal) {
    let procs = fs::read_to_string(cgroup_of(function).join("cgroup.procs")).expect("read cgroup.procs");
    for pid in procs.lines() {
        let pid = Pid::from_raw(pid.parse().expect("a pid"));
        kill(pid, signal).unwrap_or_else(|error| panic!("kill {pid}: {error}"));
    }
}
