//! The directory of the pins: `<bpffs>/v<layout>/{maps,links}`, one agent at a time, whatever its layout.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cwasi_ebpf_common::maps::names;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::PlaneError;

/// Where bpffs is mounted by convention.
const CONVENTIONAL: &str = "/sys/fs/bpf";

/// The pins of one layout under one agent's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(super) fn new(bpffs: &Path, layout: u32) -> Self {
        Self {
            root: bpffs.join(format!("v{layout}")),
        }
    }

    /// Those of every layout that an agent has left in its directory.
    pub(super) fn all(bpffs: &Path) -> Vec<Self> {
        let entries = std::fs::read_dir(bpffs).into_iter().flatten().flatten();
        let layouts = entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix('v')?.parse().ok());
        layouts.map(|layout| Self::new(bpffs, layout)).collect()
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Whether there is a configuration.
    pub(super) fn are_configured(&self) -> bool {
        self.map(names::CONFIG).exists()
    }

    pub(super) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub(super) fn link(&self, cgroup_id: u64) -> PathBuf {
        self.links().join(cgroup_id.to_string())
    }

    /// Cgroup ids of the pinned links.
    pub(super) fn linked(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(self.links()).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Makes the directories, where that is not yet done.
    pub(super) fn create(&self) -> Result<(), PlaneError> {
        if !is_on_bpffs(&self.root) {
            return Err(PlaneError::NoBpffs {
                path: self.root.clone(),
                detail: "it was unmounted, or another file system is there".to_owned(),
            });
        }
        for dir in [self.maps(), self.links()] {
            make_dir(&dir)?;
        }
        Ok(())
    }

    /// Removes every pin and directory, up to and without the agent's own directory.
    pub(super) fn remove(&self) -> Result<(), PlaneError> {
        match std::fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(PlaneError::syscall("unlink", self.root.display())(error))
            }
            _ => Ok(()),
        }
    }
}

/// Holds an agent's bpffs directory: nobody else can, until this is dropped or the process ends.
#[derive(Debug)]
pub(super) struct Hold {
    _lock: Flock<File>,
}

/// Takes hold of an agent's bpffs directory, making it and mounting bpffs where that is not yet done.
pub(super) fn hold(bpffs: &Path) -> Result<Hold, PlaneError> {
    make_bpffs(bpffs)?;
    let directory = File::open(bpffs).map_err(PlaneError::syscall("open", bpffs.display()))?;
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Hold { _lock: lock }),
        Err((_, Errno::EWOULDBLOCK)) => Err(PlaneError::Locked {
            path: bpffs.to_owned(),
        }),
        Err((_, errno)) => Err(PlaneError::syscall("flock", bpffs.display())(errno.into())),
    }
}

/// Makes an agent's bpffs directory, and mounts bpffs, where that is not yet done.
///
/// # Errors
/// Another file system is there, or this process may not.
pub fn make_bpffs(bpffs: &Path) -> Result<(), PlaneError> {
    ensure_mounted(bpffs)?;
    make_dir(bpffs)
}

fn make_dir(path: &Path) -> Result<(), PlaneError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(PlaneError::syscall("mkdir", path.display()))
}

/// Whether the directory, or the nearest parent that exists, is on a bpffs.
fn is_on_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    existing.is_some_and(|existing| statfs(existing).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC))
}

fn ensure_mounted(bpffs: &Path) -> Result<(), PlaneError> {
    if is_on_bpffs(bpffs) {
        return Ok(());
    }
    let no_bpffs = |detail: String| PlaneError::NoBpffs {
        path: bpffs.to_owned(),
        detail,
    };
    if !bpffs.starts_with(CONVENTIONAL) {
        return Err(no_bpffs("another file system is there".to_owned()));
    }
    mount(
        Some("bpf"),
        CONVENTIONAL,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(|errno| no_bpffs(format!("mount on {CONVENTIONAL}: {errno}")))
}
