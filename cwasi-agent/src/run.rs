//! The agent's process: start, serve, end.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cwasi_client::announce::Announcements;
use cwasi_client::protocol::Degradation;
use cwasi_ebpf_common::offsets::QueueMeasure;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tracing::{debug, error, info, warn};

use crate::agent::{Agent, Kernel, Node, Settings, StateLocked, Store};
use crate::announced::Announced;
use crate::api::server::{Limits, serve};
use crate::api::socket::{Socket, SocketError};
use crate::api::{Shared, lock};
use crate::capabilities::{Capability, Held};
use crate::http;
use crate::kernel::object::Object;
use crate::kernel::selftest::{Check, Report};
use crate::kernel::{KernelPlane, Options as PlaneOptions, PlaneError, readers, selftest};
use crate::page::StatusPage;
use crate::probe::{one_line, remedy_of_check};

/// How often events are taken from the kernel's ring, which holds about 1500.
const EVENTS_EVERY: Duration = Duration::from_millis(200);
/// How often functions and announcements are looked after.
const FUNCTIONS_EVERY: Duration = Duration::from_secs(2);
/// How often the kernel's maps are looked after, which walks every open connection.
const PLANE_EVERY: Duration = Duration::from_secs(10);

/// When a kernel is tried again that failed its tests: what it was short of, memory or time, may be there by then.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How long it is left alone at most; each time is twice as long as the one before.
const AGAIN_AT_LEAST_EVERY: Duration = Duration::from_secs(3600);

/// Name of the probe that tells whether the data plane could be made at all.
pub const LOAD: &str = "load";

/// Names of all probes: the checks of the self-test, and what else an agent finds of the kernel at its start.
pub const PROBES: [&str; 7] = [
    selftest::CHECKS[0],
    selftest::CHECKS[1],
    selftest::CHECKS[2],
    selftest::CHECKS[3],
    selftest::CHECKS[4],
    LOAD,
    readers::READERS,
];

/// How to run an agent.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Where what must survive a restart is kept.
    pub state_dir: PathBuf,
    /// Whom the status page is for.
    pub status_page: StatusPage,
    /// What is loaded into the kernel.
    pub object: Object,
    /// The rest.
    pub settings: Settings,
}

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The socket cannot be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The state directory is another agent's.
    #[error(transparent)]
    State(#[from] StateLocked),
    /// The bpffs directory is another agent's.
    #[error("{0}; {remedy}", remedy = .0.remedy())]
    Locked(PlaneError),
    /// cannot serve metrics on {addr}: {source}; give another --metrics-addr
    #[error("cannot serve metrics on {addr}: {source}; give another --metrics-addr")]
    Metrics {
        /// Address asked for.
        addr: SocketAddr,
        /// Error of `bind`.
        source: io::Error,
    },
    /// {call}: {source}
    #[error("{call}: {source}")]
    System {
        /// What was tried.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

impl RunError {
    /// Whether another agent is the reason.
    #[must_use]
    pub const fn is_other_agent(&self) -> bool {
        matches!(
            self,
            Self::Socket(SocketError::Taken(_)) | Self::State(_) | Self::Locked(_)
        )
    }
}

fn system(call: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { call, source }
}

/// Runs an agent until SIGTERM, SIGINT or an unload. Pins stay, flows go on; only an unload removes them.
///
/// # Errors
/// Another agent is there, or an address or directory cannot be used. A kernel that lacks something is no error: the agent
/// then runs degraded.
pub fn run(options: RunOptions) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    let result = runtime.block_on(supervise(options));
    // A self-test that still runs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn supervise(mut options: RunOptions) -> Result<(), RunError> {
    let (stop, mut stopped) = watch::channel(false);
    watch_signals(stop.clone())?;
    let socket = Socket::bind(&options.socket)?;
    let store = Store::new(&options.state_dir);
    let _state_lock = store.lock()?;
    let started = http::Started::default();
    options.settings.metrics_addr = Some(serve_http(&options, Arc::clone(&started)).await?);

    let plane = PlaneOptions {
        budget: options.settings.budget,
        object: options.object,
        ..PlaneOptions::new(options.settings.bpffs.clone(), QueueMeasure::SinceEmpty)
    };
    let first = plane.clone();
    let opened = tokio::select! {
        opened = spawn_blocking(move || open_kernel(&selftest::run(), first)) => opened.map_err(io::Error::from),
        _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
    };
    let kernel = opened.map_err(system("open the data plane"))??;
    let node = Node::new();
    for cgroup in node.remove_abandoned() {
        info!(cgroup = %cgroup.display(), "removed: it is empty, and its maker dead");
    }
    let agent = Agent::new(kernel, options.settings, Box::new(node), store);
    let agent: Shared = Arc::new(Mutex::new(agent));
    let announced = Announced::new(Announcements::beside(&options.socket));
    let announced = look(announced, &agent)
        .await
        .map_err(system("look at the announcements"))?;
    let _ = started.set(Arc::clone(&agent));
    let clock = tokio::spawn(keep_time(Arc::clone(&agent)));
    let looks = tokio::spawn(keep_looking(announced, Arc::clone(&agent)));
    let again = tokio::spawn(keep_trying(plane, Arc::clone(&agent)));
    info!(socket = %options.socket.display(), "serving");
    let listener = socket.listener().map_err(system("listen"))?;
    serve(listener, Arc::clone(&agent), Limits::default(), stop).await;
    clock.abort();
    looks.abort();
    again.abort();
    lock(&agent).save_processes();
    info!("ended; open connections go on");
    Ok(())
}

fn watch_signals(stop: watch::Sender<bool>) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(system("catch SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("catch SIGINT"))?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM"),
            _ = interrupt.recv() => info!("SIGINT"),
        }
        stop.send_replace(true);
    });
    Ok(())
}

