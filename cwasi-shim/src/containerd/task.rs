//! One container's life, from its creation to its removal.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim::util::timestamp;
use oci_spec::runtime::LinuxResources;
use opentelemetry::trace::SpanContext;

use super::bundle::{Bundle, guest_config};
use super::compile::{compile, warm_up};
use super::container::{Container, Stdio, Work};
use super::embed::terms::check_resources;
use super::embed::{Embedding, Membership};
use super::error::ShimError;
use super::function::{Enrolled, describe};
use super::oom::Kills;
use super::pidfd::{PidFd, Reaped};
use super::trace::{Marked, Span, marks};
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

/// What is told of a container that was started.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'e> {
    /// The kernel has killed it because its memory limit was reached; comes before its end.
    OutOfMemory,
    /// It has ended.
    Ended(&'e Exit),
}

/// A container of this shim.
pub struct Task {
    spec: TaskSpec,
    container: Container,
    process: PidFd,
    /// Where the kernel counts what it has killed for memory.
    kills: Option<Kills>,
    /// What only a guest in a process of its own has.
    enrolled: Option<Enrolled>,
    /// What only a guest has that shares a process.
    membership: Option<Membership>,
    /// Where its guest tells when it was made, until it starts.
    marked: Mutex<Option<Marked>>,
    /// The span of its creation.
    created: Option<SpanContext>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held while the container starts: containerd hears of the start before it hears of the end.
    starting: Mutex<()>,
}

/// Machine code for a guest that was found, and that shares its thread or does not.
fn machine_code(
    spec: &TaskSpec,
    name: &str,
    wasm: File,
    shared: bool,
    span: &Span,
) -> Result<File, ShimError> {
    // Bad annotations are told before anything is compiled.
    guest_config(&spec.bundle.spec)?;
    let compiled = span.during("cwasi.compile", |span| {
        span.set_some("cwasi.wasm.bytes", || length(&wasm));
        let compiled = compile(name, wasm, shared)?;
        span.set("cwasi.cache.hit", || compiled.cached);
        span.set_some("cwasi.code.bytes", || length(&compiled.code));
        Ok::<_, ShimError>(compiled)
    })?;
    for error in &compiled.cache_errors {
        log::warn!("{name}: {error}");
    }
    let origin = if compiled.cached {
        "from the cache"
    } else {
        "compiled"
    };
    log::info!("{}: {name}: {origin}", spec.id);
    Ok(compiled.code)
}

/// Says whose span it is, in the words of OpenTelemetry's conventions.
fn describe_to(span: &Span, spec: &TaskSpec) {
    if !span.is_recorded() {
        return;
    }
    let bundle = &spec.bundle;
    let pod = bundle.pod();
    let owned = |value: Option<&str>| value.map(str::to_owned);
    span.set("container.id", || spec.id.clone());
    span.set("containerd.namespace", || spec.namespace.clone());
    span.set("cwasi.sandbox", || bundle.is_sandbox());
    span.set_some("cwasi.sandbox.id", || owned(bundle.sandbox_id()));
    span.set_some("k8s.container.name", || owned(bundle.container_name()));
    span.set_some("k8s.pod.name", || pod.name);
    span.set_some("k8s.namespace.name", || pod.namespace);
    span.set_some("k8s.pod.uid", || pod.uid);
}

/// Length of a file, for a span.
fn length(file: &File) -> Option<i64> {
    file.metadata().ok()?.len().try_into().ok()
}

/// Finds out what a container runs.
fn find(spec: &TaskSpec, span: &Span) -> Result<Workload, ShimError> {
    span.during("cwasi.image", |span| {
        let found = Workload::find(&spec.bundle, &spec.id, &spec.containerd, &spec.namespace)?;
        if let Workload::Guest { name, wasm } = &found {
            span.set("cwasi.wasm.name", || name.clone());
            span.set_some("cwasi.wasm.bytes", || length(wasm));
        }
        Ok(found)
    })
}

