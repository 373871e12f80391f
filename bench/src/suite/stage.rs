//! The pods, the agent, and one run of a workload by a peer in them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use cwasi_client::protocol::Traffic;
use tempfile::TempDir;

use super::cast::{Cast, Role, Run};
use super::cpu::{Meter, Reading};
use super::outcome::Outcome;
use super::peer::{Carrier, Host, Peer};
use super::programs::Programs;
use super::start;
use super::workload::{Kind, Metric, Route, Workload};
use crate::agent::Agent;
use crate::compare::{Cpus, redis};
use crate::error::IoContext;
use crate::process::Process;
use crate::topology::{Cluster, Pod, Ports, Service, Topology};
use crate::{Error, Result};

/// How long a server may take to be compiled and to listen.
const LISTEN: Duration = Duration::from_secs(30);

/// How long all clients of a run may take.
const CLIENTS: Duration = Duration::from_secs(60);

/// How long a server may take to end after its clients.
const END: Duration = Duration::from_secs(10);

/// Everything that runs need.
pub(super) struct Stage<'a> {
    // Programs live in the pods and end before the agent that they are registered with.
    cluster: Cluster,
    agent: Agent,
    meter: Meter,
    programs: &'a Programs,
    scratch: TempDir,
    cpus: Cpus,
    ports: Ports,
}

/// What a run measured, and what its functions sent.
pub(super) struct Measured {
    pub(super) outcome: Outcome,
    pub(super) traffic: Traffic,
}

/// Where servers listen and clients find them: as many as there are servers.
struct Addresses {
    port: u16,
    listen: Vec<String>,
    dial: Vec<String>,
}

impl<'a> Stage<'a> {
    /// Makes pods for `functions` on one side and one on the other, and starts an agent.
    pub(super) fn new(programs: &'a Programs, functions: u16, label: &str, cpus: Cpus) -> Result<Self> {
        let mut names = vec!["one".to_owned()];
        // One more for what may carry their messages.
        names.extend((0..=functions).map(|number| format!("many{number}")));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let cluster = Cluster::create(&[&names, &["far"]])?;
        let agent = Agent::start(&programs.agent(), label)?;
        agent.require_acceleration()?;
        Ok(Self {
            cluster,
            agent,
            meter: Meter::new()?,
            programs,
            scratch: tempfile::tempdir().action(|| "create a temporary directory")?,
            cpus,
            ports: Ports::new(),
        })
    }

    /// Runs a workload once.
    pub(super) fn run(&mut self, workload: &Workload, peer: Peer, run: Run) -> Result<Measured> {
        let addresses = self.addresses(workload, peer)?;
        let before = self.agent.status()?.traffic;
        let outcome = if workload.kind == Kind::Start {
            self.start(peer, &addresses)?
        } else {
            self.play(workload, peer, run, &addresses)?
        };
        let traffic = sent(&before, &self.agent.status()?.traffic);
        if !(peer.redirected() && workload.route != Route::Remote) && traffic.redirect_bytes != 0 {
            return Err(Error::Data(format!(
                "{} bytes of {} were redirected",
                traffic.redirect_bytes,
                peer.name()
            )));
        }
        Ok(Measured { outcome, traffic })
    }

    /// Starts every function, and reads what they measured.
    fn play(&self, workload: &Workload, peer: Peer, run: Run, addresses: &Addresses) -> Result<Outcome> {
        let cast = workload.cast(peer.carrier(), &addresses.listen, &addresses.dial, run);
        let broker = self.broker(peer, addresses)?;
        let begin = self.meter.read()?;
        let stdout = if peer == Peer::Process {
            self.in_one_process(workload, peer, &cast)?
        } else {
            self.in_pods(workload, peer, &cast, addresses)?
        };
        if let Some(broker) = broker {
            broker.stop()?;
        }
        let used = self.meter.read()?.since(begin);
        let mut outcome = Outcome::read(workload, run, &stdout)?;
        if workload.kind == Kind::Stream {
            outcome.figures.extend(per_gigabyte(used, run.amount));
        }
        Ok(outcome)
    }

