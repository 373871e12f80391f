//! The command line of `cwasi-bench`.

use std::path::{Path, PathBuf};
use std::{env, thread};

use clap::{Parser, Subcommand, ValueEnum};

use super::http::Http;
use super::mode::{Cpus, Destination};
use super::native::{Job, Native};
use super::redis::Redis;
use super::results::{Report, Skipped};
use super::run::Stage;
use super::workload::Workload;
use crate::agent::{self, Agent};
use crate::error::IoContext;
use crate::report::Format;
use crate::topology::Topology;
use crate::{Result, interrupt, report, suite, tool, topology};

/// Label of the directories of this program's agent.
const LABEL: &str = "bench";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Figures of the cwasi data plane.
#[derive(Debug, Parser)]
#[command(name = "cwasi-bench", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare enrolled peers with plain TCP, between two pods of a private bridge
    ///
    /// Both peers run three ways, interleaved: not enrolled (plain), enrolled with acceleration off (off), and enrolled
    /// with acceleration on (kernel). Needs root. Starts an agent of its own.
    Ab(Ab),
    /// Compare functions guest to guest with everything that they may be compared with, side by side
    ///
    /// Needs root. Starts an agent of its own. `cargo xtask bench` builds what this needs, and runs it.
    Suite(Suite),
}

#[derive(Debug, clap::Args)]
struct Suite {
    #[command(flatten)]
    options: suite::Options,

    /// Directory of the programs that are compared [default: that of this program]
    #[arg(long, value_name = "DIR")]
    built: Option<PathBuf>,

    /// Directory of the guests' .wasm files
    #[arg(long, value_name = "DIR", default_value = "bench/functions/prebuilt")]
    guests: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Ab {
    /// Fewer sizes and less data: minutes become seconds, and the spread grows
    #[arg(long)]
    quick: bool,

    /// Kinds of workloads to run
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    only: Vec<Group>,

    /// Rounds that count, each with every mode
    #[arg(long, default_value_t = 5, value_parser = report::rounds)]
    rounds: usize,

    /// On which processors the peers run
    #[arg(long, value_enum, default_value_t)]
    cpus: Cpus,

    /// What is known of the server when the client is measured
    #[arg(long, value_enum, default_value_t)]
    destination: Destination,

    /// The agent's program [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,

    /// How to print the figures
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A kind of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Round trips of 64 B to 1 MiB
    Rtt,
    /// Streams of writes of 64 B to 1 MiB
    Stream,
    /// redis-benchmark
    Redis,
    /// nginx with wrk
    Http,
    /// Connections of one request each
    Connect,
    /// Files of 1 MiB by sendfile
    Sendfile,
}

impl Args {
    /// Runs the chosen command.
    ///
    /// # Errors
    /// Not root, something is missing, or a workload fails.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Ab(args) => ab(&args),
            Command::Suite(args) => args.run(),
        }
    }
}

impl Suite {
    fn run(self) -> Result<()> {
        interrupt::watch()?;
        let built = match self.built {
            Some(built) => built,
            None => agent::sibling("cwasi-agent")?.with_file_name(""),
        };
        let programs = suite::Programs {
            built,
            guests: self.guests,
        };
        let command: Vec<String> = env::args().collect();
        suite::run(&programs, &self.options, &command.join(" "))
    }
}

fn ab(args: &Ab) -> Result<()> {
    interrupt::watch()?;
    let native = agent::sibling("cwasi-native")?;
    let program = match &args.agent {
        Some(program) => program.clone(),
        None => agent::sibling("cwasi-agent")?,
    };
    let cpus = args.cpus.pair()?;
    let groups = if args.only.is_empty() {
        Group::value_variants()
    } else {
        &args.only
    };
    let mut workloads = Vec::new();
    for group in groups {
        workloads.extend(group.workloads(&native, args.quick)?);
    }
    let (workloads, skipped) = runnable(workloads);

    agent::reap(LABEL)?;
    topology::reap()?;
    let topology = Topology::create(&["server", "client"])?;
    let agent = Agent::start(&program, LABEL)?;
    agent.require_acceleration()?;
    let mut stage = Stage::new(topology, agent, cpus, args.destination);

    let runs = workloads.len() * (args.rounds + 1) * 3;
    let mut progress = report::Progress::new(runs as u64);
    let mut results = Vec::new();
    for workload in &workloads {
        let name = workload.measures().swap_remove(0).name;
        results.extend(stage.compare(workload.as_ref(), args.rounds, |mode| {
            progress.step(&name, mode.name());
        })?);
    }
    drop(progress);

    let report = Report {
        kernel_release: kernel_release()?,
        cpus: thread::available_parallelism().map_or(0, usize::from),
        placement: args.cpus,
        destination: args.destination,
        rounds: args.rounds,
        results,
        skipped,
    };
    match args.output {
        Format::Json => report::print_json(&report),
        Format::Table => {
            println!("{}", report.table());
            Ok(())
        }
    }
}