impl Task {
    /// Creates the container. `tell` is called with the end of a container that was started, once.
    ///
    /// # Errors
    /// What is wrong with bundle, image, annotations or program. Nothing of the container is left then.
    pub fn create(
        spec: TaskSpec,
        embedding: &Arc<Embedding>,
        span: &Span,
        tell: impl Fn(&Self, Notice<'_>) + Send + 'static,
    ) -> Result<Arc<Self>, ShimError> {
        let bundle = &spec.bundle;
        describe_to(span, &spec);
        let (mut membership, mut marked) = (None, None);
        let work = match find(&spec, span)? {
            Workload::Native => Work::Native,
            Workload::Guest { name, wasm } if embedding.applies(bundle)? => {
                let code = machine_code(&spec, &name, wasm, true, span)?;
                let (joined, stand_in) =
                    span.during("cwasi.embed", |_| embedding.join(&spec.id, bundle, &code))?;
                membership = Some(joined);
                Work::StandIn(OwnedFd::from(stand_in).into())
            }
            Workload::Guest { name, wasm } => {
                let code = machine_code(&spec, &name, wasm, false, span)?;
                let mark = if span.is_recorded() {
                    marks().map_err(|error| log::warn!("{}: {error}", spec.id)).ok()
                } else {
                    None
                };
                let (read, mark) = mark.unzip();
                marked = read;
                Work::Guest {
                    code: OwnedFd::from(code).into(),
                    mark: mark.map(|mark| OwnedFd::from(mark).into()),
                }
            }
        };
        let has_own_process = matches!(work, Work::Guest { .. });
        let container = span.during("cwasi.container", |span| {
            let container = Container::create(&spec.id, bundle, &spec.stdio, work)?;
            span.set("process.pid", || i64::from(container.pid));
            Ok::<_, ShimError>(container)
        })?;
        let watched = PidFd::open(container.pid);
        let (process, reaped) = match watched {
            Ok(watched) => watched,
            Err(error) => {
                container.delete()?;
                return Err(error);
            }
        };
        let enrolled = has_own_process.then(|| {
            let stage = span.child("cwasi.enrol");
            let pid = container.pid.unsigned_abs();
            let enrolled = Enrolled::begin(pid, &bundle.dir, &spec.namespace, &spec.id, |cgroup| {
                describe(bundle, &spec.namespace, &spec.id, pid, cgroup)
            });
            stage.set("cwasi.accelerated", || {
                enrolled.as_ref().is_some_and(Enrolled::accelerated)
            });
            enrolled
        });
        if bundle.is_sandbox() {
            embedding.sandbox(&spec.id, bundle);
            // The containers of the pod come next; the engine is ready for them then.
            thread::spawn(|| warm_up().map_err(|error| log::warn!("{error}")));
        }
        let task = Arc::new(Self {
            spec,
            kills: Kills::of(container.pid.unsigned_abs()),
            container,
            process,
            enrolled: enrolled.flatten(),
            membership,
            marked: Mutex::new(marked),
            created: span.context(),
            state: Mutex::new(State::Created),
            changed: Condvar::new(),
            starting: Mutex::new(()),
        });
        let watched = Arc::clone(&task);
        thread::spawn(move || watched.watch(reaped, tell));
        Ok(task)
    }

    /// Waits for the end of the process, in a thread of its own.
    fn watch(&self, reaped: Reaped, tell: impl Fn(&Self, Notice<'_>)) {
        let code = self.process.wait(reaped).unwrap_or_else(|error| {
            log::error!("{}: {error}", self.spec.id);
            u32::from(exit::HOST)
        });
        let at = timestamp().unwrap_or_default();
        // Before containerd hears of the end: who then looks finds nothing.
        if let Some(enrolled) = &self.enrolled {
            enrolled.end();
        }
        if let Some(membership) = &self.membership {
            membership.leave();
        }
        let starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let exit = Exit { code, at };
        let killed = code == u32::from(exit::KILLED) && self.kills.as_ref().is_some_and(Kills::any);
        // Before containerd hears of the end, of which this is the reason.
        if killed && self.state() == State::Running {
            tell(self, Notice::OutOfMemory);
        }
        let before = std::mem::replace(&mut *self.lock(), State::Stopped(exit.clone()));
        self.changed.notify_all();
        drop(starting);
        if before == State::Running {
            tell(self, Notice::Ended(&exit));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the program run; `started` is called before anything is told of its end.
    ///
    /// # Errors
    /// It was started before, or its process is gone.
    pub fn start(&self, span: Span, started: impl FnOnce(u32)) -> Result<u32, ShimError> {
        describe_to(&span, &self.spec);
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        if state != State::Created {
            return Err(self.wrong_state(&state, "created"));
        }
        span.during("cwasi.go", |_| self.container.start())?;
        *self.lock() = State::Running;
        started(self.pid());
        if let Some(marked) = self.marked.lock().unwrap_or_else(PoisonError::into_inner).take() {
            thread::spawn(move || {
                if let Some([began, made]) = marked.wait() {
                    span.past("cwasi.instantiate", began, made);
                }
            });
        }
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

    /// Whether its guest can go on with these resources. Those of a process that it shares cannot change for it alone.
    ///
    /// # Errors
    /// [`ShimError::Embed`].
    pub fn check_update(&self, resources: &LinuxResources) -> Result<(), ShimError> {
        if self.membership.is_none() {
            return Ok(());
        }
        check_resources(resources)?;
        let limit = |resources: &LinuxResources| resources.memory().as_ref()?.limit();
        let linux = self.spec.bundle.spec.linux().as_ref();
        let now = linux.and_then(|linux| limit(linux.resources().as_ref()?));
        match limit(resources) {
            Some(wanted) if Some(wanted) != now => Err(ShimError::Embed(
                "the memory limit of a function that shares its process stays what it was at the start"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// The span of its creation, to which that of its start belongs where containerd has none.
    #[must_use]
    pub const fn created(&self) -> Option<&SpanContext> {
        self.created.as_ref()
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