    fn wait_listening(
        &self,
        peer: Peer,
        server: &mut Process,
        pod: &Pod,
        addresses: &Addresses,
        number: usize,
    ) -> Result<()> {
        match (peer, peer.carrier()) {
            // It connects to the broker.
            (_, Carrier::Redis) => Ok(()),
            (Peer::Unix, _) => {
                let socket = self.socket(addresses.port, number);
                server.wait_until("make its socket", LISTEN, || Ok(socket.exists()))
            }
            _ => server.wait_listening(pod.netns(), addresses.port, LISTEN),
        }
    }

    /// The file of a server's socket.
    fn socket(&self, run: u16, number: usize) -> PathBuf {
        self.scratch.path().join(format!("{run}-{number}.sock"))
    }

    /// What carries messages, where that is a program of its own.
    fn broker(&self, peer: Peer, addresses: &Addresses) -> Result<Option<Process>> {
        if peer.carrier() != Carrier::Redis {
            return Ok(None);
        }
        let pod = self.broker_pod();
        let server = redis::server(SocketAddr::from((pod.v4, addresses.port)));
        let mut server = self.spawn(&server, pod, None)?;
        server.wait_listening(pod.netns(), addresses.port, LISTEN)?;
        Ok(Some(server))
    }

    /// The last pod, which no workload's function is in that a broker carries messages for.
    fn broker_pod(&self) -> &Pod {
        self.near().pods().last().expect("there are pods")
    }

    fn in_pods(&self, workload: &Workload, peer: Peer, cast: &Cast, addresses: &Addresses) -> Result<String> {
        let [server_cpu, client_cpu] = workload.cpus.unwrap_or(self.cpus).pair()?;
        let mut servers = Vec::new();
        for (number, role) in cast.servers.iter().enumerate() {
            let pod = self.pod(workload, Side::Server, number);
            let mut server = self.spawn(&self.command(peer, role, pod), pod, server_cpu)?;
            self.wait_listening(peer, &mut server, pod, addresses, number)?;
            servers.push(server);
        }
        let mut clients = Vec::new();
        for (number, role) in cast.clients.iter().enumerate() {
            let pod = self.pod(workload, Side::Client, number);
            clients.push(self.spawn(&self.command(peer, role, pod), pod, client_cpu)?);
        }
        let deadline = Instant::now() + CLIENTS;
        let mut stdout = String::new();
        for client in clients {
            stdout += &client.wait(deadline.saturating_duration_since(Instant::now()))?;
        }
        for server in servers {
            stdout += &server.wait(END)?;
        }
        Ok(stdout)
    }

    fn in_one_process(&self, workload: &Workload, peer: Peer, cast: &Cast) -> Result<String> {
        let [server_cpu, client_cpu] = workload.cpus.unwrap_or(self.cpus).pair()?;
        // Where each may have a processor of its own, one process may be on either.
        let cpu = server_cpu.filter(|cpu| client_cpu == Some(*cpu));
        let pod = &self.near().pods()[0];
        let (first, others) = cast.servers.split_first().expect("a workload has a server");
        let mut all = self.command(peer, first, pod);
        for (number, role) in (1..).zip(others.iter().chain(&cast.clients)) {
            all.args(["--", "--name", &format!("{}-{number}", role.program)])
                .arg(self.programs.guest(role.program))
                .args(&role.args);
        }
        self.spawn(&all, pod, cpu)?.wait(CLIENTS)
    }

    /// A function from its start until it answers.
    fn start(&self, peer: Peer, addresses: &Addresses) -> Result<Outcome> {
        let pod = &self.near().pods()[0];
        let role = start::role(peer.host(), &addresses.listen[0]);
        let command = self.command(peer, &role, pod);
        let address = SocketAddr::from((pod.v4, addresses.port));
        let begin = Instant::now();
        // Not metered: a shell before it would count.
        let server = Process::spawn(&mut { command }, Some(pod.netns()))?;
        let took = start::first_answer(self.near().pods()[1].netns(), address, begin)?;
        server.stop()?;
        Ok(Outcome {
            figures: [(Metric::Start, took.as_secs_f64() * 1e3)].into(),
            each: took.as_secs_f64(),
        })
    }

