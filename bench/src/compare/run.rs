//! Runs workloads round by round in two pods.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use cwasi_client::protocol::Traffic;

use super::mode::{Destination, Mode};
use super::results::Compared;
use super::settle::Gate;
use super::workload::Workload;
use crate::agent::{self, Agent};
use crate::process::Process;
use crate::topology::{Pod, Ports, Topology};
use crate::{Error, Result};

/// How long a server may take to listen.
const LISTEN: Duration = Duration::from_secs(20);

/// How long a client may take.
const CLIENT: Duration = Duration::from_secs(120);

/// Two pods and an agent, in which workloads are compared.
pub(super) struct Stage {
    // Processes in the pods end before the agent that they are registered with.
    topology: Topology,
    agent: Agent,
    cpus: [Option<usize>; 2],
    destination: Destination,
    ports: Ports,
}

/// The figures of one run.
struct Measured {
    values: Vec<f64>,
    before: Traffic,
    after: Traffic,
}

impl Stage {
    pub(super) fn new(
        topology: Topology,
        agent: Agent,
        cpus: [Option<usize>; 2],
        destination: Destination,
    ) -> Self {
        Self {
            topology,
            agent,
            cpus,
            destination,
            ports: Ports::new(),
        }
    }

    /// Runs a workload `rounds` times in each mode, after a round that is not counted. `progress` is told of each run.
    pub(super) fn compare(
        &mut self,
        workload: &dyn Workload,
        rounds: usize,
        mut progress: impl FnMut(Mode),
    ) -> Result<Vec<Compared>> {
        let measures = workload.measures();
        let mut values = vec![[const { Vec::new() }; 3]; measures.len()];
        let mut moved = Traffic::default();
        for round in 0..=rounds {
            for mode in Mode::order(round) {
                progress(mode);
                let measured = self.run(workload, mode, round == 0)?;
                if round == 0 {
                    continue;
                }
                for (values, value) in values.iter_mut().zip(measured.values) {
                    values[mode.index()].push(value);
                }
                if mode == Mode::Kernel {
                    moved.redirect_bytes += measured.after.redirect_bytes - measured.before.redirect_bytes;
                    moved.tcp_bytes += measured.after.tcp_bytes - measured.before.tcp_bytes;
                }
            }
        }
        let share = agent::redirected_share(&Traffic::default(), &moved);
        let results = measures.into_iter().zip(values);
        Ok(results
            .map(|(measure, values)| Compared::new(measure, values, share))
            .collect())
    }

    fn run(&mut self, workload: &dyn Workload, mode: Mode, verify: bool) -> Result<Measured> {
        self.agent.set_enabled(mode == Mode::Kernel)?;
        let mut before = self.agent.status()?.traffic;
        let [server_pod, client_pod] = self.topology.pods() else {
            unreachable!("the stage has two pods");
        };
        let address = SocketAddr::from((server_pod.v4, self.ports.take()));
        let [server_cpu, client_cpu] = self.cpus;

        let server = workload.server(address, verify)?;
        let mut server = self.spawn(mode, "server", server_pod, server, server_cpu)?;
        server.wait_listening(server_pod.netns(), address.port(), LISTEN)?;
        let client = workload.client(address, verify);
        let spawn = |command| self.spawn(mode, "client", client_pod, command, client_cpu);
        let stdout = match self.destination {
            Destination::Fresh => spawn(client)?.wait(CLIENT)?,
            Destination::Known => {
                let gate = Gate::new()?;
                let mut client = spawn(gate.twice(&client))?;
                let held = gate.reached(&mut client, CLIENT)?;
                before = self.agent.status()?.traffic;
                drop(held);
                client.wait(CLIENT)?
            }
        };
        server.stop()?;

        let after = self.agent.status()?.traffic;
        if mode != Mode::Kernel && after.redirect_bytes != before.redirect_bytes {
            return Err(Error::Data(format!(
                "{} bytes were redirected in mode {}",
                after.redirect_bytes.saturating_sub(before.redirect_bytes),
                mode.name()
            )));
        }
        Ok(Measured {
            values: workload.values(&stdout)?,
            before,
            after,
        })
    }

    fn spawn(
        &self,
        mode: Mode,
        name: &str,
        pod: &Pod,
        mut command: Command,
        cpu: Option<usize>,
    ) -> Result<Process> {
        match mode {
            Mode::Plain => Process::spawn_on(&mut command, Some(pod.netns()), cpu),
            Mode::Off | Mode::Kernel => {
                let mut exec = self.agent.exec(name, pod.netns(), &command);
                Process::spawn_on(&mut exec, None, cpu)
            }
        }
    }
}
