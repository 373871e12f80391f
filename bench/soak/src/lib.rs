//! Mixed traffic over every path for minutes, with every byte compared, while agent, containerd, shims, pods and functions are
//! stopped, killed and replaced. What no fault has hit must end well, whatever happens to the rest of the node.
//!
//! - [`args`]: the command line of `cwasi-soak`, which `cargo xtask soak` builds and runs.
//! - `lane`: traffic over one path, one session after the other; `session`: between processes; `pods`: between pods in containerd.
//! - `containerd`: the node that these are on, where it can be had.
//! - `faults`: what is done at random moments.
//! - `memory`, `results`: what came of it.

pub mod args;
mod containerd;
mod error;
mod faults;
mod lane;
mod memory;
mod pods;
mod results;
mod session;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cwasi_bench::agent::{self, Agent};
use cwasi_bench::error::IoContext;
use cwasi_bench::interrupt;
use cwasi_bench::topology::{self, Topology};
use cwasi_testnode::wait::CLOSING;
use fastrand::Rng;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

pub use args::Args;
use containerd::Containerd;
pub use error::{Error, Result};
use lane::Lane;
use memory::Memory;
pub use results::Results;
use results::Tally;
use session::Stage;

/// Label of the directories of the soak's agent.
const LABEL: &str = "soak";

/// How often progress is shown.
const TICK: Duration = Duration::from_millis(500);

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
}

/// Soaks. Call [`interrupt::watch`] before, and Ctrl-C cleans up too.
///
/// # Errors
/// Not root; something is missing, or the agent or containerd does not come back.
pub fn soak(programs: &Programs, options: &Options) -> Result<Results> {
    agent::reap(LABEL)?;
    topology::reap()?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let scratch = tempfile::tempdir().action(|| "create a temporary directory")?;
    let topology = Topology::create(&["client", "server"])?;
    let agent = Agent::start(&programs.built.join("cwasi-agent"), LABEL)?;
    agent.require_acceleration()?;
    let stage = Stage {
        containerd: Containerd::start(agent.socket())?,
        topology,
        agent,
        programs: programs.clone(),
        cache: scratch.path().join("cache"),
        ports: Mutex::default(),
    };
    let before = (Memory::of(&stage.agent)?, stage.agent.status()?);
    let tally = Mutex::new(Tally::default());
    let begun = Instant::now();
    run(&stage, Rng::with_seed(seed), &tally, begun, options.length)?;
    let left = [
        stage
            .containerd
            .as_ref()
            .map_or(Ok(String::new()), Containerd::settle)?,
        settle(&stage.agent)?,
    ];
    let tally = tally
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let after = (Memory::of(&stage.agent)?, stage.agent.status()?);
    let left: Vec<String> = left.into_iter().filter(|left| !left.is_empty()).collect();
    Ok(Results::new(
        seed,
        begun.elapsed(),
        tally,
        before,
        after,
        left.join("; "),
    ))
}

/// Runs every lane, and does the faults, each on a thread.
fn run(stage: &Stage, mut random: Rng, tally: &Mutex<Tally>, begun: Instant, length: Duration) -> Result<()> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        // All of them are drawn, so that a seed means the same without containerd.
        let lanes = Lane::ALL.map(|lane| (lane, random.fork()));
        let (of_agent, of_containerd) = (random.fork(), random.fork());
        let lanes = lanes
            .into_iter()
            .filter(|(lane, _)| stage.containerd.is_some() || !lane.is_of_pods());
        let mut threads: Vec<_> = lanes
            .map(|(lane, random)| scope.spawn(move || lane.run(stage, random, tally, over)))
            .collect();
        threads.push(scope.spawn(move || faults::of_the_agent(&stage.agent, of_agent, tally, over)));
        if let Some(containerd) = &stage.containerd {
            threads.push(scope.spawn(move || faults::of_containerd(containerd, of_containerd, tally, over)));
        }
        let watched = watch(begun, length, tally, &|| {
            threads.iter().any(thread::ScopedJoinHandle::is_finished)
        });
        over.store(true, Ordering::Relaxed);
        let ended = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
        });
        // All of them are joined, whatever the first one says.
        let ended: Vec<Result<()>> = ended.collect();
        watched.and(ended.into_iter().collect::<Result<()>>())
    })
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
    let deadline = Instant::now() + CLOSING;
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