fn kernel_release() -> Result<String> {
    let uname = nix::sys::utsname::uname().action(|| "read the kernel's release (uname)")?;
    Ok(uname.release().to_string_lossy().into_owned())
}

/// Workloads whose tools are all there, and why the others are not run.
fn runnable(workloads: Vec<Box<dyn Workload>>) -> (Vec<Box<dyn Workload>>, Vec<Skipped>) {
    let mut skipped = Vec::new();
    let mut kept = Vec::new();
    for workload in workloads {
        let missing = workload.tools().iter().find(|name| tool::find(name).is_none());
        let Some(missing) = missing else {
            kept.push(workload);
            continue;
        };
        let package = tool::package(missing).unwrap_or(missing);
        skipped.extend(workload.measures().into_iter().map(|measure| Skipped {
            workload: measure.name,
            reason: format!("{missing} is missing; install the package {package}"),
        }));
    }
    (kept, skipped)
}

impl Group {
    /// The workloads of the kind. Amounts are such that a run takes about half a second.
    fn workloads(self, native: &Path, quick: bool) -> Result<Vec<Box<dyn Workload>>> {
        let scale = if quick { 4 } else { 1 };
        let job = |job, size, amount, nodelay| -> Box<dyn Workload> {
            Box::new(Native {
                program: native.to_owned(),
                job,
                size,
                amount: amount / scale,
                nodelay,
            })
        };
        let both = |kind, sizes: &[(u64, u64)], few: &[u64]| {
            let chosen = sizes.iter().filter(|(size, _)| !quick || few.contains(size));
            chosen
                .flat_map(|&(size, amount)| [false, true].map(|nodelay| job(kind, size, amount, nodelay)))
                .collect()
        };
        Ok(match self {
            Self::Rtt => both(
                Job::Ping,
                &[
                    (64, 20_000),
                    (KIB, 20_000),
                    (16 * KIB, 12_000),
                    (64 * KIB, 6000),
                    (MIB, 600),
                ],
                &[64, 64 * KIB],
            ),
            Self::Stream => both(
                Job::Stream,
                &[
                    (64, 48 * MIB),
                    (256, 128 * MIB),
                    (KIB, 512 * MIB),
                    (4 * KIB, 1024 * MIB),
                    (16 * KIB, 1024 * MIB),
                    (64 * KIB, 1536 * MIB),
                    (256 * KIB, 1536 * MIB),
                    (MIB, 1536 * MIB),
                ],
                &[64, KIB, 64 * KIB],
            ),
            Self::Redis => [(1, 1, 20_000), (20, 1, 60_000), (20, 16, 400_000)]
                .map(|(connections, pipeline, requests)| -> Box<dyn Workload> {
                    Box::new(Redis {
                        connections,
                        pipeline,
                        requests: requests / scale,
                    })
                })
                .into(),
            Self::Http => vec![
                Box::new(Http::new(false, if quick { 1 } else { 2 })?),
                Box::new(Http::new(true, if quick { 1 } else { 2 })?),
            ],
            Self::Connect => vec![job(Job::Connect, 64, 6000, false)],
            Self::Sendfile => vec![job(Job::SendFile, MIB, 1200, false)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
        let args = Args::try_parse_from(["cwasi-bench", "ab", "--only", "rtt,redis", "-o", "json"]).unwrap();
        let Command::Ab(ab) = args.command else {
            panic!("it was asked for");
        };
        assert_eq!((ab.only, ab.rounds), (vec![Group::Rtt, Group::Redis], 5));
        assert_eq!(ab.destination, Destination::Fresh);
        assert!(Args::try_parse_from(["cwasi-bench", "ab", "--rounds", "0"]).is_err());
    }

    #[test]
    fn measures_have_names_of_their_own() {
        for quick in [false, true] {
            let mut names: Vec<String> = Group::value_variants()
                .iter()
                .flat_map(|group| group.workloads(Path::new("x"), quick).unwrap())
                .flat_map(|workload| workload.measures())
                .map(|measure| measure.name)
                .collect();
            let all = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }
}
