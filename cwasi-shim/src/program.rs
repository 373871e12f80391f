//! What the engine can run: commands, HTTP handlers and modules of WASI 0.1.

use std::fmt;

use wasmparser::{Chunk, Parser, Payload};
use wasmtime::InstancePre;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::state::GuestState;

/// Module name of the interface of WASI 0.1.
pub(crate) const WASI_P1: &str = "wasi_snapshot_preview1";

/// The export that makes a component an HTTP handler, in any version that this host serves.
pub(crate) const INCOMING_HANDLER: &str = "wasi:http/incoming-handler@0.2.";

/// Whether these bytes are a component that handles HTTP, told without compiling them.
pub(crate) fn handles_http(mut wasm: &[u8]) -> bool {
    let mut parser = Parser::new(0);
    while let Ok(Chunk::Parsed { consumed, payload }) = parser.parse(wasm, true) {
        wasm = &wasm[consumed..];
        let inner = match payload {
            Payload::ComponentExportSection(exports) => {
                let mut names = exports.into_iter().flatten().map(|export| export.name.name);
                if names.any(|name| name.starts_with(INCOMING_HANDLER)) {
                    return true;
                }
                continue;
            }
            Payload::ModuleSection { unchecked_range, .. }
            | Payload::ComponentSection { unchecked_range, .. } => unchecked_range,
            Payload::CodeSectionStart { .. } | Payload::End(_) => return false,
            _ => continue,
        };
        let Some(rest) = wasm.get(inner.len()..) else {
            return false;
        };
        wasm = rest;
    }
    false
}

/// What to say of a program that imports the socket calls of WASI 0.1.
pub const NO_SOCKETS: &str =
    "it imports sockets of WASI 0.1, which no host implements: build it for wasm32-wasip2";

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_told_from_other_programs() {
        let prebuilt = |name| {
            let path = format!(
                "{}/../bench/functions/prebuilt/{name}.wasm",
                env!("CARGO_MANIFEST_DIR")
            );
            std::fs::read(path).unwrap()
        };
        let handler = prebuilt("http");
        assert!(handles_http(&handler));
        for other in ["echo", "inspect", "inspect-p1"] {
            assert!(!handles_http(&prebuilt(other)), "{other}");
        }
        for length in [0, 1, 8, 100, handler.len() / 2] {
            assert!(!handles_http(&handler[..length]), "{length} bytes of it");
        }
    }
}
