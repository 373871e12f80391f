//! What one guest is given, and how it ended.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use wasmtime::{Error, Store, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::exit;
use crate::http::Server;
use crate::limits::{Budget, Refused};
use crate::network::{NetworkPolicy, Refusals};
use crate::preopen::Preopen;
#[cfg(feature = "p3")]
use crate::program::ConcurrentCommand;
use crate::program::{Command, Module, Program};
use crate::sockets::LocalNetwork;
use crate::state::GuestState;
use crate::stdio::{Stdio, Streams};
use crate::text::one_line;
use crate::ticks::Ticker;

/// What one guest is given. Its sockets are opened in the network namespace of the thread that runs it.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Name of the function, for the connections inside the process.
    pub name: String,
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Environment variables; nothing of the host's environment is added.
    pub env: Vec<(String, String)>,
    /// Its standard streams.
    pub stdio: Stdio,
    /// Directories it sees. One below another is a directory of its own: its `read_only` holds in it, not the other's.
    pub preopens: Vec<Preopen>,
    /// Its working directory at the start, as it names it: what `wasi:cli/environment.initial-cwd` answers, and `PWD` unless
    /// `env` has one. It is the guest that resolves relative paths: wasi-libc's (C, Rust) start at `/` whatever is said here.
    pub cwd: Option<String>,
    /// Where a guest that handles HTTP is served.
    pub http: SocketAddr,
    /// Peers it may choose.
    pub network: NetworkPolicy,
    /// Told of the peers that `network` refuses.
    pub refusals: Refusals,
    /// The network that it shares with the other guests of its process: connections between them do not leave it.
    pub local: Option<LocalNetwork>,
    /// Whether nothing else runs on its thread: its waits may then hold the thread up, which is faster.
    pub alone: bool,
    /// Bytes of memory and tables it may have; all its instances together where there are several.
    pub memory_limit: Option<u64>,
}

/// Why a guest did not end by itself.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// cannot open {host} for the guest: {reason}
    #[error("cannot open {host} for the guest: {reason}")]
    Preopen {
        /// Directory on the host.
        host: String,
        /// Why not.
        reason: String,
    },
    /// cannot serve HTTP on {address}: {call} failed: {source}
    #[error("cannot serve HTTP on {address}: {call} failed: {source}")]
    Listen {
        /// Address of the guest's configuration.
        address: SocketAddr,
        /// Call that failed.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// the guest trapped{place}: {reason}
    #[error("the guest trapped{place}: {reason}")]
    Trap {
        /// Reason, as the engine words it.
        reason: String,
        /// ` in FUNCTION` where the program has names, else empty.
        place: String,
    },
    /// the guest ran out of memory: it wanted {} bytes and its limit is {}; then it ended with: {reason}
    #[error(
        "the guest ran out of memory: it wanted {} bytes and its limit is {}; then it ended with: {reason}",
        refused.wanted, refused.limit
    )]
    MemoryLimit {
        /// The growth that was refused.
        refused: Refused,
        /// What the guest ended with after that.
        reason: String,
    },
    /// the guest cannot be started: {0}
    #[error("the guest cannot be started: {0}")]
    Start(String),
    /// the guest was ended from outside
    #[error("the guest was ended from outside")]
    Killed,
    /// the host failed: {0}
    #[error("the host failed: {0}")]
    Host(String),
}

impl GuestError {
    /// The exit code of the guest's process.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Preopen { .. } => exit::PREOPEN,
            Self::Listen { .. } => exit::LISTEN,
            Self::Trap { .. } => exit::TRAP,
            Self::MemoryLimit { .. } => exit::MEMORY_LIMIT,
            Self::Start(_) | Self::Host(_) => exit::HOST,
            Self::Killed => exit::KILLED,
        }
    }
}

/// A guest with everything it is given, ready to run once.
pub struct Guest {
    kind: Kind,
}

enum Kind {
    Command(Command, Store<GuestState>),
    Module(Module, Store<GuestState>),
    #[cfg(feature = "p3")]
    ConcurrentCommand(ConcurrentCommand, Store<GuestState>),
    Proxy(Arc<Server>),
}

