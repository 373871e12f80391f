//! The shim's hold of the process of a pod's functions, from its beginning to its end.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, io, thread};

use cwasi_client::process_report::{FunctionRef, MAX_CONNECTIONS, ProcessReport, Reporter};
use cwasi_client::protocol::FunctionSpec;
use oci_spec::runtime::Spec;

use super::message::{Notice, Order};
use super::specification::{ROOTFS, beside, of_functions};
use super::wire::{Channel, WireError};
use crate::containerd::bundle::Bundle;
use crate::containerd::container::{Container, Stdio, Work};
use crate::containerd::error::ShimError;
use crate::containerd::function::{Enrolled, agent_socket, describe};
use crate::containerd::pidfd::{PidFd, Reaped};

/// Seconds that an order waits for a process that does not read.
const ORDER_SECONDS: i64 = 5;

/// Longest wait for the process to have let a guest go.
const GONE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the sandbox of the process is, and how the agent calls it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// containerd's namespace.
    pub namespace: String,
    /// Id of the sandbox.
    pub id: String,
    /// Its bundle.
    pub bundle: Bundle,
}

/// A process of functions.
#[derive(Debug)]
pub struct Handle {
    id: String,
    sandbox: Sandbox,
    /// Its bundle.
    bundle: Bundle,
    container: Container,
    process: PidFd,
    control: Channel,
    enrolled: Option<Enrolled>,
    state: Mutex<State>,
    changed: Condvar,
    reporter: Mutex<Option<Reporter>>,
    /// The functions that the agent was told of last. Held while it is told: it hears of them in the order in which they come
    /// and go.
    told: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct State {
    /// Names of the functions.
    members: BTreeMap<u64, String>,
    /// Of which the process has told that nothing is left, and which are members still.
    gone: HashSet<u64>,
    /// What passes between them, as the process has told.
    report: ProcessReport,
    /// It takes no guests any more: it is dead, or has lost its last one.
    over: bool,
    /// What it had is removed, or will be.
    ended: bool,
}

impl Handle {
    /// Starts the process `id` on the terms of the container `first`, whose function `name` it will run, with a bundle in the
    /// directory `dir` and a cgroup of the name `cgroup` beside the container's.
    ///
    /// # Errors
    /// [`ShimError`]. Nothing of the process is left then.
    pub fn start(
        sandbox: &Sandbox,
        id: &str,
        cgroup: &str,
        dir: &Path,
        first: &Bundle,
        name: &str,
    ) -> Result<Arc<Self>, ShimError> {
        let bundle = make_bundle(cgroup, dir, first)?;
        let (control, its) = Channel::pair().map_err(broken)?;
        control.set_send_timeout(ORDER_SECONDS).map_err(broken)?;
        let work = Work::Functions(OwnedFd::from(its).into());
        let container = Container::create(id, &bundle, &Stdio::default(), work)?;
        let watched = PidFd::open(container.pid).and_then(|watched| container.start().map(|()| watched));
        let (process, reaped) = match watched {
            Ok(watched) => watched,
            Err(error) => {
                container.delete()?;
                return Err(error);
            }
        };
        let pid = container.pid.unsigned_abs();
        let members = vec![name.to_owned()];
        let enrolled = Enrolled::begin(pid, dir, &sandbox.namespace, id, |cgroup| {
            describe_functions(sandbox, pid, cgroup, members.clone())
        });
        log::info!("{id}: the process of the functions of {} is {pid}", sandbox.id);
        let handle = Arc::new(Self {
            id: id.to_owned(),
            sandbox: sandbox.clone(),
            bundle,
            container,
            process,
            control,
            enrolled,
            state: Mutex::default(),
            changed: Condvar::new(),
            reporter: Mutex::default(),
            told: Mutex::new(members),
        });
        handle.report_to_agent();
        let watched = Arc::clone(&handle);
        thread::spawn(move || watched.watch(reaped));
        Ok(handle)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it can take guests.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.lock().over
    }

    /// Has it run the function `name` once its stand-in, at the other end of `stand_in`, says so.
    ///
    /// # Errors
    /// [`ShimError::Process`].
    pub fn admit(
        &self,
        guest: u64,
        name: &str,
        stand_in: &Channel,
        code: &impl AsFd,
    ) -> Result<(), ShimError> {
        let order = Order::Admit {
            guest,
            name: name.to_owned(),
        };
        let mut state = self.lock();
        if state.over {
            return Err(broken(WireError::Closed));
        }
        state.members.insert(guest, name.to_owned());
        if let Err(error) = self.control.send(&order, &[stand_in.as_fd(), code.as_fd()]) {
            state.members.remove(&guest);
            return Err(broken(error));
        }
        drop(state);
        self.tell_agent();
        Ok(())
    }

