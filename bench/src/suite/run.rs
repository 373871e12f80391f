//! The rounds: every workload by every peer in turn.

use std::time::Instant;

use super::amount::Amount;
use super::cast::Run;
use super::containerd;
use super::machine::{self, Machine};
use super::options::Options;
use super::peer::{self, Peer};
use super::plan::{self, Entry, Scale};
use super::programs::Programs;
use super::results::{Results, Series};
use super::stage::{Measured, Stage};
use super::workload::Group;
use crate::agent;
use crate::compare::Skipped;
use crate::topology;
use crate::{Error, Result, report};

/// Label of the directories of this program's agent.
const LABEL: &str = "suite";

/// A peer's turn with a workload.
struct Turn {
    series: Series,
    amount: u64,
    /// Why it is not run any more.
    failed: Option<String>,
}

/// Runs the suite.
pub(super) fn run(programs: &Programs, options: &Options, command: &str) -> Result<Results> {
    let machine = Machine::read()?;
    let (peers, mut skipped) = programs.available(&options.peers());
    for skipped in &skipped {
        eprintln!("skipped: {}: {}", skipped.workload, skipped.reason);
    }
    let scale = options.scale();
    let plan = plan::plan(&options.groups(), &peers, scale.quick);
    let in_containerd = options.groups().contains(&Group::Containerd);
    let mut estimate = plan::estimate(&plan, scale);
    if in_containerd {
        estimate += containerd::estimate(scale);
    }
    let estimate = estimate.as_secs();
    eprintln!(
        "{} workloads, {} peers, {} rounds and one that does not count: about {} min {} s",
        plan.len(),
        peers.len(),
        scale.rounds,
        estimate / 60,
        estimate % 60
    );

    agent::reap(LABEL)?;
    topology::reap()?;
    let stage = Stage::new(programs, plan::most_functions(&plan), LABEL, options.cpus)?;
    let start = Instant::now();
    let turns = rounds(stage, &plan, scale)?;
    let containerd = if in_containerd {
        eprintln!("functions in containerd …");
        Some(containerd::run(&programs.built, scale)?)
    } else {
        None
    };
    let containerd = match containerd.transpose() {
        Ok(containerd) => containerd,
        Err(reason) => {
            skipped.push(reason);
            None
        }
    };

    let failed = turns.iter().filter_map(|turn| {
        let reason = turn.failed.clone()?;
        let workload = format!("{}, {}", turn.series.workload.name(), turn.series.peer.name());
        Some(Skipped { workload, reason })
    });
    Ok(Results {
        machine,
        commit: machine::commit(),
        command: command.to_owned(),
        quick: scale.quick,
        rounds: scale.rounds,
        cpus: options.cpus,
        seconds: start.elapsed().as_secs_f64(),
        failed: failed.collect(),
        series: turns.into_iter().map(|turn| turn.series).collect(),
        containerd,
        skipped,
    })
}

fn rounds(mut stage: Stage<'_>, plan: &[Entry], scale: Scale) -> Result<Vec<Turn>> {
    let mut turns: Vec<Turn> = plan
        .iter()
        .flat_map(|entry| entry.peers.iter().map(|peer| Turn::new(entry, *peer)))
        .collect();
    let mut progress = report::Progress::new((turns.len() * (scale.rounds + 1)) as u64);
    for round in 0..=scale.rounds {
        let part = match round {
            0 => "warm-up".to_owned(),
            _ => format!("round {round} of {}", scale.rounds),
        };
        for entry in plan {
            for peer in peer::order(&entry.peers, round) {
                progress.step(&part, &format!("{}, {}", entry.workload.name(), peer.name()));
                let turn = turns
                    .iter_mut()
                    .find(|turn| turn.series.workload == entry.workload && turn.series.peer == peer)
                    .expect("each entry and peer has a turn");
                turn.take(&mut stage, round, scale)?;
            }
        }
    }
    Ok(turns)
}

impl Turn {
    fn new(entry: &Entry, peer: Peer) -> Self {
        Self {
            series: Series::new(entry.workload, peer),
            amount: Amount::of(&entry.workload).first,
            failed: None,
        }
    }

    /// Runs once more. A peer that fails does not keep the others from being measured.
    fn take(&mut self, stage: &mut Stage<'_>, round: usize, scale: Scale) -> Result<()> {
        if self.failed.is_some() {
            return Ok(());
        }
        let (workload, peer) = (self.series.workload, self.series.peer);
        let run = Run {
            amount: self.amount,
            // The first round also compiles the guests and warms everything up.
            verify: round == 0,
        };
        match stage.run(&workload, peer, run) {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => self.failed = Some(error.to_string()),
            Ok(Measured { outcome, traffic }) => {
                self.amount = Amount::of(&workload).that_takes(scale.run, outcome.each);
                if round > 0 {
                    self.series.add(outcome.figures, &traffic);
                }
            }
        }
        Ok(())
    }
}
