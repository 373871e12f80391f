//! A client that has run before, as the same function: what the kernel learns, it learns by function and destination.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::error::{IoContext, on};
use crate::process::Process;
use crate::{Result, tool};

/// Runs a command twice in one shell, hence in one cgroup. In between it reads a FIFO until nobody has that open for writing.
const TWICE: &str = r#"gate=$1; shift; "$@" >/dev/null || exit; read -r _ <"$gate"; exec "$@""#;

/// What a command waits at between an uncounted run and the one that counts.
#[derive(Debug)]
pub(super) struct Gate {
    dir: TempDir,
}

impl Gate {
    pub(super) fn new() -> Result<Self> {
        let dir = tempfile::tempdir().action(|| "create a temporary directory")?;
        let gate = Self { dir };
        mkfifo(&gate.path(), Mode::S_IRUSR | Mode::S_IWUSR).action(on("make the FIFO", gate.path()))?;
        Ok(gate)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("gate")
    }

    /// The command with an uncounted run and this gate before it; the stdout is that of the second run.
    pub(super) fn twice(&self, command: &Command) -> Command {
        let mut twice = tool::command("sh");
        twice
            .args(["-c", TWICE, "sh"])
            .arg(self.path())
            .arg(command.get_program())
            .args(command.get_args());
        twice
    }

    /// Waits for the end of the first run. The second begins when what is returned is dropped.
    pub(super) fn reached(&self, process: &mut Process, timeout: Duration) -> Result<File> {
        let mut held = None;
        process.wait_until("end its first run", timeout, || {
            held = self.hold()?;
            Ok(held.is_some())
        })?;
        Ok(held.expect("it was waited for"))
    }

    /// The FIFO for writing, once the command reads it.
    fn hold(&self) -> Result<Option<File>> {
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(self.path());
        match opened {
            Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => Ok(None),
            opened => opened.map(Some).action(on("open", self.path())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn the_second_run_waits_and_is_the_one_that_is_read() {
        let gate = Gate::new().unwrap();
        let log = gate.dir.path().join("log");
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo run >> \"$1\"; wc -l < \"$1\"", "sh"])
            .arg(&log);
        let mut process = Process::spawn(&mut gate.twice(&command), None).unwrap();
        let held = gate.reached(&mut process, TIMEOUT).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "run\n");
        drop(held);
        assert_eq!(process.wait(TIMEOUT).unwrap().trim(), "2");
    }

    #[test]
    fn a_first_run_that_fails_is_a_failure() {
        let gate = Gate::new().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo why >&2; exit 4"]);
        let mut process = Process::spawn(&mut gate.twice(&command), None).unwrap();
        let error = gate.reached(&mut process, TIMEOUT).unwrap_err().to_string();
        assert!(
            error.contains("exit status: 4") && error.ends_with("why"),
            "{error}"
        );
    }
}