impl fmt::Debug for Guest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Guest").finish_non_exhaustive()
    }
}

impl Guest {
    /// Opens the directories that `config` gives the guest. Sockets wait for [`Guest::run`].
    ///
    /// # Errors
    /// [`GuestError::Preopen`], and [`GuestError::Start`] when its standard streams cannot be used.
    pub fn new(program: &Program, config: &GuestConfig) -> Result<Self, GuestError> {
        let budget = Budget::new(config.memory_limit);
        let streams = Streams::open(&config.stdio)
            .map_err(|error| GuestError::Start(format!("its standard streams: {error}")))?;
        let kind = match program {
            Program::Command(command) => {
                let store = GuestState::store(command.pre.engine(), config, &streams, &budget)?;
                Kind::Command(command.clone(), store)
            }
            Program::Module(module) => {
                let store = GuestState::store(module.pre.module().engine(), config, &streams, &budget)?;
                Kind::Module(module.clone(), store)
            }
            #[cfg(feature = "p3")]
            Program::ConcurrentCommand(command) => {
                let store = GuestState::store(command.pre.engine(), config, &streams, &budget)?;
                Kind::ConcurrentCommand(command.clone(), store)
            }
            Program::Proxy(proxy) => {
                let server = Server::new(proxy.clone(), config.clone(), streams, budget)?;
                Kind::Proxy(Arc::new(server))
            }
        };
        Ok(Self { kind })
    }

    /// Runs the guest to its end and gives its exit code; one that handles HTTP is served until the process ends. Belongs on
    /// a [`runtime`](crate::sandbox::runtime) that runs no other guest: those belong into a
    /// [`Sandbox`](crate::sandbox::Sandbox).
    ///
    /// # Errors
    /// [`GuestError::Trap`], [`GuestError::MemoryLimit`] or [`GuestError::Start`] of a guest that runs once;
    /// [`GuestError::Listen`] and [`GuestError::Host`] of one that handles HTTP.
    pub async fn run(self) -> Result<u8, GuestError> {
        self.run_after(|| {}).await
    }

    /// As [`Guest::run`]; `made` is called when the guest is made and its own code comes next. One that handles HTTP is made for
    /// each request: it is called before the first.
    ///
    /// # Errors
    /// Those of [`Guest::run`].
    pub async fn run_after(self, made: impl FnOnce()) -> Result<u8, GuestError> {
        match self.kind {
            Kind::Command(command, mut store) => {
                let ended = run_command(&command, &mut store, made).await;
                finish(ended, &mut store).await
            }
            Kind::Module(module, mut store) => {
                let ended = run_module(&module, &mut store, made).await;
                finish(ended, &mut store).await
            }
            #[cfg(feature = "p3")]
            Kind::ConcurrentCommand(command, mut store) => {
                let ended = run_concurrent_command(&command, &mut store, made).await;
                finish(ended, &mut store).await
            }
            Kind::Proxy(server) => {
                made();
                let ticker = Ticker::start().map_err(no_ticks)?;
                match server.run(ticker).await? {}
            }
        }
    }

    /// As [`Guest::run`], beside other guests that `ticker` makes take turns.
    pub(crate) async fn run_beside_others(self, ticker: Arc<Ticker>) -> Result<u8, GuestError> {
        match self.kind {
            Kind::Command(command, mut store) => {
                ticker.cut(&mut store);
                let ended = ticker.run(run_command(&command, &mut store, || {})).await;
                finish(ended, &mut store).await
            }
            Kind::Module(module, mut store) => {
                ticker.cut(&mut store);
                let ended = ticker.run(run_module(&module, &mut store, || {})).await;
                finish(ended, &mut store).await
            }
            #[cfg(feature = "p3")]
            Kind::ConcurrentCommand(command, mut store) => {
                ticker.cut(&mut store);
                let ended = ticker
                    .run(run_concurrent_command(&command, &mut store, || {}))
                    .await;
                finish(ended, &mut store).await
            }
            Kind::Proxy(server) => match server.run(ticker).await? {},
        }
    }
}