    /// Another port in every run.
    fn addresses(&mut self, workload: &Workload, peer: Peer) -> Result<Addresses> {
        let port = self.ports.take();
        let mut addresses = Addresses {
            port,
            listen: Vec::new(),
            dial: Vec::new(),
        };
        for number in 0..usize::from(workload.servers()) {
            if peer == Peer::Unix {
                let at = format!("unix:{}", self.socket(port, number).display());
                addresses.listen.push(at.clone());
                addresses.dial.push(at);
                continue;
            }
            let (pod, port) = if peer.carrier() == Carrier::Redis {
                (self.broker_pod(), port)
            } else if peer == Peer::Process {
                // Functions of one process share its pod's address.
                let port = if number == 0 { port } else { self.ports.take() };
                (&self.near().pods()[0], port)
            } else {
                (self.pod(workload, Side::Server, number), port)
            };
            let listen = SocketAddr::from((pod.v4, port));
            let dial = match workload.route {
                Route::Pod | Route::Remote => listen,
                Route::Service => {
                    let service = Service::v4(10, port);
                    self.near().expose(service, listen)?;
                    service.address()
                }
            };
            addresses.listen.push(listen.to_string());
            addresses.dial.push(dial.to_string());
        }
        Ok(addresses)
    }

    /// The node with the agent.
    fn near(&self) -> &Topology {
        &self.cluster.nodes()[0]
    }

    /// The pod of another node.
    fn far(&self) -> &Pod {
        &self.cluster.nodes()[1].pods()[0]
    }

    /// The pod of a function: the only one of its side has the first, the others have one each.
    fn pod(&self, workload: &Workload, side: Side, number: usize) -> &Pod {
        if workload.route == Route::Remote && side == Side::Server {
            return self.far();
        }
        let pods = self.near().pods();
        let only = match workload.kind {
            Kind::FanOut => Side::Client,
            _ => Side::Server,
        };
        if side == only { &pods[0] } else { &pods[1 + number] }
    }

    /// The command of a function, with what the peer asks for.
    fn command(&self, peer: Peer, role: &Role, pod: &Pod) -> Command {
        // There is no agent on the other node.
        let enrolled = peer.enrolled() && pod.name() != self.far().name();
        let mut command = Command::new(self.programs.host(peer.host()));
        match peer.host() {
            Host::Rust | Host::C => {
                command.arg(role.program).args(&role.args);
                if enrolled {
                    return self.agent.exec(role.program, pod.netns(), &command);
                }
                return command;
            }
            Host::Stock => {
                command.arg("--cache-dir").arg(self.scratch.path().join("stock"));
            }
            Host::Runner => {
                command.arg("--cache-dir").arg(self.scratch.path().join("cache"));
                if enrolled {
                    command.arg("--socket").arg(self.agent.socket());
                } else {
                    command.arg("--no-agent");
                }
            }
        }
        command
            .arg("--netns")
            .arg(pod.netns())
            .arg(self.programs.guest(role.program))
            .args(&role.args);
        command
    }

    fn spawn(&self, command: &Command, pod: &Pod, cpu: Option<usize>) -> Result<Process> {
        Process::spawn_on(&mut self.meter.metered(command), Some(pod.netns()), cpu)
            .map(|process| process.named(command))
    }
}

/// Which end of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

fn per_gigabyte(used: Reading, bytes: u64) -> [(Metric, f64); 3] {
    let gigabytes = bytes as f64 / 1e9;
    [
        (Metric::CpuRusage, used.rusage),
        (Metric::CpuCgroup, used.cgroup),
        (Metric::CpuMachine, used.machine),
    ]
    .map(|(metric, used)| (metric, used.as_secs_f64() / gigabytes))
}

/// What functions sent between two readings.
fn sent(before: &Traffic, after: &Traffic) -> Traffic {
    Traffic {
        redirect_bytes: after.redirect_bytes.saturating_sub(before.redirect_bytes),
        tcp_bytes: after.tcp_bytes.saturating_sub(before.tcp_bytes),
        ..Traffic::default()
    }
}
