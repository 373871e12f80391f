//! One server, one client, and every byte between them compared by who gets it.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cwasi_bench::agent::Agent;
use cwasi_bench::process::Process;
use cwasi_bench::topology::{Pod, Ports, Topology};
use cwasi_bench::{Error, interrupt};
use cwasi_peer::bulk::Sent;
use cwasi_peer::client::Measured;
use fastrand::Rng;
use nix::sys::signal::Signal;

use super::containerd::Containerd;
use super::faults::{Fault, FunctionFault};
use super::lane::Lane;
use super::pods::{NotBegun, Stream};
use super::results::lock;
use crate::{Programs, Result};

/// How long one end may go on after the other: it reads what is on its way.
pub(super) const END: Duration = Duration::from_secs(30);

/// The same after an end that failed: the other one may wait for a connection that never comes.
pub(super) const AFTER_FAILURE: Duration = Duration::from_secs(3);

/// How often a session is looked at.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// Exit code of `cwasi-agent exec` when it has not run its command.
const NOT_RUN: i32 = 125;

/// Sizes of writes: mostly large, some that no page divides.
const WRITES: [u64; 6] = [4096, 65_536, 100_003, 1 << 18, 1 << 20, 1 << 20];

/// Sizes of requests.
const REQUESTS: [u64; 4] = [64, 1000, 16_384, 200_003];

/// What sessions need.
pub(super) struct Stage {
    /// Where pods are in containerd, where there can be any.
    pub(super) containerd: Option<Containerd>,
    // Functions live in the pods and end before the agent that they are registered with.
    pub(super) topology: Topology,
    pub(super) agent: Agent,
    pub(super) programs: Programs,
    /// Compiled guests.
    pub(super) cache: PathBuf,
    pub(super) ports: Mutex<Ports>,
}

/// How a session ended.
pub(super) enum Outcome {
    /// So many bytes went, and each was right.
    Right(u64),
    /// It could not begin without an agent, or without containerd.
    NotBegun,
    /// It ended without a complaint, and containerd, which was away, does not know how.
    Unknown,
    /// It did not end well.
    Broken {
        /// Whether bytes were wrong.
        wrong: bool,
        why: String,
    },
}

/// A connection with its two ends.
pub(super) trait Session {
    /// Whether one of them has ended: soon the other one will.
    fn has_ended(&mut self) -> Result<bool>;

    /// Does a fault to one of them.
    fn hurt(&mut self, random: &mut Rng) -> Result<Fault>;

    /// Ends what stands still.
    fn give_up(&mut self);

    /// Waits for the end, of which a deadly fault is the reason when it was `hurt`.
    fn end(self: Box<Self>, hurt: bool) -> Result<Outcome>;
}

/// Processes: a server and its client; or both in one.
struct Processes {
    server: Option<Process>,
    client: Process,
    expected: Expected,
}

/// What a client that ended well has to say.
#[derive(Clone, Copy)]
enum Expected {
    Stream { bytes: u64 },
    Requests { count: u64, size: u64 },
}

impl Expected {
    fn is(self, stdout: &str) -> std::result::Result<u64, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("{error} in {stdout:?}");
        match self {
            Self::Stream { bytes } => {
                let sent: Sent = serde_json::from_str(stdout).map_err(|error| wrong(&error))?;
                (sent.ok && sent.bytes == bytes)
                    .then_some(bytes)
                    .ok_or_else(|| wrong(&"a wrong count"))
            }
            Self::Requests { count, size } => {
                let measured: Measured = serde_json::from_str(stdout).map_err(|error| wrong(&error))?;
                // There and back.
                (measured.count == count)
                    .then_some(2 * count * size)
                    .ok_or_else(|| wrong(&"a wrong count"))
            }
        }
    }
}

