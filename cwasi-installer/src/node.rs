//! Where everything is on the node, and one run at a time.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use crate::containerd::Restart;
use crate::host::Host;
use crate::journal::Journal;
use crate::{Error, Result, SHIM};

/// A node, and how its containerd is configured and restarted. All paths are the node's own.
#[derive(Debug)]
pub struct Node {
    /// Its files and programs.
    pub host: Host,
    /// containerd's configuration.
    pub config: PathBuf,
    /// Directory of ours; the programs are in its `bin`.
    pub prefix: PathBuf,
    /// The program `containerd`, where it is not in its usual place.
    pub containerd: Option<PathBuf>,
    /// How containerd is restarted.
    pub restart: Restart,
}

impl Node {
    /// The directory of containerd's configuration.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.config.parent().unwrap_or(Path::new("/"))
    }

    /// The directory of the programs.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.prefix.join("bin")
    }

    /// The shim, as containerd is told.
    #[must_use]
    pub fn shim(&self) -> PathBuf {
        self.bin().join(SHIM)
    }

    /// Waits for the end of any other run, and tidies up after one that was killed; gives what was written down before.
    ///
    /// # Errors
    /// [`Error::Refused`] when the node has no directory for containerd's configuration.
    pub fn begin(&self) -> Result<(Flock<File>, Option<Journal>)> {
        if !self.host.exists(self.directory()) {
            return Err(Error::refused(
                self.directory(),
                "there is no such directory: see --config and --host-root, or make it",
            ));
        }
        let lock = self.host.lock(self.directory())?;
        self.host.sweep(self.directory())?;
        let journal = Journal::read(self)?;
        for directory in journal.iter().flat_map(Journal::swept) {
            self.host.sweep(directory)?;
        }
        Journal::remove_backups(self, journal.as_ref())?;
        Ok((lock, journal))
    }

    /// Processes of the shim, as the node's /proc shows them; none where it is not to be seen.
    #[must_use]
    pub fn running(&self) -> Vec<u32> {
        let proc = Path::new("/proc");
        let names = self.host.names(proc).unwrap_or_default();
        let pids = names.iter().filter_map(|name| name.parse::<u32>().ok());
        let is_shim = |pid: &u32| {
            let line = self.host.read(&proc.join(pid.to_string()).join("cmdline"));
            let line = line.ok().flatten().map(|found| found.bytes).unwrap_or_default();
            line.split(|byte| *byte == 0).next() == Some(self.shim().as_os_str().as_encoded_bytes())
        };
        let mut pids: Vec<u32> = pids.filter(is_shim).collect();
        pids.sort_unstable();
        pids
    }
}
