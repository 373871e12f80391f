//! The pods, the agent and how a guest is run in them.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::process::Command;
use std::time::Duration;

use cwasi_client::protocol::Traffic;
use tempfile::TempDir;

use super::Programs;
use super::jobs::Job;
use super::results::{Path, Sample};
use crate::Result;
use crate::agent::Agent;
use crate::error::IoContext;
use crate::process::Process;
use crate::topology::{Pod, Ports, Service, Topology};

/// How long a guest may take to be compiled and to listen.
const LISTEN: Duration = Duration::from_secs(60);

/// How long a guest may take to end.
const END: Duration = Duration::from_secs(120);

/// Everything that a job needs.
pub(super) struct Stage {
    // Guests live in the pods and end before the agent that they are registered with.
    topology: Topology,
    agent: Agent,
    programs: Programs,
    scratch: TempDir,
    ports: Ports,
}

/// Where a server listens, and where its clients find it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint {
    pub(super) listen: SocketAddr,
    pub(super) dial: SocketAddr,
}

impl Stage {
    pub(super) fn new(programs: &Programs, topology: Topology, agent: Agent) -> Result<Self> {
        Ok(Self {
            topology,
            agent,
            programs: programs.clone(),
            scratch: tempfile::tempdir().action(|| "create a temporary directory")?,
            ports: Ports::new(),
        })
    }

    /// Runs a job once.
    pub(super) fn run(&mut self, job: Job, path: Path) -> Result<Sample> {
        self.agent.set_enabled(path.accelerated())?;
        let before = self.agent.status()?.traffic;
        let mut sample = job.run(self, path)?;
        let after = self.agent.status()?.traffic;
        sample.traffic = Traffic {
            redirect_bytes: after.redirect_bytes.saturating_sub(before.redirect_bytes),
            tcp_bytes: after.tcp_bytes.saturating_sub(before.tcp_bytes),
            ..Traffic::default()
        };
        Ok(sample)
    }

    /// The pods `source`, `resize` and `store`.
    pub(super) fn pods(&self) -> [&Pod; 3] {
        let [source, resize, store] = self.topology.pods() else {
            unreachable!("the demo has three pods");
        };
        [source, resize, store]
    }

    /// The picture for the workflow.
    pub(super) fn picture(&self) -> &FilePath {
        &self.programs.picture
    }

    /// A directory for files of the guests.
    pub(super) fn scratch(&self) -> &FilePath {
        self.scratch.path()
    }

    /// A fresh port on a pod, with a Service in front where the path asks for one.
    pub(super) fn endpoint(&mut self, pod: usize, path: Path) -> Result<Endpoint> {
        let port = self.ports.take();
        let listen = SocketAddr::from((self.topology.pods()[pod].v4, port));
        let dial = if path == Path::Service {
            let service = Service::v4(10, port);
            self.topology.expose(service, listen)?;
            service.address()
        } else {
            listen
        };
        Ok(Endpoint { listen, dial })
    }

    /// Starts a guest in a pod.
    pub(super) fn guest(
        &self,
        name: &str,
        pod: &Pod,
        options: &[&OsStr],
        wasm: &str,
        args: &[&str],
    ) -> Result<Process> {
        let mut command = Command::new(&self.programs.run);
        command
            .args(["--name", name, "--netns"])
            .arg(pod.netns())
            .arg("--socket")
            .arg(self.agent.socket())
            .arg("--cache-dir")
            .arg(self.scratch.path().join("cache"))
            .args(options)
            .arg(self.programs.guests.join(format!("{wasm}.wasm")))
            .args(args);
        Process::spawn(&mut command, None)
    }

    /// Starts a guest that listens, and waits until it does.
    pub(super) fn server(
        &self,
        name: &str,
        pod: &Pod,
        options: &[&OsStr],
        wasm: &str,
        args: &[&str],
        at: Endpoint,
    ) -> Result<Process> {
        let mut server = self.guest(name, pod, options, wasm, args)?;
        server.wait_listening(pod.netns(), at.listen.port(), LISTEN)?;
        Ok(server)
    }
}

/// Waits until a guest ends by itself.
pub(super) fn finish(guest: Process) -> Result<()> {
    guest.wait(END).map(drop)
}

/// Waits for a guest's end and reads its line of JSON.
pub(super) fn outcome<T: serde::de::DeserializeOwned>(guest: Process) -> Result<T> {
    let program = guest.name().to_owned();
    let stdout = guest.wait(END)?;
    serde_json::from_str(&stdout).map_err(|error| crate::Error::Output {
        program,
        detail: format!("{error} in {stdout:?}"),
    })
}
