//! What one guest is given, and how it ended.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime::{Error, Store, Trap, WasmBacktrace};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::engine::{Command, one_line};
use crate::limits::{MemoryLimiter, Refused};
use crate::network::{NetworkPolicy, Refusals};
use crate::preopen::Preopen;

/// What one guest is given. Its standard streams are this process's; its sockets are opened in the network namespace of
/// the thread that runs it.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Environment variables; nothing of the host's environment is added.
    pub env: Vec<(String, String)>,
    /// Directories it sees.
    pub preopens: Vec<Preopen>,
    /// Peers it may choose.
    pub network: NetworkPolicy,
    /// Told of the peers that `network` refuses.
    pub refusals: Refusals,
    /// Bytes of memory and tables it may have.
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
    /// the guest trapped{place}: {reason}
    #[error("the guest trapped{place}: {reason}")]
    Trap {
        /// Reason, as the engine words it.
        reason: String,
        /// ` in FUNCTION` where the component has names, else empty.
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
}

/// The host's side of one guest.
pub(crate) struct GuestState {
    wasi: WasiCtx,
    table: ResourceTable,
    limiter: MemoryLimiter,
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl GuestState {
    fn new(config: &GuestConfig) -> Result<Self, GuestError> {
        let mut wasi = WasiCtxBuilder::new();
        // One guest a thread: its file calls need no other thread to wait on.
        wasi.allow_blocking_current_thread(true);
        wasi.inherit_stdio().args(&config.args).envs(&config.env);
        for preopen in &config.preopens {
            let perms = if preopen.read_only {
                FsPerms::ReadOnly
            } else {
                FsPerms::ReadWrite
            };
            wasi.preopened_dir(&preopen.host, &preopen.guest, perms)
                .map_err(|error| GuestError::Preopen {
                    host: preopen.host.display().to_string(),
                    reason: one_line(&error),
                })?;
        }
        let (network, refusals) = (Arc::new(config.network.clone()), config.refusals.clone());
        wasi.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true);
        wasi.socket_addr_check(move |address, used_for| {
            let permitted = network.permits(address, used_for);
            if !permitted {
                refusals.add(address);
            }
            Box::pin(std::future::ready(permitted))
        });
        let limiter = MemoryLimiter::new(config.memory_limit);
        Ok(Self {
            wasi: wasi.build(),
            table: ResourceTable::new(),
            limiter,
        })
    }
}

/// A guest with everything it is given, ready to run once.
pub struct Guest {
    command: Command,
    store: Store<GuestState>,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Guest").finish_non_exhaustive()
    }
}

impl Guest {
    /// Opens what `config` gives the guest.
    ///
    /// # Errors
    /// [`GuestError::Preopen`].
    pub fn new(command: &Command, config: &GuestConfig) -> Result<Self, GuestError> {
        let mut store = Store::new(command.pre.engine(), GuestState::new(config)?);
        store.limiter(|state| &mut state.limiter);
        Ok(Self {
            command: command.clone(),
            store,
        })
    }

    /// Runs the guest to its end and gives its exit code. Belongs on a current-thread runtime with io and time: other
    /// threads only add hand-overs to every socket call.
    ///
    /// # Errors
    /// [`GuestError::Trap`], [`GuestError::MemoryLimit`] or [`GuestError::Start`].
    pub async fn run(mut self) -> Result<u8, GuestError> {
        let command = match self.command.pre.instantiate_async(&mut self.store).await {
            Ok(command) => command,
            Err(error) => return self.ended(&error, Stage::Start),
        };
        match command.wasi_cli_run().call_run(&mut self.store).await {
            Ok(Ok(())) => Ok(0),
            Ok(Err(())) => Ok(1),
            Err(error) => self.ended(&error, Stage::Run),
        }
    }

    fn ended(&self, error: &Error, stage: Stage) -> Result<u8, GuestError> {
        if let Some(I32Exit(code)) = error.downcast_ref() {
            // As for a native process, the low 8 bits are what the parent sees.
            return Ok(code.to_le_bytes()[0]);
        }
        let trap = error.downcast_ref::<Trap>();
        let reason = trap.map_or_else(|| cause(error), reason);
        Err(match (self.store.data().limiter.refused(), stage) {
            (Some(refused), _) => GuestError::MemoryLimit { refused, reason },
            (None, Stage::Start) if trap.is_none() => GuestError::Start(reason),
            _ => GuestError::Trap {
                reason,
                place: place(error),
            },
        })
    }
}

#[derive(Clone, Copy)]
enum Stage {
    Start,
    Run,
}

/// The error without the backtrace around it, on one line.
fn cause(error: &Error) -> String {
    error
        .root_cause()
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
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
    name.map(|name| format!(" in `{:#}`", rustc_demangle::demangle(name)))
        .unwrap_or_default()
}
