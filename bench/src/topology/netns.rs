//! A named network namespace and what is set in it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use cwasi_client::netns;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{IoContext, on};
use crate::{Result, tool};

/// How long the processes of a namespace may take to die.
const DEATH: Duration = Duration::from_secs(2);

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
}

impl Netns {
    /// Makes a namespace that `ip netns` knows as `name`.
    ///
    /// # Errors
    /// It exists, `ip` is missing, or the caller may not.
    pub(super) fn create(name: &str) -> Result<Self> {
        tool::run(tool::command("ip").args(["netns", "add", name]), "")?;
        Ok(Self {
            name: name.to_owned(),
            path: Path::new(netns::NAMED).join(name),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `ip` commands, one a line, in this namespace.
    pub(super) fn ip(&self, batch: &str) -> Result<()> {
        let mut command = tool::command("ip");
        command.args(["-netns", &self.name, "-batch", "-"]);
        tool::run(&mut command, batch).map(drop)
    }

    /// Runs nftables commands in this namespace, all or none of them.
    pub(super) fn nft(&self, rules: &str) -> Result<()> {
        let mut command = tool::command("nft");
        command.args(["-f", "-"]);
        netns::run(&self.path, || tool::run(&mut command, rules))?.map(drop)
    }

    /// Sets a sysctl of this namespace; `key` is its path below /proc/sys.
    pub(super) fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        netns::run(&self.path, || fs::write(&path, value))?.action(on("write", &path))
    }

    /// Kills what runs in the namespace `name`, and removes it.
    pub(super) fn remove(name: &str) -> Result<()> {
        let deadline = Instant::now() + DEATH;
        loop {
            let pids = tool::run(tool::command("ip").args(["netns", "pids", name]), "")?;
            let pids: Vec<Pid> = pids
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .map(Pid::from_raw)
                .collect();
            if pids.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in pids {
                match kill(pid, Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(errno).action(|| format!("kill process {pid} in {name}")),
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
        tool::run(tool::command("ip").args(["netns", "delete", name]), "").map(drop)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = Self::remove(&self.name) {
            eprintln!("the network namespace {} is left behind: {error}", self.name);
        }
    }
}
