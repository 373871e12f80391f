//! The cgroups of a node: one of its name in every hierarchy, v1 and v2, with everything of the node below.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cwasi_client::cgroup::{self, unified_root};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::leftovers::mount_points;

use crate::error::{IoContext, on};
use crate::wait;
use crate::{Error, Result};

/// The leaf of containerd and the agent; pods are beside it, because a cgroup with processes cannot limit its children.
const RUNTIME: &str = "runtime";

/// A node's cgroups.
#[derive(Debug)]
pub(crate) struct Cgroups {
    name: String,
    /// Where the hierarchies are mounted, v2 first.
    roots: Vec<PathBuf>,
}

impl Cgroups {
    /// The cgroups that a node of this name has, or had.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").action(on("read", "/proc/mounts"))?;
        let mut roots = vec![unified_root()?];
        roots.extend(mount_points(&mounts, "cgroup"));
        Ok(Self {
            name: name.to_owned(),
            roots,
        })
    }

    /// Makes the leaf for containerd; runtimes make the others.
    pub(crate) fn create(&self) -> Result<()> {
        let runtime = self.runtime();
        fs::create_dir_all(&runtime).action(on("create", runtime))
    }

    fn runtime(&self) -> PathBuf {
        self.roots[0].join(&self.name).join(RUNTIME)
    }

    /// The file that takes the processes of containerd and the agent.
    pub(crate) fn procs(&self) -> PathBuf {
        self.runtime().join("cgroup.procs")
    }

    /// What runtimes are told as the parent of containers' cgroups.
    pub(crate) fn parent(&self) -> String {
        format!("/{}", self.name)
    }

    fn trees(&self) -> impl Iterator<Item = PathBuf> {
        self.roots.iter().map(|root| root.join(&self.name))
    }

    /// The directories of a container's cgroup, by the last part of its path, in each hierarchy that has it.
    pub(crate) fn of_container(&self, id: &str) -> Vec<PathBuf> {
        let cgroups = self.trees().map(|tree| tree.join(id));
        cgroups.filter(|path| path.is_dir()).collect()
    }

    /// The cgroups of pods and containers.
    pub(crate) fn of_pods(&self) -> Vec<PathBuf> {
        let all = self.trees().flat_map(|tree| below(&tree));
        all.filter(|path| *path != self.runtime()).collect()
    }

    /// The containers that have a cgroup, by the last part of its path.
    pub(crate) fn containers(&self) -> Vec<String> {
        let names = self.of_pods().into_iter().filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            Some(name.to_owned())
        });
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Processes in all of them.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let trees = self.trees().flat_map(|tree| {
            let mut all = below(&tree);
            all.push(tree);
            all
        });
        let mut pids: Vec<i32> = trees
            .filter_map(|path| fs::read_to_string(path.join("cgroup.procs")).ok())
            .flat_map(|pids| {
                pids.lines()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<_>>()
            })
            // Those of other pid namespaces are listed as 0.
            .filter(|pid| *pid > 0)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes them all; nothing may live in them.
    pub(crate) fn remove(&self) -> Result<()> {
        for tree in self.trees().filter(|tree| tree.is_dir()) {
            wait::within(
                std::time::Duration::from_secs(10),
                format!("the removal of {}", tree.display()),
                || match remove_tree(&tree) {
                    Ok(()) => Ok(Some(())),
                    // Processes that just died keep it busy for a moment.
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(None),
                    Err(source) => Err(source).action(on("remove", &tree)),
                },
            )?;
        }
        Ok(())
    }
}

/// Kills the guests in these containers' leaves outside of the node's own cgroups, and removes the leaves.
pub(crate) fn remove_leaves(containers: &[String]) -> Result<()> {
    for leaf in leaves(containers) {
        cgroup::kill_all(&leaf)?;
        cgroup::remove(&leaf)?;
    }
    Ok(())
}

/// The cgroup v2 leaves, outside of the node's own, that shims made for these containers on a hybrid host.
pub(crate) fn leaves(containers: &[String]) -> Vec<PathBuf> {
    let Ok(root) = unified_root() else {
        return Vec::new();
    };
    children(&root.join(cgroup::PARENT))
        .into_iter()
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            containers.iter().any(|id| name.contains(id.as_str()))
        })
        .collect()
}

/// Sends SIGKILL; a process that is gone is no error.
pub(crate) fn kill_all(pids: impl IntoIterator<Item = i32>) -> Result<()> {
    for pid in pids {
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => {
                return Err(Error::Io {
                    action: format!("kill process {pid}"),
                    source: errno.into(),
                });
            }
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for child in children(path) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(path) {
        // Whoever else removes it, it is gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn below(path: &Path) -> Vec<PathBuf> {
    let children = children(path).into_iter();
    children
        .flat_map(|child| {
            let mut all = below(&child);
            all.push(child);
            all
        })
        .collect()
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
