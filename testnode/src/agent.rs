//! The agent of a node: `cwasi-agent run`, as a DaemonSet runs it, with its own socket and bpffs directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cwasi_client::announce;
use cwasi_client::client::Client;
use cwasi_client::protocol::{Flow, Function, Reply, Request, Status};
use nix::sys::signal::Signal;

use crate::containerd::Process;
use crate::error::{IoContext, on};
use crate::namespaces::Namespaces;
use crate::{Error, Result, built, wait};

/// Where the pins are.
const BPFFS: &str = "/sys/fs/bpf";

/// The node's agent, whether it runs or not. Dropping it ends it and takes everything of it out of the kernel.
#[derive(Debug)]
pub struct Agent {
    directory: PathBuf,
    bpffs: PathBuf,
    procs: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Agent {
    /// The place of an agent, which does not run.
    pub(crate) fn absent(name: &str, directory: PathBuf, procs: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory).action(on("create", &directory))?;
        Ok(Self {
            directory,
            bpffs: Path::new(BPFFS).join(name),
            procs,
            process: Mutex::new(None),
        })
    }

    /// Its socket, where shims look for it.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    /// The directory in which shims announce their functions to an agent that comes later.
    #[must_use]
    pub fn announced(&self) -> PathBuf {
        self.directory.join(announce::DIRECTORY)
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        // A test that panicked elsewhere still wants its agent ended.
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process().as_ref().map(Process::pid)
    }

    /// Starts it in the node, and waits until it serves.
    ///
    /// # Errors
    /// [`Error::Missing`] when `cwasi-agent` is not built; it ends instead.
    pub(crate) fn start(&self, namespaces: &Namespaces) -> Result<()> {
        let mut command = Command::new(built("cwasi-agent", "cwasi-agent")?);
        command
            .arg("run")
            .arg("--socket")
            .arg(self.socket())
            .arg("--bpffs")
            .arg(&self.bpffs)
            .args(["--metrics-addr", "127.0.0.1:0"]);
        let log = self.directory.join("log");
        let process = Process::spawn(&command, namespaces, &self.procs, &log)?;
        *self.process() = Some(process);
        wait::until("the agent serves", || {
            if let Some(process) = self.process().as_mut() {
                process.check()?;
            }
            // The socket is there before requests are answered.
            let client = Client::connect(&self.socket());
            let serves = client.is_ok_and(|mut client| client.call(&Request::Version).is_ok());
            Ok(serves.then_some(()))
        })
    }

    /// SIGTERM, as an upgrade has it: what it has in the kernel stays.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// SIGKILL: it dies wherever it is.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    fn end(&self, signal: Signal) -> Result<()> {
        let process = self.process().take();
        process.map_or(Ok(()), |process| process.end(signal))
    }

    /// Takes everything of it out of the kernel and ends it, when it runs.
    pub(crate) fn unload(&self) -> Result<()> {
        if self.pid().is_some() {
            self.call(&Request::Unload)?;
            if let Some(process) = self.process().take() {
                // It ends by itself; the signal only hurries it.
                process.end(Signal::SIGTERM)?;
            }
        }
        Ok(())
    }

    fn call(&self, request: &Request) -> Result<Reply> {
        Ok(Client::connect(&self.socket())?.call(request)?)
    }

    /// Health and totals.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Status> {
        match self.call(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Why connections are not redirected on this kernel, `None` if they are.
    ///
    /// # Errors
    /// It does not answer.
    pub fn not_accelerating(&self) -> Result<Option<String>> {
        let status = self.status()?;
        if status.accelerating {
            return Ok(None);
        }
        let reasons: Vec<String> = status.degraded.into_iter().map(|reason| reason.detail).collect();
        Ok(Some(reasons.join("; ")))
    }

    /// Every registered function.
    ///
    /// # Errors
    /// It does not answer.
    pub fn functions(&self) -> Result<Vec<Function>> {
        match self.call(&Request::Functions)? {
            Reply::Functions(functions) => Ok(functions),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until the function of a pod's container is registered.
    ///
    /// # Errors
    /// It is not, or the agent does not answer.
    pub fn function(&self, namespace: &str, pod: &str, container: &str) -> Result<Function> {
        wait::until(format!("the function of {namespace}/{pod}/{container}"), || {
            let found = self.functions()?.into_iter().find(|function| {
                let spec = &function.spec;
                spec.namespace == namespace
                    && spec.pod.as_deref() == Some(pod)
                    && spec.container.as_deref() == Some(container)
            });
            Ok(found)
        })
    }

    /// Every connection with an enrolled end.
    ///
    /// # Errors
    /// It does not answer.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        match self.call(&Request::Flows)? {
            Reply::Flows(flows) => Ok(flows),
            other => Err(unexpected(&other)),
        }
    }

    /// What it has in the kernel for single functions: the pins of their links.
    pub(crate) fn links(&self) -> Vec<PathBuf> {
        let versions = fs::read_dir(&self.bpffs).into_iter().flatten().flatten();
        versions
            .flat_map(|version| {
                fs::read_dir(version.path().join("links"))
                    .into_iter()
                    .flatten()
                    .flatten()
            })
            .map(|link| link.path())
            .collect()
    }

    /// Ends it and removes its pins, whatever state it is in.
    pub(crate) fn remove(&self) -> Result<()> {
        let unloaded = self.unload();
        *self.process() = None;
        // Without pins the kernel drops what an agent that died left.
        match fs::remove_dir_all(&self.bpffs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).action(on("remove", &self.bpffs))
            }
            _ => unloaded,
        }
    }
}

/// Removes the pins of an agent whose node is gone.
pub(crate) fn remove_pins(name: &str) {
    // Nothing is there, most of the time.
    let _ = fs::remove_dir_all(Path::new(BPFFS).join(name));
}

fn unexpected(reply: &Reply) -> Error {
    Error::Output {
        program: "cwasi-agent".to_owned(),
        detail: format!("unexpected {reply:?}"),
    }
}
