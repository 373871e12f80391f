//! Wasm functions in pods of a private node, talking in the kernel, by plain TCP, and through a Service address.

mod jobs;
mod results;
mod stage;

use std::path::PathBuf;

pub use jobs::Job;
pub use results::{Outcome, Path};

use crate::agent::{self, Agent};
use crate::report::Format;
use crate::topology::{self, Topology};
use crate::{Result, report};
use results::Samples;
use stage::Stage;

/// Label of the directories of the demo's agent.
const LABEL: &str = "demo";

/// Rounds that count.
const ROUNDS: usize = 3;

/// The files that the demo runs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `cwasi-agent`.
    pub agent: PathBuf,
    /// `cwasi-run`.
    pub run: PathBuf,
    /// Directory of the guests' .wasm files.
    pub guests: PathBuf,
    /// A JPEG picture for the workflow.
    pub picture: PathBuf,
}

/// Runs the demo and prints its results. Call [`crate::interrupt::watch`] before, and Ctrl-C cleans up too.
///
/// # Errors
/// Not root; something is missing; a guest found wrong data; nothing was redirected where it should be.
pub fn run(programs: &Programs, format: Format) -> Result<()> {
    agent::reap(LABEL)?;
    topology::reap()?;
    let topology = Topology::create(&["source", "resize", "store"])?;
    let agent = Agent::start(&programs.agent, LABEL)?;
    agent.require_acceleration()?;
    let mut stage = Stage::new(programs, topology, agent)?;

    let mut progress = report::Progress::new(((ROUNDS + 1) * Job::ALL.len() * Path::ALL.len()) as u64);
    let mut samples = Samples::default();
    for round in 0..=ROUNDS {
        let part = match round {
            0 => "warm-up".to_owned(),
            _ => format!("round {round} of {ROUNDS}"),
        };
        for job in Job::ALL {
            for path in Path::order(round) {
                progress.step(&part, &format!("{} {}", job.name(), path.title()));
                let sample = stage.run(job, path)?;
                // The first round compiles the guests and warms everything up.
                if round > 0 {
                    samples.add(job, path, sample)?;
                }
            }
        }
    }
    drop(progress);
    drop(stage);

    let results = samples.results()?;
    match format {
        Format::Json => report::print_json(&results),
        Format::Table => {
            println!("{}", results::table(&results));
            Ok(())
        }
    }
}
