//! Mixed traffic over every path for minutes, with every byte compared, while agent and functions are stopped, killed and
//! replaced. What no fault has hit must end well, whatever happens to the rest of the node.

mod faults;
mod lane;
mod memory;
mod results;
mod session;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::agent::{self, Agent};
use crate::error::IoContext;
use crate::report::Format;
use crate::topology::{self, Topology};
use crate::{Error, Result, interrupt, report};
use lane::Lane;
use memory::Memory;
pub use results::Results;
use results::Tally;
use session::Stage;

/// Label of the directories of the soak's agent.
const LABEL: &str = "soak";

/// How often progress is shown.
const TICK: Duration = Duration::from_millis(500);

/// How long what ended may be remembered.
const SETTLE: Duration = Duration::from_secs(30);

/// The files that a soak runs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Directory of `cwasi-agent`, `cwasi-run` and `cwasi-native`.
    pub built: PathBuf,
    /// Directory of the guests' .wasm files.
    pub guests: PathBuf,
}

/// How long, and from which random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// From the first connection until the last one begins.
    pub length: Duration,
    /// What faults, sizes and moments are drawn from; another each time when there is none.
    pub seed: Option<u64>,
    /// How the results are printed.
    pub format: Format,
}

/// Soaks, and prints what came of it. Call [`interrupt::watch`] before, and Ctrl-C cleans up too.
///
/// # Errors
/// Not root; something is missing; [`Error::Soak`] after the results were printed; [`Error::Left`].
pub fn run(programs: &Programs, options: &Options) -> Result<()> {
    let results = soak(programs, options)?;
    match options.format {
        Format::Json => report::print_json(&results)?,
        Format::Table => println!("{results}"),
    }
    match (&results.broken[..], results.left.as_str()) {
        ([], "") => Ok(()),
        ([], left) => Err(Error::Left(left.to_owned())),
        (broken, _) => Err(Error::Soak {
            broken: broken.len(),
            wrong: results.wrong,
        }),
    }
}

/// Soaks.
///
/// # Errors
/// Not root; something is missing, or the agent does not come back.
pub fn soak(programs: &Programs, options: &Options) -> Result<Results> {
    agent::reap(LABEL)?;
    topology::reap()?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let scratch = tempfile::tempdir().action(|| "create a temporary directory")?;
    let stage = Stage {
        topology: Topology::create(&["client", "server"])?,
        agent: Agent::start(&programs.built.join("cwasi-agent"), LABEL)?,
        programs: programs.clone(),
        cache: scratch.path().join("cache"),
        ports: Mutex::default(),
    };
    stage.agent.require_acceleration()?;
    let before = (Memory::of(&stage.agent)?, stage.agent.status()?);
    let tally = Mutex::new(Tally::default());
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut fork = || random.fork();
        let lanes = Lane::ALL.map(|lane| {
            let (random, stage, tally, over) = (fork(), &stage, &tally, &over);
            scope.spawn(move || lane.run(stage, random, tally, over))
        });
        let (random, stage_, tally_, over_) = (fork(), &stage, &tally, &over);
        let faults = scope.spawn(move || faults::of_the_agent(&stage_.agent, random, tally_, over_));
        let watched = watch(begun, options.length, &tally, &|| {
            faults.is_finished() || lanes.iter().any(thread::ScopedJoinHandle::is_finished)
        });
        over.store(true, Ordering::Relaxed);
        let ended = lanes.into_iter().chain([faults]).map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
        });
        // All of them are joined, whatever the first one says.
        let ended: Vec<Result<()>> = ended.collect();
        watched.and(ended.into_iter().collect::<Result<()>>())
    })?;
    let left = settle(&stage.agent)?;
    let tally = tally
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let after = (Memory::of(&stage.agent)?, stage.agent.status()?);
    Ok(Results::new(seed, begun.elapsed(), tally, before, after, left))
}

/// Shows progress until the time is over, a part has `failed`, or a signal comes.
fn watch(begun: Instant, length: Duration, tally: &Mutex<Tally>, failed: &dyn Fn() -> bool) -> Result<()> {
    let style = ProgressStyle::with_template("{bar:30} {elapsed} (left: {eta}) {msg}")
        .expect("a constant template is valid");
    let bar = ProgressBar::new(length.as_secs()).with_style(style);
    while begun.elapsed() < length && !failed() {
        bar.set_position(begun.elapsed().as_secs());
        let tally = results::lock(tally);
        bar.set_message(format!(
            "{} compared, {} wrong, {} faults",
            HumanBytes(tally.bytes()),
            tally.wrong(),
            tally.faults()
        ));
        drop(tally);
        interrupt::pause(TICK)?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Waits until the agent has forgotten what has ended; says what it has not.
fn settle(agent: &Agent) -> Result<String> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let status = agent.status()?;
        let flows = status.flows.kernel + status.flows.network + status.flows.process;
        let degraded: Vec<&str> = status.degraded.iter().map(|why| why.detail.as_str()).collect();
        if status.functions == 0 && flows == 0 && degraded.is_empty() {
            return Ok(String::new());
        }
        if Instant::now() > deadline {
            return Ok(format!(
                "{} functions, {flows} flows; degraded: {degraded:?}",
                status.functions
            ));
        }
        interrupt::pause(TICK)?;
    }
}