    /// Waits until nothing of the guest is left in the process.
    pub fn wait_gone(&self, guest: u64) {
        let present = |state: &mut State| {
            !state.over && state.members.contains_key(&guest) && !state.gone.contains(&guest)
        };
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), GONE_TIMEOUT, present);
        if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            log::warn!("{}: the process does not say that guest {guest} is gone", self.id);
        }
    }

    /// Forgets a guest. Gives `true`, once, when it was the last: the process takes no more then, and is to be ended.
    #[must_use]
    pub fn forget(&self, guest: u64) -> bool {
        let mut state = self.lock();
        state.gone.remove(&guest);
        state.members.remove(&guest);
        if state.members.is_empty() {
            state.over = true;
            return !std::mem::replace(&mut state.ended, true);
        }
        drop(state);
        self.tell_agent();
        false
    }

    /// Ends the process, and removes what it had.
    pub fn end(&self) {
        // The agent hears the last sums before the cgroup goes.
        drop(
            self.reporter
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        if let Err(error) = self.container.delete() {
            log::warn!("{}: {error}", self.id);
        }
        if let Some(enrolled) = &self.enrolled {
            enrolled.end();
        }
        // containerd would remove it, with the sandbox's.
        if let Err(error) = fs::remove_dir_all(&self.bundle.dir) {
            log::warn!("rmdir of {} failed: {error}", self.bundle.dir.display());
        }
    }

    /// Lets the kernel kill it no sooner for its memory than the container that it spares most: `score` is one's
    /// `oom_score_adj`.
    pub fn spare(&self, score: i32) {
        let path = format!("/proc/{}/oom_score_adj", self.container.pid);
        let own = fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse::<i32>().ok());
        if own.is_some_and(|own| score < own)
            && let Err(error) = fs::write(&path, score.to_string())
        {
            log::warn!("write of {path} failed: {error}");
        }
    }

    /// Tells the agent of the functions that are there now.
    fn tell_agent(&self) {
        let Some(enrolled) = &self.enrolled else { return };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let members: Vec<String> = self.lock().members.values().cloned().collect();
        if members != *told {
            let pid = self.container.pid.unsigned_abs();
            enrolled.describe(|cgroup| describe_functions(&self.sandbox, pid, cgroup, members.clone()));
            *told = members;
        }
    }

    /// Tells the agent, now and then, what passes between the functions: the process itself cannot reach it.
    fn report_to_agent(self: &Arc<Self>) {
        let Some(enrolled) = &self.enrolled else { return };
        let of = FunctionRef::Cgroup(enrolled.cgroup().to_owned());
        // A reporter that outlives the process would keep it from being ended.
        let handle = Arc::downgrade(self);
        let report = move || {
            handle
                .upgrade()
                .map_or_else(ProcessReport::default, |handle| handle.lock().report.clone())
        };
        let id = self.id.clone();
        let refused = move |error| {
            log::warn!("{id}: the agent does not take what its functions say to each other: {error}");
        };
        match Reporter::start(agent_socket(), of, report, refused) {
            Ok(reporter) => {
                *self.reporter.lock().unwrap_or_else(PoisonError::into_inner) = Some(reporter);
            }
            Err(error) => log::warn!(
                "{}: the agent does not hear what its functions say to each other: {error}",
                self.id
            ),
        }
    }

    /// Hears what the process tells until it ends, in a thread of its own.
    fn watch(&self, reaped: Reaped) {
        let ended = loop {
            match self.control.receive::<Notice>() {
                Ok(message) => self.note(message.body),
                Err(error) => break error,
            }
        };
        // Also one that talks nonsense: its stand-ins are told by its end.
        if let Err(error) = self.process.kill(libc::SIGKILL.unsigned_abs()) {
            log::error!("{}: {error}", self.id);
        }
        let code = self.process.wait(reaped);
        let mut state = self.lock();
        if !state.over {
            let names: Vec<&str> = state.members.values().map(String::as_str).collect();
            log::error!(
                "{}: the process of the functions ended ({}; {ended}), and with it: {}",
                self.id,
                code.map_or_else(|error| error.to_string(), |code| format!("exit code {code}")),
                names.join(", ")
            );
        }
        state.over = true;
        drop(state);
        self.changed.notify_all();
    }

    fn note(&self, notice: Notice) {
        match notice {
            Notice::Report(report) => {
                let mut state = self.lock();
                let state = &mut *state;
                state.report = believable(report, &state.report, &state.members);
            }
            Notice::Gone { guest } => {
                let mut state = self.lock();
                // A number that was not given out is nobody's.
                if state.members.contains_key(&guest) {
                    state.gone.insert(guest);
                    drop(state);
                    self.changed.notify_all();
                }
            }
        }
    }
}