/// Starts to serve HTTP, and returns the address, which has a port even if none was asked for.
async fn serve_http(options: &RunOptions, started: Arc<OnceLock<Shared>>) -> Result<SocketAddr, RunError> {
    let addr = options
        .settings
        .metrics_addr
        .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let listener = TcpListener::bind(addr)
        .await
        .map_err(|source| RunError::Metrics { addr, source })?;
    let bound = listener
        .local_addr()
        .map_err(|source| RunError::Metrics { addr, source })?;
    let page = options.status_page;
    tokio::spawn(http::serve(listener, started, page, http::Limits::default()));
    info!("metrics on http://{bound}/metrics");
    match page {
        StatusPage::Off => {}
        StatusPage::Loopback => info!("status page on http://{bound}/status, for this machine alone"),
        StatusPage::Any if bound.ip().is_loopback() => info!("status page on http://{bound}/status"),
        StatusPage::Any => warn!(
            "status page on http://{bound}/status: whoever reaches this address reads the names and addresses of all functions"
        ),
    }
    Ok(bound)
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A look at the announcements, which waits for the file system, on a thread of its own.
async fn look(mut announced: Announced, agent: &Shared) -> io::Result<Announced> {
    let agent = Arc::clone(agent);
    let looked = spawn_blocking(move || {
        announced.look(&agent);
        announced
    });
    Ok(looked.await?)
}

async fn keep_looking(mut announced: Announced, agent: Shared) {
    let mut ticks = every(FUNCTIONS_EVERY);
    loop {
        ticks.tick().await;
        announced = match look(announced, &agent).await {
            Ok(announced) => announced,
            Err(error) => return error!("announcements are not looked at any more: {error}"),
        };
    }
}

async fn keep_time(agent: Shared) {
    let (mut events, mut functions, mut plane) =
        (every(EVENTS_EVERY), every(FUNCTIONS_EVERY), every(PLANE_EVERY));
    loop {
        tokio::select! {
            _ = events.tick() => lock(&agent).drain_events(),
            _ = functions.tick() => lock(&agent).sweep_functions(),
            _ = plane.tick() => lock(&agent).sweep_plane(),
        }
    }
}

/// Looks at the kernel again, each time after a longer while, until the data plane works.
async fn keep_trying(options: PlaneOptions, agent: Shared) {
    let mut pause = AGAIN_AFTER;
    while lock(&agent).lacks_kernel() {
        sleep(pause).await;
        pause = (pause * 2).min(AGAIN_AT_LEAST_EVERY);
        let (options, agent) = (options.clone(), Arc::clone(&agent));
        if let Err(error) = spawn_blocking(move || try_again(options, &agent)).await {
            return error!("the kernel is not tried again: {error}");
        }
    }
}

/// Tests the kernel once more, and opens the data plane when it passes, or when there was none to hold off.
fn try_again(options: PlaneOptions, agent: &Shared) {
    let report = selftest::run();
    let mut agent = lock(agent);
    let passes = report.measure.is_some();
    if !agent.lacks_kernel() || (agent.has_plane() && !passes) {
        return;
    }
    agent.close_plane();
    match open_kernel(&report, options) {
        Ok(kernel) => agent.adopt(kernel),
        Err(error) => warn!("{error}"),
    }
    if !agent.lacks_kernel() {
        info!("the kernel passes its tests now");
    }
}

/// Takes over or makes the data plane of a kernel that was tested, with the measure of the queue that was found to work.
///
/// # Errors
/// Another agent holds the bpffs directory. Anything else is told in [`Kernel::degraded`].
pub fn open_kernel(report: &Report, mut options: PlaneOptions) -> Result<Kernel, RunError> {
    for check in report.checks.iter().filter(|check| !check.passed) {
        debug!("{}: {}", check.name, check.detail);
    }
    let mut degraded = failures(&report.checks);
    // Without a measure that works the plane is opened all the same: what an agent before left is kept, and held off.
    options.measure = report.measure.unwrap_or(options.measure);
    let plane = match KernelPlane::open(options) {
        Ok(plane) => Some(plane),
        Err(error @ PlaneError::Locked { .. }) => return Err(RunError::Locked(error)),
        Err(error) => {
            debug!("load: {error}");
            degraded.push(Degradation {
                reason: LOAD.to_owned(),
                detail: one_line(&error.to_string()),
                remedy: error.remedy().to_owned(),
            });
            None
        }
    };
    if let Some(cause) = Held::now().missing().next().filter(|_| !degraded.is_empty()) {
        degraded = vec![without(cause, &degraded)];
    }
    let told = readers::told();
    if let (Err(error), Some(_)) = (&told, &plane) {
        degraded.push(Degradation {
            reason: readers::READERS.to_owned(),
            detail: error.to_string(),
            remedy: readers::REMEDY.to_owned(),
        });
    }
    for cause in &degraded {
        warn!("degraded: {}: {}; {}", cause.reason, cause.detail, cause.remedy);
    }
    let mut probes: Vec<_> = report
        .checks
        .iter()
        .map(|check| (check.name, check.passed))
        .collect();
    probes.push((LOAD, plane.is_some()));
    probes.push((readers::READERS, told.is_ok()));
    let plane = plane.map(|plane| Box::new(plane) as Box<dyn crate::plane::Plane>);
    Ok(Kernel {
        plane,
        probes,
        degraded,
        held_off: report.measure.is_none(),
    })
}

/// The one cause behind these failures: the capability that the agent does without, as the kernel's words do not say it.
fn without(missing: Capability, failures: &[Degradation]) -> Degradation {
    let seen = failures.first().map(|failure| failure.detail.as_str());
    let seen = seen.unwrap_or_default();
    Degradation {
        reason: LOAD.to_owned(),
        detail: format!("{} is missing, which {}: {seen}", missing.name, missing.purpose),
        remedy: Held::now().remedy(missing).to_owned(),
    }
}

/// The failed checks, each cause once: one that stops the self-test fails every check after it.
fn failures(checks: &[Check]) -> Vec<Degradation> {
    let mut failures: Vec<Degradation> = Vec::new();
    for check in checks.iter().filter(|check| !check.passed) {
        let detail = one_line(&check.detail);
        if failures.iter().all(|known| known.detail != detail) {
            failures.push(Degradation {
                reason: format!("self_test_{}", check.name),
                detail,
                remedy: remedy_of_check(check).to_owned(),
            });
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::selftest::NOT_TRIED;

    #[test]
    fn a_cause_is_told_once() {
        let check = |name, passed, detail: &str| Check {
            name,
            passed,
            detail: detail.to_owned(),
        };
        let failures = failures(&[
            check("redirect", true, "4 of 4"),
            check("queue_charged", false, "grew"),
            check("order_across_spill", false, NOT_TRIED),
            check("eof_after_data", false, NOT_TRIED),
        ]);
        let reasons: Vec<_> = failures.iter().map(|failure| failure.reason.as_str()).collect();
        assert_eq!(
            reasons,
            ["self_test_queue_charged", "self_test_order_across_spill"]
        );
        assert!(failures[0].remedy.contains("cannot be bounded"));
        assert!(failures[1].remedy.contains("the earlier check"));
    }
}