/// Without the thread that ticks, guests would keep each other waiting.
pub(crate) fn no_ticks(error: io::Error) -> GuestError {
    GuestError::Host(format!("a thread for time slices cannot be started: {error}"))
}

/// The guest's exit code, when everything that it wrote has gone its way, as a native program's last words go after its end.
async fn finish(ended: Result<u8, Failure>, store: &mut Store<GuestState>) -> Result<u8, GuestError> {
    store.data_mut().unwritten().write().await;
    store.data().network().all_sent().await;
    ended.or_else(|failure| failure.ended(store.data()))
}

async fn run_command(
    command: &Command,
    store: &mut Store<GuestState>,
    made: impl FnOnce(),
) -> Result<u8, Failure> {
    let command = command
        .pre
        .instantiate_async(&mut *store)
        .await
        .map_err(Failure::start)?;
    made();
    let ended = command.wasi_cli_run().call_run(store).await;
    Ok(u8::from(ended.map_err(Failure::run)?.is_err()))
}

#[cfg(feature = "p3")]
async fn run_concurrent_command(
    command: &ConcurrentCommand,
    store: &mut Store<GuestState>,
    made: impl FnOnce(),
) -> Result<u8, Failure> {
    let instance = command.pre.instantiate_async(&mut *store).await;
    let instance = instance.map_err(Failure::start)?;
    let command = command.indices.load(&mut *store, &instance);
    let command = command.map_err(Failure::start)?;
    made();
    let ended = store
        .run_concurrent(async |store| command.wasi_cli_run().call_run(store).await)
        .await;
    let ended = ended.map_err(Failure::run)?.map_err(Failure::run)?;
    Ok(u8::from(ended.is_err()))
}

async fn run_module(
    module: &Module,
    store: &mut Store<GuestState>,
    made: impl FnOnce(),
) -> Result<u8, Failure> {
    let instance = module
        .pre
        .instantiate_async(&mut *store)
        .await
        .map_err(Failure::start)?;
    let start = instance
        .get_typed_func::<(), ()>(&mut *store, "_start")
        .map_err(Failure::start)?;
    made();
    start.call_async(store, ()).await.map_err(Failure::run)?;
    Ok(0)
}

/// How the engine says that a guest did not return: also by leaving with an exit code.
pub(crate) struct Failure {
    error: Error,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    Start,
    Run,
}

impl Failure {
    /// It came while the guest was made.
    pub(crate) const fn start(error: Error) -> Self {
        Self {
            error,
            stage: Stage::Start,
        }
    }

    /// It came while the guest ran.
    pub(crate) const fn run(error: Error) -> Self {
        Self {
            error,
            stage: Stage::Run,
        }
    }

    /// The guest's exit code, or why it has none.
    pub(crate) fn ended(&self, state: &GuestState) -> Result<u8, GuestError> {
        let error = &self.error;
        if let Some(I32Exit(code)) = error.downcast_ref() {
            // As for a native process, the low 8 bits are what the parent sees.
            return Ok(code.to_le_bytes()[0]);
        }
        let trap = error.downcast_ref::<Trap>();
        let reason = trap.map_or_else(|| cause(error), reason);
        Err(match (state.refused(), self.stage) {
            (Some(refused), _) => GuestError::MemoryLimit { refused, reason },
            (None, Stage::Start) if trap.is_none() => GuestError::Start(reason),
            _ => GuestError::Trap {
                reason,
                place: place(error),
            },
        })
    }
}

/// The error without the backtrace around it, on one line.
fn cause(error: &Error) -> String {
    one_line(&error.root_cause().to_string())
}

/// The trap without the engine's prefix.
fn reason(trap: &Trap) -> String {
    let text = trap.to_string();
    text.strip_prefix("wasm trap: ").unwrap_or(&text).to_owned()
}

/// The innermost function that has a name.
fn place(error: &Error) -> String {
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let name = backtrace.and_then(|trace| trace.frames().iter().find_map(|frame| frame.func_name()));
    name.map(|name| one_line(&format!("{:#}", rustc_demangle::demangle(name))))
        .map(|name| format!(" in `{name}`"))
        .unwrap_or_default()
}