/// What of a report may be passed on: sums that do not shrink, and connections between functions of the process.
fn believable(
    mut report: ProcessReport,
    before: &ProcessReport,
    members: &BTreeMap<u64, String>,
) -> ProcessReport {
    let (now, before) = (&mut report.totals, &before.totals);
    now.connections = now.connections.max(before.connections);
    now.messages = now.messages.max(before.messages);
    now.bytes = now.bytes.max(before.bytes);
    let is_member = |name: &String| members.values().any(|member| member == name);
    report.connections.retain(|connection| {
        is_member(&connection.client.function) && is_member(&connection.server.function)
    });
    report.connections.truncate(MAX_CONNECTIONS);
    report
}

fn broken(error: WireError) -> ShimError {
    ShimError::Process(format!("the process of the pod's functions: {error}"))
}

/// Writes the bundle of the process.
fn make_bundle(cgroup: &str, dir: &Path, first: &Bundle) -> Result<Bundle, ShimError> {
    let failed = |call, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| ShimError::Io { call, path, source }
    };
    let rootfs = dir.join(ROOTFS);
    fs::create_dir_all(&rootfs).map_err(failed("mkdir", &rootfs))?;
    let cgroup = beside(&first.cgroups_path().unwrap_or_default(), cgroup);
    let unusable = |error: &dyn std::error::Error| ShimError::Bundle {
        path: dir.to_owned(),
        reason: error.to_string(),
    };
    let spec: Spec = of_functions(&first.spec, &cgroup).map_err(|error| unusable(&error))?;
    spec.save(dir.join("config.json"))
        .map_err(|error| unusable(&error))?;
    Ok(Bundle {
        dir: dir.to_owned(),
        spec,
    })
}

/// What the agent is told of the process: the pod, and its functions.
fn describe_functions(sandbox: &Sandbox, pid: u32, cgroup: &Path, members: Vec<String>) -> FunctionSpec {
    let bundle = &sandbox.bundle;
    let name = bundle.pod().name.unwrap_or_else(|| sandbox.id.clone());
    FunctionSpec {
        members,
        ..describe(bundle, &sandbox.namespace, &name, pid, cgroup)
    }
}

#[cfg(test)]
mod tests {
    use cwasi_client::process_report::{ProcessConnection, ProcessEnd, ProcessTotals};

    use super::*;

    #[test]
    fn a_report_says_nothing_of_others_and_takes_nothing_back() {
        let end = |function: &str| ProcessEnd {
            function: function.to_owned(),
            address: "127.0.0.1:80".parse().unwrap(),
            messages: 1,
            bytes: 2,
        };
        let connection = |client: &str, server: &str| ProcessConnection {
            client: end(client),
            server: end(server),
            established_ns: 0,
        };
        let totals = |connections, messages, bytes| ProcessTotals {
            connections,
            messages,
            bytes,
        };
        let before = ProcessReport {
            totals: totals(5, 5, 5),
            ..Default::default()
        };
        let many = std::iter::repeat_n(connection("a", "b"), 2 * MAX_CONNECTIONS);
        let report = ProcessReport {
            totals: totals(6, 4, 5),
            open: 9,
            connections: [connection("a", "other"), connection("other", "b")]
                .into_iter()
                .chain(many)
                .collect(),
        };
        let members = BTreeMap::from([(1, "a".to_owned()), (2, "b".to_owned())]);
        let passed_on = believable(report, &before, &members);
        assert_eq!(passed_on.totals, totals(6, 5, 5));
        assert_eq!(passed_on.connections, vec![connection("a", "b"); MAX_CONNECTIONS]);
    }
}
