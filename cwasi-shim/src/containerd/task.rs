//! One container's life, from its creation to its removal.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim::util::timestamp;

use super::bundle::{Bundle, guest_config};
use super::compile::{compile, warm_up};
use super::container::{Container, Stdio};
use super::error::ShimError;
use super::function::{Function, agent_socket, describe};
use super::leaf::{Leaf, key};
use super::pidfd::{PidFd, Reaped};
use super::workload::Workload;
use crate::exit;

/// Longest wait, after a container was killed to be deleted, for its end to be seen.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// What a task is made of.
#[derive(Clone, Debug)]
pub struct TaskSpec {
    /// Id of the container.
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// Address of containerd's gRPC socket.
    pub containerd: PathBuf,
    /// The bundle; its root filesystem is mounted.
    pub bundle: Bundle,
    /// The container's standard streams.
    pub stdio: Stdio,
}

/// The end of a container's process.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// Its exit code, or 128 and the number of the signal that ended it.
    pub code: u32,
    /// When it was seen.
    pub at: Timestamp,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Its process waits for the start.
    Created,
    /// Its program runs.
    Running,
    /// Its process has ended.
    Stopped(Exit),
}

impl State {
    const fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// A container of this shim.
pub struct Task {
    spec: TaskSpec,
    container: Container,
    process: PidFd,
    guest: Option<Guest>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held while the container starts: containerd hears of the start before it hears of the end.
    starting: Mutex<()>,
}

/// What only a guest has.
struct Guest {
    leaf: Leaf,
    function: Function,
}

impl Guest {
    /// Gives the guest its leaf, and makes the agent know it. A host on which that fails runs the guest on plain TCP.
    fn begin(spec: &TaskSpec, pid: u32) -> Option<Self> {
        let bundle = &spec.bundle;
        let leaf = Leaf::of_guest(pid, &bundle.dir, &spec.namespace, &spec.id)
            .map_err(|error| log::warn!("{} stays on TCP: {error}", spec.id))
            .ok()?;
        let key = key(&bundle.dir, &spec.namespace, &spec.id);
        let function = Function::new(agent_socket(), key, leaf.path().to_owned());
        function.begin(&describe(bundle, &spec.namespace, &spec.id, pid, leaf.path()));
        Some(Self { leaf, function })
    }

    /// May be called any number of times.
    fn end(&self) {
        if let Err(error) = self.function.end() {
            log::warn!("{error}");
        }
        if let Err(error) = self.leaf.remove() {
            log::warn!("{error}");
        }
    }
}

impl Task {
    /// Creates the container. `ended` is called once, with the end of a container that was started.
    ///
    /// # Errors
    /// What is wrong with bundle, image, annotations or program. Nothing of the container is left then.
    pub fn create(
        spec: TaskSpec,
        ended: impl FnOnce(&Self, &Exit) + Send + 'static,
    ) -> Result<Arc<Self>, ShimError> {
        let bundle = &spec.bundle;
        let code = match Workload::find(bundle, &spec.id, &spec.containerd, &spec.namespace)? {
            Workload::Native => None,
            Workload::Guest { name, wasm } => {
                // Bad annotations are told before anything is compiled.
                guest_config(&bundle.spec)?;
                let compiled = compile(&name, wasm)?;
                for error in &compiled.cache_errors {
                    log::warn!("{name}: {error}");
                }
                let origin = if compiled.cached {
                    "from the cache"
                } else {
                    "compiled"
                };
                log::info!("{}: {name}: {origin}", spec.id);
                Some(compiled.code)
            }
        };
        let is_guest = code.is_some();
        let container = Container::create(&spec.id, bundle, &spec.stdio, code)?;
        let watched = PidFd::open(container.pid);
        let (process, reaped) = match watched {
            Ok(watched) => watched,
            Err(error) => {
                container.delete()?;
                return Err(error);
            }
        };
        let guest = is_guest
            .then(|| Guest::begin(&spec, container.pid.unsigned_abs()))
            .flatten();
        if bundle.is_sandbox() {
            // The containers of the pod come next; the engine is ready for them then.
            thread::spawn(|| warm_up().map_err(|error| log::warn!("{error}")));
        }
        let task = Arc::new(Self {
            spec,
            container,
            process,
            guest,
            state: Mutex::new(State::Created),
            changed: Condvar::new(),
            starting: Mutex::new(()),
        });
        let watched = Arc::clone(&task);
        thread::spawn(move || watched.watch(reaped, ended));
        Ok(task)
    }

    /// Waits for the end of the process, in a thread of its own.
    fn watch(&self, reaped: Reaped, ended: impl FnOnce(&Self, &Exit)) {
        let code = self.process.wait(reaped).unwrap_or_else(|error| {
            log::error!("{}: {error}", self.spec.id);
            u32::from(exit::HOST)
        });
        let at = timestamp().unwrap_or_default();
        if let Some(guest) = &self.guest {
            // Before containerd hears of the end: who then looks finds nothing.
            guest.end();
        }
        let starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let exit = Exit { code, at };
        let before = std::mem::replace(&mut *self.lock(), State::Stopped(exit.clone()));
        self.changed.notify_all();
        drop(starting);
        if before == State::Running {
            ended(self, &exit);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the program run; `started` is called before anything is told of its end.
    ///
    /// # Errors
    /// It was started before, or its process is gone.
    pub fn start(&self, started: impl FnOnce(u32)) -> Result<u32, ShimError> {
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        if state != State::Created {
            return Err(self.wrong_state(&state, "created"));
        }
        self.container.start()?;
        *self.lock() = State::Running;
        started(self.pid());
        Ok(self.pid())
    }

    /// Sends a signal to the first process; one that has ended is no error.
    ///
    /// # Errors
    /// There is no such signal.
    pub fn kill(&self, signal: u32) -> Result<(), ShimError> {
        self.process.kill(signal)
    }

    /// Waits for the end.
    #[must_use]
    pub fn wait(&self) -> Exit {
        let mut state = self.lock();
        loop {
            match &*state {
                State::Stopped(exit) => return exit.clone(),
                _ => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Removes what is left of a container that does not run, and gives its end.
    ///
    /// # Errors
    /// It runs, or something of it cannot be removed; it may be asked for again then.
    pub fn delete(&self) -> Result<Exit, ShimError> {
        let state = self.state();
        if state == State::Running {
            return Err(self.wrong_state(&state, "stopped"));
        }
        self.container.delete()?;
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), END_TIMEOUT, |state| {
                !matches!(state, State::Stopped(_))
            })
            .unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Stopped(exit) => Ok(exit.clone()),
            other => Err(self.wrong_state(other, "stopped")),
        }
    }

    fn wrong_state(&self, state: &State, wanted: &'static str) -> ShimError {
        ShimError::State {
            id: self.spec.id.clone(),
            state: state.name(),
            wanted,
        }
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Its first process, as this host numbers it.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.container.pid.unsigned_abs()
    }

    /// Its bundle.
    #[must_use]
    pub const fn bundle(&self) -> &Bundle {
        &self.spec.bundle
    }

    /// Its standard streams.
    #[must_use]
    pub const fn stdio(&self) -> &Stdio {
        &self.spec.stdio
    }
}
