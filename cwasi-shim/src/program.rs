//! What the engine can run: commands, HTTP handlers and modules of WASI 0.1.

use std::fmt;

use wasmtime::InstancePre;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::state::GuestState;

/// Module name of the interface of WASI 0.1.
pub(crate) const WASI_P1: &str = "wasi_snapshot_preview1";

/// A program, checked and linked, of which any number of instances can run.
#[derive(Clone, Debug)]
pub enum Program {
    /// A component that exports `wasi:cli/run`: it runs once, to its end.
    Command(Command),
    /// A component that exports `wasi:http/incoming-handler`: it is served on an address. One that exports both is served, too.
    Proxy(Proxy),
    /// A core module of WASI 0.1 that exports `_start`: it runs once, to its end.
    Module(Module),
}

impl Program {
    /// Whether it is a module that imports the socket calls of WASI 0.1. Those all fail here with `ENOTSOCK` (or `EBADF`):
    /// there is no call to open a socket with, and this host gives modules none.
    #[must_use]
    pub fn imports_sockets(&self) -> bool {
        match self {
            Self::Command(_) | Self::Proxy(_) => false,
            Self::Module(module) => module
                .pre
                .module()
                .imports()
                .any(|import| import.module() == WASI_P1 && import.name().starts_with("sock_")),
        }
    }
}

/// A linked command component.
#[derive(Clone)]
pub struct Command {
    pub(crate) pre: CommandPre<GuestState>,
}

/// A linked HTTP handler component.
#[derive(Clone)]
pub struct Proxy {
    pub(crate) pre: ProxyPre<GuestState>,
}

/// A linked module of WASI 0.1.
#[derive(Clone)]
pub struct Module {
    pub(crate) pre: InstancePre<GuestState>,
}

impl fmt::Debug for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Command").finish_non_exhaustive()
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Proxy").finish_non_exhaustive()
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Module").finish_non_exhaustive()
    }
}
