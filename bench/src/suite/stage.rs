//! The pods, the agent, and one run of a workload by a peer in them.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use cwasi_client::protocol::Traffic;
use tempfile::TempDir;

use super::cpu::Meter;
use super::ends::{self, End, Ends, Figures};
use super::peer::{Host, Peer};
use super::programs::Programs;
use super::workload::{Kind, Metric, Workload};
use crate::agent::Agent;
use crate::compare::Cpus;
use crate::error::IoContext;
use crate::process::Process;
use crate::topology::{Pod, Topology};
use crate::{Error, Result};

/// How long a server may take to be compiled and to listen.
const LISTEN: Duration = Duration::from_secs(30);

/// How long a client may take.
const CLIENT: Duration = Duration::from_secs(60);

/// How long a server may take to end after its client.
const END: Duration = Duration::from_secs(10);

/// First port of the servers.
const FIRST_PORT: u16 = 7000;

/// Ports that are used in turn: connections of earlier runs, in TIME_WAIT, have others.
const PORTS: u16 = 2000;

/// Everything that runs need.
pub(super) struct Stage<'a> {
    // Programs live in the pods and end before the agent that they are registered with.
    topology: Topology,
    agent: Agent,
    meter: Meter,
    programs: &'a Programs,
    scratch: TempDir,
    cpus: Cpus,
    runs: u16,
}

/// What a run measured.
pub(super) struct Measured {
    pub(super) figures: Figures,
    /// Seconds that one of the amount takes.
    pub(super) each: f64,
    /// What was sent, as the agent counted it.
    pub(super) traffic: Traffic,
}

impl<'a> Stage<'a> {
    pub(super) fn new(programs: &'a Programs, topology: Topology, agent: Agent, cpus: Cpus) -> Result<Self> {
        Ok(Self {
            topology,
            agent,
            meter: Meter::new()?,
            programs,
            scratch: tempfile::tempdir().action(|| "create a temporary directory")?,
            cpus,
            runs: 0,
        })
    }

    /// Runs a workload once.
    pub(super) fn run(&mut self, workload: &Workload, peer: Peer, amount: u64) -> Result<Measured> {
        let [server_pod, client_pod] = self.topology.pods() else {
            unreachable!("the suite has two pods");
        };
        let port = FIRST_PORT + self.runs % PORTS;
        self.runs = self.runs.wrapping_add(1);
        let address = SocketAddr::from((server_pod.v4, port));
        let [server_cpu, client_cpu] = workload.cpus.unwrap_or(self.cpus).pair()?;
        let ends = Ends::of(workload, peer, address, amount);

        let before = self.agent.status()?.traffic;
        let begin = self.meter.read()?;
        let stdout = if peer == Peer::Process {
            // Wherever both may be, one process has the same choice.
            let cpu = server_cpu.filter(|cpu| client_cpu == Some(*cpu));
            let mut both = self.command(peer, &ends.server, server_pod);
            both.arg("--").arg(self.programs.guest(ends.client.program));
            both.args(&ends.client.args);
            self.spawn(&both, server_pod, cpu)?.wait(CLIENT)?
        } else {
            let server = self.command(peer, &ends.server, server_pod);
            let mut server = self.spawn(&server, server_pod, server_cpu)?;
            server.wait_listening(server_pod.netns(), port, LISTEN)?;
            let client = self.command(peer, &ends.client, client_pod);
            let stdout = self.spawn(&client, client_pod, client_cpu)?.wait(CLIENT)?;
            server.wait(END)?;
            stdout
        };
        let used = self.meter.read()?.since(begin);
        let traffic = sent(&before, &self.agent.status()?.traffic);
        if !peer.redirected() && traffic.redirect_bytes != 0 {
            return Err(Error::Data(format!(
                "{} bytes of {} were redirected",
                traffic.redirect_bytes,
                peer.name()
            )));
        }

        let (mut figures, each) = ends::result(workload.kind, &stdout)?;
        if workload.kind == Kind::Stream {
            let gigabytes = amount as f64 / 1e9;
            let per_gigabyte = |used: Duration| used.as_secs_f64() / gigabytes;
            figures.extend([
                (Metric::CpuRusage, per_gigabyte(used.rusage)),
                (Metric::CpuCgroup, per_gigabyte(used.cgroup)),
                (Metric::CpuMachine, per_gigabyte(used.machine)),
            ]);
        }
        Ok(Measured {
            figures,
            each,
            traffic,
        })
    }

    /// The command of one end, with what the peer asks for.
    fn command(&self, peer: Peer, end: &End, pod: &Pod) -> Command {
        let mut command = Command::new(self.programs.host(peer.host()));
        match peer.host() {
            Host::Rust => {
                command.arg(end.program).args(&end.args);
                if peer.enrolled() {
                    return self.agent.exec(end.program, pod.netns(), &command);
                }
                return command;
            }
            Host::Stock => {
                command.arg("--cache-dir").arg(self.scratch.path().join("stock"));
            }
            Host::Runner => {
                command.arg("--cache-dir").arg(self.scratch.path().join("cache"));
                if peer.enrolled() {
                    command.arg("--socket").arg(self.agent.socket());
                } else {
                    command.arg("--no-agent");
                }
            }
        }
        command
            .arg("--netns")
            .arg(pod.netns())
            .arg(self.programs.guest(end.program))
            .args(&end.args);
        command
    }

    fn spawn(&self, command: &Command, pod: &Pod, cpu: Option<usize>) -> Result<Process> {
        Process::spawn_on(&mut self.meter.metered(command), Some(pod.netns()), cpu)
            .map(|process| process.named(command))
    }
}

/// What functions sent between two readings.
fn sent(before: &Traffic, after: &Traffic) -> Traffic {
    Traffic {
        redirect_bytes: after.redirect_bytes.saturating_sub(before.redirect_bytes),
        tcp_bytes: after.tcp_bytes.saturating_sub(before.tcp_bytes),
        ..Traffic::default()
    }
}
