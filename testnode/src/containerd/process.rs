//! A long-running program of a node: started inside it, and ended with it.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{IoContext, on};
use crate::namespaces::Namespaces;
use crate::wait::{self, LONG};
use crate::{Error, Result};

/// A running program of a node. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a command in the node's namespaces and the cgroup of `procs`; what it prints is added to `log`.
    pub(crate) fn spawn(
        command: &Command,
        namespaces: &Namespaces,
        procs: &Path,
        log: &Path,
    ) -> Result<Self> {
        let name = Path::new(command.get_program())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .action(on("open", log))?;
        // A shell moves itself: no code of ours runs between fork and exec, and no process starts in the wrong cgroup.
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(procs)
            .arg(command.get_program())
            .args(command.get_args())
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone().action(|| "copy a descriptor")?)
            .stderr(log);
        // Whatever the caller's environment says of another agent, and of collectors.
        let given: Vec<&OsStr> = command.get_envs().map(|(name, _)| name).collect();
        for (name, _) in std::env::vars_os() {
            let is_read = ["CWASI_", "OTEL_", "TRACE"]
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix));
            if is_read && !given.contains(&name.as_os_str()) {
                shell.env_remove(name);
            }
        }
        let child = namespaces.run(|| shell.spawn().action(|| format!("run {name}")))?;
        Ok(Self { name, child })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Fails when it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .action(|| format!("wait for {}", self.name))?
        {
            None => Ok(()),
            Some(status) => Err(Error::Failed {
                program: self.name.clone(),
                status,
                output: "see its log".to_owned(),
            }),
        }
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(mut self, signal: Signal) -> Result<()> {
        // It is not reaped yet, so that the pid is still its own.
        if self.child.try_wait().action(|| "wait for a child")?.is_none() {
            kill(Pid::from_raw(self.pid()), signal).action(|| format!("signal {}", self.name))?;
        }
        wait::end_of(&mut self.child, &self.name, LONG).map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
