//! A private agent: its own socket, pins, state and metrics port, beside any agent that the node already runs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, io};

use cwasi_client::client::Client;
use cwasi_client::protocol::{Reply, Request, Status, Traffic};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::error::{IoContext, on};
use crate::process::Process;
use crate::topology::{SERVICE_CIDR_V4, SERVICE_CIDR_V6};
use crate::{Error, Result, interrupt};

/// Prefix of the directories of private agents.
const PREFIX: &str = "cwasi-";

/// Where the directories with sockets and state are: cwasi-testnode's nodes, which have a /run of their own, see it, too.
const RUN: &str = "/tmp";

/// Where the pins are.
const BPFFS: &str = "/sys/fs/bpf";

/// How long an agent may take to load, attach and test itself.
const START: Duration = Duration::from_secs(60);

/// A running agent. Dropping it takes everything of it out of the kernel.
#[derive(Debug)]
pub struct Agent {
    program: PathBuf,
    socket: PathBuf,
    /// `None` for the moments between two of them.
    process: Mutex<Option<Process>>,
    // Removed last, when nobody uses what is in them.
    dirs: Dirs,
}

impl Agent {
    /// Starts the agent `program` with directories named after `label` and this process, and waits until it answers.
    ///
    /// # Errors
    /// It cannot be started, or does not answer within a minute.
    pub fn start(program: &Path, label: &str) -> Result<Self> {
        let dirs = Dirs::create(&format!("{PREFIX}{label}-{}", process::id()))?;
        let agent = Self {
            program: program.to_owned(),
            socket: dirs.run.join("agent.sock"),
            process: Mutex::new(None),
            dirs,
        };
        *agent.process() = Some(agent.launch()?);
        Ok(agent)
    }

    /// Starts the process, and waits until it answers.
    fn launch(&self) -> Result<Process> {
        let mut command = Command::new(&self.program);
        command
            .arg("run")
            .arg("--socket")
            .arg(&self.socket)
            .arg("--bpffs")
            .arg(&self.dirs.bpffs)
            .arg("--state-dir")
            .arg(self.dirs.run.join("state"))
            .args(["--metrics-addr", "127.0.0.1:0"])
            .args([
                "--service-cidr",
                SERVICE_CIDR_V4,
                "--service-cidr",
                SERVICE_CIDR_V6,
            ]);
        let mut process = Process::spawn(&mut command, None)?;
        process.wait_until("answer on its socket", START, || {
            match Client::connect(&self.socket) {
                Ok(_) => Ok(true),
                Err(error) if error.is_no_agent() => Ok(false),
                Err(error) => Err(error.into()),
            }
        })?;
        Ok(process)
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.process().as_ref().and_then(Process::pid)
    }

    /// Ends the process by `signal`, and after a while starts another one in its place.
    ///
    /// # Errors
    /// It does not end, or the other one does not answer.
    pub fn replace(&self, signal: Signal, after: Duration) -> Result<()> {
        let mut process = self.process();
        if let Some(mut old) = process.take() {
            old.signal(signal)?;
            let deadline = Instant::now() + START;
            while old.poll()?.is_none() {
                if Instant::now() > deadline {
                    return Err(Error::Timeout {
                        program: old.name().to_owned(),
                        what: "end".to_owned(),
                        after: START,
                    });
                }
                interrupt::pause(Duration::from_millis(5))?;
            }
        }
        interrupt::pause(after)?;
        *process = Some(self.launch()?);
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A command that runs `command` as the function `name` in `netns`, by `cwasi-agent exec`.
    #[must_use]
    pub fn exec(&self, name: &str, netns: &Path, command: &Command) -> Command {
        let mut exec = Command::new(&self.program);
        exec.arg("exec")
            .arg("--socket")
            .arg(&self.socket)
            .args([OsStr::new("--name"), OsStr::new(name)])
            .arg("--netns")
            .arg(netns)
            // Those that it runs are the benches' own, which wait in poll and read again after any read.
            .args(["--sockets", "all"])
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        exec
    }

    /// Health and totals.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn status(&self) -> Result<Status> {
        match self.call(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => Err(Error::Output {
                program: "cwasi-agent".to_owned(),
                detail: format!("{other:?} to a status request"),
            }),
        }
    }

