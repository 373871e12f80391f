//! What the agent asks of the node about processes and cgroups. Tests use [`crate::testing::Fake`].

use std::fs;
use std::path::{Path, PathBuf};

use cwasi_client::cgroup::{self, CgroupError};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// The node's processes and cgroups.
pub trait Host: Send {
    /// The id of the cgroup at the directory, `None` when there is none.
    fn cgroup_id(&self, dir: &Path) -> Option<u64>;

    /// Whether a launcher of cwasi made the cgroup (`<v2 root>/cwasi/…`), and no process lives in it.
    fn is_empty_leaf(&self, dir: &Path) -> bool;

    /// Removes an empty cgroup.
    ///
    /// # Errors
    /// A process has just entered it.
    fn remove_cgroup(&self, dir: &Path) -> Result<(), CgroupError>;

    /// When the process was started, in clock ticks since boot; `None` when it is dead. With its pid that names a process
    /// for good.
    fn started(&self, pid: u32) -> Option<u64>;

    /// Names this boot of the node: cgroup ids and pids mean nothing in another.
    fn boot(&self) -> String;
}

/// The node that this process runs on.
#[derive(Clone, Debug, Default)]
pub struct Node {
    leaves: Option<PathBuf>,
}

impl Node {
    /// Looks up where the launchers of cwasi make their cgroups.
    #[must_use]
    pub fn new() -> Self {
        Self {
            leaves: cgroup::unified_root().ok().map(|root| root.join(cgroup::PARENT)),
        }
    }
}

impl Node {
    /// Removes the cgroups of launchers and self-tests that were killed before anybody else knew of them: those that are
    /// empty, and whose maker is dead. Returns their directories.
    #[must_use]
    pub fn remove_abandoned(&self) -> Vec<PathBuf> {
        let entries = self.leaves.iter().filter_map(|leaves| fs::read_dir(leaves).ok());
        let leaves = entries.flatten().flatten().map(|entry| entry.path());
        leaves
            .filter(|leaf| {
                makers(leaf).is_some_and(|makers| makers.iter().all(|pid| started(*pid).is_none()))
            })
            .filter(|leaf| self.is_empty_leaf(leaf) && self.remove_cgroup(leaf).is_ok())
            .collect()
    }
}

/// The processes that may have made a leaf, by its name: `NAME-PID`, or `NAME-PID-NUMBER`, where a name may end in a number too.
fn makers(leaf: &Path) -> Option<Vec<u32>> {
    let parts = leaf.file_name()?.to_str()?.rsplit('-').take(2);
    let pids: Vec<u32> = parts.map_while(|part| part.parse().ok()).collect();
    (!pids.is_empty()).then_some(pids)
}

impl Host for Node {
    fn cgroup_id(&self, dir: &Path) -> Option<u64> {
        // Inode numbers of other file systems name no cgroup.
        let is_cgroup = statfs(dir).ok()?.filesystem_type() == CGROUP2_SUPER_MAGIC;
        cgroup::id(dir).ok().filter(|_| is_cgroup)
    }

    fn is_empty_leaf(&self, dir: &Path) -> bool {
        let ours = self
            .leaves
            .as_deref()
            .is_some_and(|leaves| dir.parent() == Some(leaves));
        ours && cgroup::populated(dir).is_ok_and(|populated| !populated)
    }

    fn remove_cgroup(&self, dir: &Path) -> Result<(), CgroupError> {
        cgroup::remove(dir)
    }

    fn started(&self, pid: u32) -> Option<u64> {
        started(pid)
    }

    fn boot(&self) -> String {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap_or_default()
            .trim()
            .to_owned()
    }
}

/// When the process was started, in clock ticks since boot; `None` when it is dead (a zombie is).
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of /proc/PID/stat, `None` for a zombie.
fn start_time(stat: &str) -> Option<u64> {
    // The command's name is in parentheses and may hold spaces and parentheses itself.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_are_read() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(start_time(&format!("42 (a) b (c) S {rest}")), Some(777));
        assert_eq!(start_time(&format!("42 (a) Z {rest}")), None);
        assert_eq!(start_time("42 (a"), None);
        assert_eq!(started(std::process::id()), started(std::process::id()));
        assert!(started(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(started(u32::MAX), None);
    }

    #[test]
    fn makers_are_told_by_the_name() {
        let makers = |name: &str| makers(&Path::new("/cwasi").join(name));
        assert_eq!(makers("selftest-77"), Some(vec![77]));
        assert_eq!(makers("a-b-77-2"), Some(vec![2, 77]));
        assert_eq!(makers("a-1-b-77"), Some(vec![77]));
        assert_eq!(makers("cgroup.procs"), None);
        assert_eq!(makers("a-77-b"), None);
    }

    #[test]
    fn directories_elsewhere_are_no_cgroups() {
        assert_eq!(Node::new().cgroup_id(&std::env::temp_dir()), None);
        assert_eq!(Node::new().cgroup_id(Path::new("/no/such")), None);
        match cgroup::unified_root() {
            Ok(root) => assert_eq!(Node::new().cgroup_id(&root), cgroup::id(&root).ok()),
            Err(error) => eprintln!("skipped: {error}"),
        }
    }

    #[test]
    fn only_leaves_of_cwasi_are_empty_leaves() {
        assert!(!Node::new().is_empty_leaf(Path::new("/")));
        assert!(!Node::default().is_empty_leaf(Path::new("/sys/fs/cgroup/cwasi/x")));
    }
}
