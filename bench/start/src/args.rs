//! The command line of `cwasi-bench-start`.

use std::thread;

use clap::{Parser, ValueEnum};
use cwasi_bench::error::IoContext;
use cwasi_bench::interrupt;
use cwasi_bench::report::{self, Format, Progress};

use crate::group::Scale;
use crate::results::{Compared, Report};
use crate::{Group, Peer, Result, Stage};

/// Start time, memory and throughput of functions in containerd.
///
/// Runs functions of this shim, functions of a stock shim and containers of runc in one private containerd, interleaved.
/// Needs root, and containerd-shim-cwasi-v1, containerd-shim-stock-v1 and cwasi-agent beside this program.
#[derive(Debug, Parser)]
#[command(name = "cwasi-bench-start", version)]
pub struct Args {
    /// Fewer functions: minutes become seconds, and the spread grows
    #[arg(long)]
    quick: bool,

    /// Kinds of figures to take
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    only: Vec<Group>,

    /// What to compare
    #[arg(long, value_delimiter = ',', value_name = "PEER")]
    peers: Vec<Peer>,

    /// Rounds that count, each with every peer
    #[arg(long, default_value_t = 10, value_parser = report::rounds)]
    rounds: usize,

    /// How to print the figures
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Args {
    /// Takes the figures and prints them.
    ///
    /// # Errors
    /// Not root, something is missing or not built, or a peer does not do what is measured.
    pub fn run(self) -> Result<()> {
        interrupt::watch()?;
        let peers = chosen(&self.peers);
        let groups = chosen(&self.only);
        let scale = if self.quick { Scale::QUICK } else { Scale::FULL };
        let stage = Stage::new(&peers)?;
        let plan: Vec<_> = groups
            .into_iter()
            .map(|group| {
                let peers = peers.iter().copied().filter(|peer| group.includes(*peer));
                (group, peers.collect::<Vec<_>>())
            })
            .filter(|(_, peers)| !peers.is_empty())
            .collect();
        let steps: usize = plan
            .iter()
            .map(|(_, peers)| peers.len() * (self.rounds + 1))
            .sum();
        let mut progress = Progress::new(steps as u64);
        let mut results = Vec::new();
        for (group, peers) in plan {
            results.extend(compare(
                &stage,
                group,
                &peers,
                self.rounds,
                &scale,
                &mut progress,
            )?);
        }
        drop(progress);
        let report = Report {
            kernel_release: kernel_release()?,
            cpus: thread::available_parallelism().map_or(0, usize::from),
            containerd: stage.node().containerd().to_string(),
            rounds: self.rounds,
            results,
            images: stage.images().to_vec(),
        };
        match self.output {
            Format::Json => report::print_json(&report)?,
            Format::Table => println!("{}", report.table()),
        }
        Ok(())
    }
}

/// All of them where none is chosen.
fn chosen<T: ValueEnum + Clone>(given: &[T]) -> Vec<T> {
    match given {
        [] => T::value_variants().to_vec(),
        given => given.to_vec(),
    }
}

fn compare(
    stage: &Stage,
    group: Group,
    peers: &[Peer],
    rounds: usize,
    scale: &Scale,
    progress: &mut Progress,
) -> Result<Vec<Compared>> {
    let measures = group.measures(scale);
    let mut values = vec![[const { Vec::new() }; Peer::ALL.len()]; measures.len()];
    for round in 0..=rounds {
        for peer in Peer::order(peers, round) {
            interrupt::check()?;
            progress.step(&measures[0].0, peer.name());
            let figures = group.run(stage, peer, scale)?;
            // The first round compiles the functions and warms everything up.
            if round > 0 {
                for (values, figure) in values.iter_mut().zip(figures) {
                    values[peer.index()].push(figure);
                }
            }
        }
    }
    let results = measures.into_iter().zip(values);
    Ok(results
        .map(|((measure, unit), values)| Compared::new(measure, unit, values))
        .collect())
}

fn kernel_release() -> Result<String> {
    let uname = nix::sys::utsname::uname().action(|| "read the kernel's release (uname)")?;
    Ok(uname.release().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
        let args = Args::try_parse_from([
            "x",
            "--only",
            "output,memory",
            "--peers",
            "cwasi,runc",
            "-o",
            "json",
        ]);
        let args = args.unwrap();
        assert_eq!(args.only, [Group::Output, Group::Memory]);
        assert_eq!(chosen(&args.peers), [Peer::Cwasi, Peer::Runc]);
        assert_eq!((args.rounds, args.quick), (10, false));
        assert!(Args::try_parse_from(["x", "--rounds", "0"]).is_err());
    }

    #[test]
    fn nothing_chosen_is_everything() {
        assert_eq!(chosen::<Peer>(&[]), Peer::ALL);
    }
}