impl Stage {
    /// Begins a session of about `amount` bytes; gives what came of one that did not begin.
    pub(super) fn begin(
        &self,
        lane: Lane,
        amount: u64,
        random: &mut Rng,
    ) -> Result<std::result::Result<Box<dyn Session + '_>, Outcome>> {
        if !lane.is_of_pods() {
            return Ok(Ok(Box::new(self.processes(lane, amount, random)?)));
        }
        let containerd = self
            .containerd
            .as_ref()
            .expect("lanes of pods run where there can be any");
        let size = pick(&WRITES, random);
        let begun = Stream::begin(containerd, lane == Lane::PodProcess, size, amount)?;
        Ok(match begun {
            Ok(stream) => Ok(Box::new(stream)),
            Err(NotBegun::Away) => Err(Outcome::NotBegun),
            Err(NotBegun::Refused(why)) => Err(Outcome::Broken { wrong: false, why }),
        })
    }

    fn processes(&self, lane: Lane, amount: u64, random: &mut Rng) -> Result<Processes> {
        let [client, server] = self.topology.pods() else {
            unreachable!("the soak has two pods");
        };
        let at = |pod: &Pod| SocketAddr::from((pod.v4, lock(&self.ports).take())).to_string();
        let (program, serve, call, expected, address);
        if lane == Lane::Requests {
            let size = pick(&REQUESTS, random);
            // Each is waited for: a number that is proportional to bytes would take minutes for small ones.
            let count = (amount / size / 2).clamp(1, 50_000);
            address = at(server);
            let words = [size, size, count].map(|number| number.to_string());
            program = "rr";
            serve = vec!["serve".to_owned(), address.clone()];
            call = ["--size", "--answer", "--count"]
                .into_iter()
                .map(str::to_owned)
                .zip(words)
                .fold(vec!["client".to_owned(), address], |mut all, (name, value)| {
                    all.extend([name, value]);
                    all
                });
            expected = Expected::Requests { count, size };
        } else {
            address = at(if lane == Lane::Process { client } else { server });
            program = "bulk";
            serve = vec!["sink".to_owned(), address.clone()];
            let size = pick(&WRITES, random).to_string();
            call = [
                "source",
                &address,
                "--size",
                &size,
                "--bytes",
                &amount.to_string(),
            ]
            .map(str::to_owned)
            .to_vec();
            expected = Expected::Stream { bytes: amount };
        }
        let serve = [
            serve,
            ["--connections", "1", "--verify"].map(str::to_owned).to_vec(),
        ]
        .concat();
        let call = match lane {
            Lane::Requests => [call, vec!["--verify".to_owned()]].concat(),
            _ => call,
        };
        let (server, client) = match lane {
            Lane::Process => {
                let mut both = self.guest("soak-process", client, program, &serve);
                both.args(["--", "--name", "soak-source"])
                    .arg(self.guest_file(program))
                    .args(&call);
                (None, both)
            }
            Lane::Guests => (
                Some(self.guest("soak-server", server, program, &serve)),
                self.guest("soak-client", client, program, &call),
            ),
            Lane::Native => (
                Some(self.native("native-server", server, program, &serve)),
                self.native("native-client", client, program, &call),
            ),
            Lane::Network => {
                let mut plain = Command::new("nsenter");
                plain
                    .arg(format!("--net={}", server.netns().display()))
                    .arg(self.programs.built.join("cwasi-native"))
                    .arg(program)
                    .args(&serve);
                (Some(plain), self.native("plain-client", client, program, &call))
            }
            Lane::Requests => (
                Some(self.guest("request-server", server, program, &serve)),
                self.native("request-client", client, program, &call),
            ),
            Lane::Pods | Lane::PodProcess => unreachable!("they are no processes of the soak's"),
        };
        let start = |mut command: Command| Process::spawn(&mut command, None);
        Ok(Processes {
            // A client waits for a server that is late.
            server: server.map(start).transpose()?,
            client: start(client)?,
            expected,
        })
    }

    fn guest_file(&self, program: &str) -> PathBuf {
        self.programs.guests.join(program).with_extension("wasm")
    }

    fn guest(&self, name: &str, pod: &Pod, program: &str, args: &[String]) -> Command {
        let mut command = Command::new(self.programs.built.join("cwasi-run"));
        command
            .args(["--name", name, "--netns"])
            .arg(pod.netns())
            .args([OsStr::new("--socket"), self.agent.socket().as_os_str()])
            .args([OsStr::new("--cache-dir"), self.cache.as_os_str()])
            .arg(self.guest_file(program))
            .args(args);
        command
    }

    fn native(&self, name: &str, pod: &Pod, program: &str, args: &[String]) -> Command {
        let mut command = Command::new(self.programs.built.join("cwasi-native"));
        command.arg(program).args(args);
        self.agent.exec(name, pod.netns(), &command)
    }
}

impl Processes {
    fn all(&mut self) -> impl Iterator<Item = &mut Process> {
        self.server.iter_mut().chain([&mut self.client])
    }

    /// How many of its processes run, and whether one has failed.
    fn state(&mut self) -> Result<(usize, bool)> {
        let (mut running, mut failed) = (0, false);
        for process in self.all() {
            match process.poll()? {
                None => running += 1,
                Some(status) => failed |= !status.success(),
            }
        }
        Ok((running, failed))
    }

    /// One of its processes.
    fn any(&self, random: &mut Rng) -> &Process {
        match &self.server {
            Some(server) if random.bool() => server,
            _ => &self.client,
        }
    }
}

impl Session for Processes {
    fn has_ended(&mut self) -> Result<bool> {
        let all = self.all().count();
        Ok(self.state()?.0 < all)
    }

    fn hurt(&mut self, random: &mut Rng) -> Result<Fault> {
        let fault = FunctionFault::draw(random);
        fault.hit(self.any(random), random)?;
        Ok(fault.fault())
    }

    fn give_up(&mut self) {
        // What has ended meanwhile is what is wanted.
        for process in self.all() {
            let _ = process.signal_group(Signal::SIGKILL);
        }
    }

    fn end(mut self: Box<Self>, _hurt: bool) -> Result<Outcome> {
        let begun = Instant::now();
        while let (1.., failed) = self.state()? {
            if begun.elapsed() > if failed { AFTER_FAILURE } else { END } {
                self.give_up();
                break;
            }
            interrupt::pause(POLL)?;
        }
        let server = self.server.map_or(Ok(String::new()), |server| server.wait(END));
        let client = self.client.wait(END);
        // The client first: it knows whether everything arrived.
        let why = match (client, server) {
            (Ok(stdout), Ok(_)) => match self.expected.is(&stdout) {
                Ok(bytes) => return Ok(Outcome::Right(bytes)),
                Err(why) => why,
            },
            (Err(Error::Interrupted), _) | (_, Err(Error::Interrupted)) => {
                return Err(Error::Interrupted.into());
            }
            (client, server) => {
                let errors: Vec<Error> = [client.err(), server.err()].into_iter().flatten().collect();
                if errors.iter().any(was_not_run) {
                    return Ok(Outcome::NotBegun);
                }
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                lines.join(" | ")
            }
        };
        Ok(Outcome::Broken {
            wrong: why.contains("wrong"),
            why,
        })
    }
}

fn pick(sizes: &[u64], random: &mut Rng) -> u64 {
    sizes[random.usize(..sizes.len())]
}

fn was_not_run(error: &Error) -> bool {
    matches!(error, Error::Failed { status, .. } if status.code() == Some(NOT_RUN))
}
