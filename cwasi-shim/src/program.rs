//! What the engine can run: commands, HTTP handlers and modules of WASI 0.1; with the feature `p3`, commands of WASI 0.3.

use std::fmt;
#[cfg(feature = "p3")]
use std::sync::Arc;

use wasmparser::{Chunk, Parser, Payload};
use wasmtime::InstancePre;
#[cfg(feature = "p3")]
use wasmtime::component;
use wasmtime_wasi::p2::bindings::CommandPre;
#[cfg(feature = "p3")]
use wasmtime_wasi::p3::bindings as p3;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::state::GuestState;

/// Module name of the interface of WASI 0.1.
pub(crate) const WASI_P1: &str = "wasi_snapshot_preview1";

/// The export that makes a component an HTTP handler, in any version that this host serves.
pub(crate) const INCOMING_HANDLER: &str = "wasi:http/incoming-handler@0.2.";

/// What the names of WASI's interfaces begin with.
const WASI: &str = "wasi:";

/// What those of WASI 0.3 have before the last part of their version.
const WASI_03: &str = "@0.3.";

/// What an engine has to know of a program before it compiles it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// It is a component that handles HTTP.
    pub(crate) handles_http: bool,
    /// It is a component that imports or exports interfaces of WASI 0.3, perhaps beside those of 0.2.
    pub(crate) wasi_03: bool,
}

impl Traits {
    /// Of the bytes of a .wasm file; whatever is no component has none.
    pub(crate) fn of(mut wasm: &[u8]) -> Self {
        let mut traits = Self::default();
        let mut parser = Parser::new(0);
        while let Ok(Chunk::Parsed { consumed, payload }) = parser.parse(wasm, true) {
            wasm = &wasm[consumed..];
            let inner = match payload {
                Payload::ComponentImportSection(imports) => {
                    let imports = imports.into_iter().flatten();
                    traits.wasi_03 |= imports.map(|import| import.name.name).any(is_wasi_03);
                    continue;
                }
                Payload::ComponentExportSection(exports) => {
                    for name in exports.into_iter().flatten().map(|export| export.name.name) {
                        traits.handles_http |= name.starts_with(INCOMING_HANDLER);
                        traits.wasi_03 |= is_wasi_03(name);
                    }
                    continue;
                }
                Payload::ModuleSection { unchecked_range, .. }
                | Payload::ComponentSection { unchecked_range, .. } => unchecked_range,
                Payload::CodeSectionStart { .. } | Payload::End(_) => break,
                _ => continue,
            };
            let Some(rest) = wasm.get(inner.len()..) else {
                break;
            };
            wasm = rest;
        }
        traits
    }
}

fn is_wasi_03(name: &str) -> bool {
    name.starts_with(WASI) && name.contains(WASI_03)
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
    /// A component that exports `wasi:cli/run` of WASI 0.3: it runs once, to its end.
    #[cfg(feature = "p3")]
    ConcurrentCommand(ConcurrentCommand),
}

impl Program {
    /// Whether it is a module that imports the socket calls of WASI 0.1. Those all fail here with `ENOTSOCK` (or `EBADF`):
    /// there is no call to open a socket with, and this host gives modules none.
    #[must_use]
    pub fn imports_sockets(&self) -> bool {
        match self {
            Self::Command(_) | Self::Proxy(_) => false,
            #[cfg(feature = "p3")]
            Self::ConcurrentCommand(_) => false,
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

/// A linked command component of WASI 0.3, which may also import interfaces of 0.2.
#[cfg(feature = "p3")]
#[derive(Clone)]
pub struct ConcurrentCommand {
    pub(crate) pre: component::InstancePre<GuestState>,
    /// Where its export is.
    pub(crate) indices: Arc<p3::CommandIndices>,
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

#[cfg(feature = "p3")]
impl fmt::Debug for ConcurrentCommand {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConcurrentCommand")
            .finish_non_exhaustive()
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
    fn handlers_and_components_of_wasi_03_are_told_from_other_programs() {
        let prebuilt = |name| {
            let path = format!(
                "{}/../bench/functions/prebuilt/{name}.wasm",
                env!("CARGO_MANIFEST_DIR")
            );
            std::fs::read(path).unwrap()
        };
        let plain = Traits::default();
        let handler = Traits {
            handles_http: true,
            ..plain
        };
        let wasi_03 = Traits {
            wasi_03: true,
            ..plain
        };
        for (name, traits) in [
            ("http", handler),
            ("echo-p3", wasi_03),
            ("echo", plain),
            ("inspect", plain),
            ("inspect-p1", plain),
        ] {
            assert_eq!(Traits::of(&prebuilt(name)), traits, "{name}");
        }
        let handler = prebuilt("http");
        for length in [0, 1, 8, 100, handler.len() / 2] {
            assert_eq!(Traits::of(&handler[..length]), plain, "{length} bytes of it");
        }
    }
}