    /// Turns acceleration on or off.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn set_enabled(&self, enabled: bool) -> Result<()> {
        self.call(&Request::SetEnabled { enabled }).map(drop)
    }

    /// Fails unless connections are redirected on this kernel.
    ///
    /// # Errors
    /// [`Error::NotAccelerating`] with everything that is wrong.
    pub fn require_acceleration(&self) -> Result<()> {
        let status = self.status()?;
        if status.accelerating {
            return Ok(());
        }
        let reasons: Vec<String> = status
            .degraded
            .iter()
            .map(|degraded| format!("{}; {}", degraded.detail, degraded.remedy))
            .collect();
        Err(Error::NotAccelerating(if reasons.is_empty() {
            "it is switched off".to_owned()
        } else {
            reasons.join("; ")
        }))
    }

    /// Asks on a new connection: the agent closes those that are silent for long.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn call(&self, request: &Request) -> Result<Reply> {
        Ok(Client::connect(&self.socket)?.call(request)?)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let done = unload(&self.socket).and_then(|()| match self.process().take() {
            Some(process) => process.stop(),
            None => Ok(()),
        });
        if let Err(error) = done {
            eprintln!("the private agent did not end in order: {error}");
        }
    }
}

/// Makes an agent take everything out of the kernel; none there is no error.
fn unload(socket: &Path) -> Result<()> {
    match Client::connect(socket).and_then(|mut client| client.call(&Request::Unload)) {
        Ok(_) => Ok(()),
        Err(error) if error.is_no_agent() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The directories of an agent, removed when dropped: without its pins nothing of it stays in the kernel.
#[derive(Debug)]
struct Dirs {
    run: PathBuf,
    bpffs: PathBuf,
}

impl Dirs {
    fn named(name: &str) -> Self {
        Self {
            run: Path::new(RUN).join(name),
            bpffs: Path::new(BPFFS).join(name),
        }
    }

    fn create(name: &str) -> Result<Self> {
        let dirs = Self::named(name);
        fs::create_dir(&dirs.run).action(on("create", &dirs.run))?;
        Ok(dirs)
    }
}

impl Drop for Dirs {
    fn drop(&mut self) {
        for dir in [&self.bpffs, &self.run] {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    eprintln!("{} is left behind: {error}", dir.display());
                }
                _ => {}
            }
        }
    }
}

/// Ends the agents that dead processes left behind under `label`, and removes what is theirs.
///
/// # Errors
/// One of them does not answer.
pub fn reap(label: &str) -> Result<()> {
    let entries = fs::read_dir(RUN).action(on("read", RUN))?;
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let Some(pid) = owner(&name, label) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            let dirs = Dirs::named(&name);
            unload(&dirs.run.join("agent.sock"))?;
        }
    }
    Ok(())
}

/// The process that made a directory `cwasi-<label>-<pid>`.
fn owner(name: &str, label: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?
        .strip_prefix(label)?
        .strip_prefix('-')?
        .parse()
        .ok()
}

/// A program that is built beside this one.
///
/// # Errors
/// It is not there; the message tells how to build it.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let here = env::current_exe().action(|| "find this program's own file")?;
    let path = here.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::Spawn {
        program: path.display().to_string(),
        source: io::ErrorKind::NotFound.into(),
        remedy: format!("; build it first: cargo build --release -p {}", crate_of(name)),
    })
}

fn crate_of(program: &str) -> &'static str {
    match program {
        "cwasi-agent" => "cwasi-agent",
        "cwasi-run" => "cwasi-shim",
        "cwasi-stock-run" => "cwasi-stock-run",
        _ => "cwasi-bench",
    }
}

/// The share of the bytes sent between two readings that the kernel program moved, from 0 to 1; `None` when none was sent.
#[must_use]
pub fn redirected_share(before: &Traffic, after: &Traffic) -> Option<f64> {
    let redirected = after.redirect_bytes.saturating_sub(before.redirect_bytes);
    let tcp = after.tcp_bytes.saturating_sub(before.tcp_bytes);
    match redirected + tcp {
        0 => None,
        all => Some(redirected as f64 / all as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_difference() {
        let traffic = |redirect_bytes, tcp_bytes| Traffic {
            redirect_bytes,
            tcp_bytes,
            ..Traffic::default()
        };
        assert_eq!(
            redirected_share(&traffic(100, 100), &traffic(400, 200)),
            Some(0.75)
        );
        assert_eq!(redirected_share(&traffic(5, 5), &traffic(5, 5)), None);
    }

    #[test]
    fn directories_tell_their_process() {
        assert_eq!(owner("cwasi-demo-77", "demo"), Some(77));
        for other in ["cwasi-bench-77", "cwasi-demo-", "cwasi-demo-x", "demo-77"] {
            assert_eq!(owner(other, "demo"), None, "{other}");
        }
    }
}
