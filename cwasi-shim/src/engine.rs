//! wasmtime, set up once for every guest, and the way from bytes to a program that can run.
//!
//! One process can go all the way ([`Engine::load`]), or two can share it: a privileged one compiles or looks into the cache
//! ([`Engine::prepare`]), and the guest's own process, which may do neither, maps what it is handed ([`Engine::link`]).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
#[cfg(feature = "p3")]
use std::sync::Arc;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use wasmtime::component::{self, Component};
use wasmtime::{Config, Error, ExternType, Linker, Precompiled};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre;
#[cfg(feature = "p3")]
use wasmtime_wasi::p3::bindings as p3;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::cache::{Cache, CacheError, Entry, Key, Turn};
use crate::code::{Code, CodeError};
#[cfg(feature = "p3")]
use crate::program::ConcurrentCommand;
use crate::program::{self, Command, INCOMING_HANDLER, Program, Proxy, Traits, WASI_P1};
use crate::sockets;
use crate::state::GuestState;
use crate::text;

/// What every WebAssembly file starts with.
const WASM_MAGIC: [u8; 4] = *b"\0asm";
/// Version and layer of a core module; a component has layer 1.
const CORE_MODULE: [u8; 4] = [1, 0, 0, 0];
/// The export that makes a component a command, in any version that this host serves.
const RUN: &str = "wasi:cli/run@0.2.";
/// The same of WASI 0.3.
#[cfg(feature = "p3")]
const CONCURRENT_RUN: &str = "wasi:cli/run@0.3.";
/// What the names of the HTTP interfaces begin with.
const HTTP: &str = "wasi:http/";
/// The export that makes a module a command.
const START: &str = "_start";

/// Why bytes cannot become a program that runs.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// the engine cannot be set up: {0}
    #[error("the engine cannot be set up: {0}")]
    Engine(String),
    /// not WebAssembly: {0}
    #[error("not WebAssembly: {0}")]
    NotWasm(&'static str),
    /// not valid WebAssembly: {0}
    #[error("not valid WebAssembly: {0}")]
    Invalid(String),
    /// a core module without an exported function `_start`; build it as a program with a main function
    #[error(
        "a core module without an exported function `_start`; build it as a program with a main function"
    )]
    NoStart,
    /// a component, but neither a command nor an HTTP handler: it exports neither wasi:cli/run nor
    /// wasi:http/incoming-handler@0.2
    #[error(
        "a component, but neither a command nor an HTTP handler: it exports neither wasi:cli/run nor \
         wasi:http/incoming-handler@0.2"
    )]
    NotCommand,
    /// it uses WASI 0.3, which this build leaves out; build it for WASI 0.2, or cwasi with the cargo feature `p3`
    #[error(
        "it uses WASI 0.3, which this build leaves out; build it for WASI 0.2, or cwasi with the cargo feature `p3`"
    )]
    LeftOut,
    /// it needs what this host does not have: {0}
    #[error("it needs what this host does not have: {0}")]
    MissingImport(String),
    /// its machine code cannot be loaded: {0}
    #[error("its machine code cannot be loaded: {0}")]
    Code(String),
    /// {0}
    #[error(transparent)]
    Memory(#[from] CodeError),
}

/// Where the machine code of a program came from.
#[derive(Debug)]
pub enum Origin {
    /// From the cache: nothing was compiled.
    Cache,
    /// Compiled now.
    Compiled {
        /// Whether it was put into the cache for the next time.
        stored: bool,
        /// Everything that kept the cache from serving or storing it.
        cache_errors: Vec<CacheFailure>,
    },
}

/// A cache that did not do its part. The program runs all the same.
#[derive(Debug, thiserror::Error)]
pub enum CacheFailure {
    /// {0}
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// the engine does not take the cached code: {0}
    #[error("the engine does not take the cached code: {0}")]
    Code(String),
}

/// A loaded program and how it was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// What can run.
    pub program: Program,
    /// Where its code came from.
    pub origin: Origin,
}

/// Machine code for a guest's process, and where it came from.
#[derive(Debug)]
pub struct Prepared {
    /// What [`Engine::link`] takes, in this process or in another.
    pub code: Code,
    /// Where it came from.
    pub origin: Origin,
}

/// wasmtime with cwasi's settings, WASI 0.2 with HTTP, and WASI 0.1; with the feature `p3`, WASI 0.3 without HTTP.
///
/// It starts no thread before it compiles, and can be used by processes forked from the one that made it.
pub struct Engine {
    /// One for each way to run guests, those for guests that have their thread to themselves first.
    variants: Vec<Variant>,
    /// Whether all programs are made for guests that share a thread.
    shared: bool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// Sets the engine up for this machine's processor. It makes programs for guests that have their thread to themselves.
    /// Those that handle HTTP share it even so: their own instances do.
    ///
    /// # Errors
    /// [`LoadError::Engine`] when this machine cannot run it.
    pub fn new() -> Result<Self, LoadError> {
        Self::of(Mode::ALL)
    }

    fn of(modes: &[Mode]) -> Result<Self, LoadError> {
        let variants: Result<_, _> = modes.iter().copied().map(Variant::new).collect();
        Ok(Self {
            variants: variants?,
            shared: false,
        })
    }

    /// As [`Engine::new`], for guests that share their thread with others: in a [`Sandbox`](crate::sandbox::Sandbox), one that
    /// computes gives it back at every [`TICK`](crate::ticks::TICK). Loops that do next to nothing take up to twice as long
    /// for it.
    ///
    /// # Errors
    /// [`LoadError::Engine`] when this machine cannot run it.
    pub fn shared() -> Result<Self, LoadError> {
        Ok(Self {
            shared: true,
            ..Self::new()?
        })
    }

    /// Makes a program of the bytes of a .wasm file: from `cache` when it was compiled before, else by compiling it,
    /// on all processors, and storing it there.
    ///
    /// # Errors
    /// Every [`LoadError`] but [`LoadError::Engine`]. A cache that fails is no error: see [`Origin::Compiled`].
    pub fn load(&self, wasm: &[u8], cache: Option<&Cache>) -> Result<Loaded, LoadError> {
        let variant = self.variant(wasm, self.shared)?;
        let slot = variant.slot(wasm, cache);
        let mut cache_errors = Vec::new();
        let (entry, _turn) = Slot::look(slot.as_ref(), Slot::find, &mut cache_errors);
        if let Some(entry) = entry {
            match variant.link(&entry.into_code()) {
                Err(LoadError::Code(reason)) => cache_errors.push(CacheFailure::Code(reason)),
                linked => {
                    return Ok(Loaded {
                        program: linked?,
                        origin: Origin::Cache,
                    });
                }
            }
        }
        let compiled = variant.compile(wasm, slot.as_ref(), cache_errors)?;
        Ok(Loaded {
            program: compiled.program,
            origin: compiled.origin,
        })
    }

    /// Makes machine code of the bytes of a .wasm file, as [`Engine::load`] does, for a process that gets nothing but the code
    /// and must not be able to change it: an entry of the cache, opened as [`Cache::open_read_only`] says, or else memory of
    /// its own. What is compiled is linked too, so that whatever keeps it from running is known here; the cache has only
    /// what passed.
    ///
    /// # Errors
    /// Every [`LoadError`] but [`LoadError::Engine`].
    pub fn prepare(&self, wasm: &[u8], cache: Option<&Cache>) -> Result<Prepared, LoadError> {
        self.variant(wasm, self.shared)?.prepare(wasm, cache)
    }

    /// As [`Engine::prepare`], for a guest that shares its thread with others, whatever this engine's are.
    ///
    /// # Errors
    /// See there.
    pub fn prepare_to_share(&self, wasm: &[u8], cache: Option<&Cache>) -> Result<Prepared, LoadError> {
        self.variant(wasm, true)?.prepare(wasm, cache)
    }

    /// Makes a program of machine code that was prepared, by whichever engine of this build, without compiling anything. The
    /// code is mapped, so that its memory is shared with every process that maps it; only a component where there is no /proc is
    /// copied.
    ///
    /// # Errors
    /// [`LoadError::Code`] for code of another engine; [`LoadError::NotCommand`], [`LoadError::NoStart`] and
    /// [`LoadError::MissingImport`] for a program that this host cannot run.
    pub fn link(&self, code: &Code) -> Result<Program, LoadError> {
        let (first, others): (Vec<_>, Vec<_>) = self
            .variants
            .iter()
            .partition(|variant| variant.mode.sharing == self.shared);
        let mut error = None;
        for variant in first.into_iter().chain(others) {
            match variant.link(code) {
                Err(LoadError::Code(reason)) => error = error.or(Some(reason)),
                linked => return linked,
            }
        }
        Err(LoadError::Code(error.unwrap_or_default()))
    }

    /// What makes a program of `wasm`.
    fn variant(&self, wasm: &[u8], shared: bool) -> Result<&Variant, LoadError> {
        let traits = Traits::of(wasm);
        let mode = Mode {
            sharing: shared || traits.handles_http,
            concurrent: traits.wasi_03,
        };
        self.variants
            .iter()
            .find(|variant| variant.mode == mode)
            .ok_or(LoadError::LeftOut)
    }
}

/// What the engine's settings, and with them machine code, depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mode {
    /// Guests share their thread with others.
    sharing: bool,
    /// Guests use WASI 0.3, whose functions, streams and futures the engine runs side by side.
    concurrent: bool,
}

impl Mode {
    /// Those of every build.
    const PLAIN: [Self; 2] = [Self::of(false, false), Self::of(true, false)];
    #[cfg(feature = "p3")]
    const ALL: &[Self] = &[
        Self::PLAIN[0],
        Self::PLAIN[1],
        Self::of(false, true),
        Self::of(true, true),
    ];
    #[cfg(not(feature = "p3"))]
    const ALL: &[Self] = &Self::PLAIN;

    const fn of(sharing: bool, concurrent: bool) -> Self {
        Self { sharing, concurrent }
    }
}

/// wasmtime, set up once.
struct Variant {
    mode: Mode,
    engine: wasmtime::Engine,
    settings: [u8; 32],
    // Hundreds of names each: only what a program needs is set up.
    components: OnceLock<component::Linker<GuestState>>,
    http_components: OnceLock<component::Linker<GuestState>>,
    modules: OnceLock<Linker<GuestState>>,
}

impl Variant {
    fn new(mode: Mode) -> Result<Self, LoadError> {
        let mut config = Config::new();
        // Only WASI 0.3 needs it, and each call between guest and host pays for it.
        config.concurrency_support(mode.concurrent);
        // Nothing unwinds through guests natively; the tables would be registered at every start.
        config.native_unwind_info(false);
        // Traps are told by the function's name, not by the place in it.
        config.generate_address_map(false);
        // A guest that nobody waits for is not slowed down by looking whether somebody does.
        config.epoch_interruption(mode.sharing);
        let engine = wasmtime::Engine::new(&config).map_err(set_up)?;
        let mut settings = SettingsHasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut settings);
        Ok(Self {
            mode,
            engine,
            settings: settings.0.finalize().into(),
            components: OnceLock::new(),
            http_components: OnceLock::new(),
            modules: OnceLock::new(),
        })
    }

    fn prepare(&self, wasm: &[u8], cache: Option<&Cache>) -> Result<Prepared, LoadError> {
        let slot = self.slot(wasm, cache);
        let mut cache_errors = Vec::new();
        let (found, _turn) = Slot::look(slot.as_ref(), Slot::protected, &mut cache_errors);
        if let Some(code) = found {
            return Ok(Prepared {
                code: code?,
                origin: Origin::Cache,
            });
        }
        let Compiled { code, origin, .. } = self.compile(wasm, slot.as_ref(), cache_errors)?;
        // What was stored is what later guests will map: this one shares it with them.
        let stored = slot
            .filter(|_| matches!(origin, Origin::Compiled { stored: true, .. }))
            .and_then(|slot| slot.protected(&mut Vec::new()));
        Ok(Prepared {
            code: stored.and_then(Result::ok).unwrap_or(code),
            origin,
        })
    }

    fn link(&self, code: &Code) -> Result<Program, LoadError> {
        let unusable = |error: Error| LoadError::Code(one_line(&error));
        let unreadable = |error: io::Error| LoadError::Code(error.to_string());
        let path = code.path();
        let copy = match &path {
            Some(_) => Vec::new(),
            None => code.read().map_err(unreadable)?,
        };
        let kind = match &path {
            Some(path) => wasmtime::Engine::detect_precompiled_file(path).map_err(unusable)?,
            None => wasmtime::Engine::detect_precompiled(&copy),
        };
        match kind {
            Some(Precompiled::Component) => {
                // SAFETY: the bytes are those that this engine compiled, as every `Code` promises; nothing changes an entry
                // of the cache in place, and memory is sealed.
                let component = unsafe {
                    match path {
                        Some(path) => Component::deserialize_file(&self.engine, path),
                        None => Component::deserialize(&self.engine, copy),
                    }
                };
                self.link_component(&component.map_err(unusable)?)
            }
            Some(Precompiled::Module) => {
                let file = code.try_clone().map_err(unreadable)?;
                // SAFETY: as above.
                let module = unsafe { wasmtime::Module::deserialize_open_file(&self.engine, file) };
                self.link_module(&module.map_err(unusable)?)
            }
            None => Err(LoadError::Code("it is not this engine's".to_owned())),
        }
    }

    fn slot<'a>(&self, wasm: &[u8], cache: Option<&'a Cache>) -> Option<Slot<'a>> {
        cache.map(|cache| Slot {
            cache,
            key: Key::new(wasm, &self.settings),
        })
    }

    fn compile(
        &self,
        wasm: &[u8],
        slot: Option<&Slot<'_>>,
        mut cache_errors: Vec<CacheFailure>,
    ) -> Result<Compiled, LoadError> {
        let object = self.machine_code(wasm)?;
        let code = Code::in_memory(&object)?;
        let program = self.link(&code)?;
        let stored = slot.is_some_and(|slot| {
            let stored = slot.cache.store(&slot.key, &object);
            stored.map_err(|error| cache_errors.push(error.into())).is_ok()
        });
        Ok(Compiled {
            code,
            program,
            origin: Origin::Compiled { stored, cache_errors },
        })
    }

    fn machine_code(&self, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
        let Some(header) = wasm.strip_prefix(&WASM_MAGIC) else {
            return Err(LoadError::NotWasm(what_else(wasm)));
        };
        let compiled = if header.starts_with(&CORE_MODULE) {
            self.engine.precompile_module(wasm)
        } else {
            self.engine.precompile_component(wasm)
        };
        compiled.map_err(|error| LoadError::Invalid(one_line(&error)))
    }

    fn link_component(&self, component: &Component) -> Result<Program, LoadError> {
        let kind = component.component_type();
        let exports = |prefix| {
            kind.exports(&self.engine)
                .any(|(name, _)| name.starts_with(prefix))
        };
        let handler = exports(INCOMING_HANDLER);
        #[cfg(feature = "p3")]
        let concurrent = exports(CONCURRENT_RUN);
        #[cfg(not(feature = "p3"))]
        let concurrent = false;
        if !handler && !concurrent && !exports(RUN) {
            return Err(LoadError::NotCommand);
        }
        let http = handler || kind.imports(&self.engine).any(|(name, _)| name.starts_with(HTTP));
        let pre = self
            .component_linker(http)?
            .instantiate_pre(component)
            .map_err(missing)?;
        if handler {
            let pre = ProxyPre::new(pre).map_err(|_| LoadError::NotCommand)?;
            return Ok(Program::Proxy(Proxy { pre }));
        }
        #[cfg(feature = "p3")]
        if concurrent {
            let indices = p3::CommandIndices::new(&pre).map_err(|_| LoadError::NotCommand)?;
            let indices = Arc::new(indices);
            return Ok(Program::ConcurrentCommand(ConcurrentCommand { pre, indices }));
        }
        let pre = CommandPre::new(pre).map_err(|_| LoadError::NotCommand)?;
        Ok(Program::Command(Command { pre }))
    }

    fn link_module(&self, module: &wasmtime::Module) -> Result<Program, LoadError> {
        let starts = match module.get_export(START) {
            Some(ExternType::Func(start)) => start.params().len() == 0 && start.results().len() == 0,
            _ => false,
        };
        if !starts {
            return Err(LoadError::NoStart);
        }
        let pre = self.module_linker()?.instantiate_pre(module).map_err(missing)?;
        Ok(Program::Module(program::Module { pre }))
    }

    fn component_linker(&self, http: bool) -> Result<&component::Linker<GuestState>, LoadError> {
        let linker = if http {
            &self.http_components
        } else {
            &self.components
        };
        once(linker, || {
            let mut linker = component::Linker::new(&self.engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
            if http {
                wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
            }
            #[cfg(feature = "p3")]
            if self.mode.concurrent {
                wasmtime_wasi::p3::add_to_linker(&mut linker)?;
            }
            linker.allow_shadowing(true);
            // The functions of a concurrent guest that run while one of them waits count as tasks.
            sockets::add_to_linker(&mut linker, http || self.mode.concurrent)?;
            #[cfg(feature = "p3")]
            if self.mode.concurrent {
                sockets::add_concurrent_to_linker(&mut linker)?;
            }
            Ok(linker)
        })
    }

    fn module_linker(&self) -> Result<&Linker<GuestState>, LoadError> {
        once(&self.modules, || {
            let mut linker = Linker::new(&self.engine);
            wasmtime_wasi::p1::add_to_linker_async(&mut linker, GuestState::p1)?;
            // The stock one traps on codes from 126 on; a container's exit code has 8 bits.
            linker.allow_shadowing(true);
            linker.func_wrap(WASI_P1, "proc_exit", |code: i32| -> wasmtime::Result<()> {
                Err(I32Exit(code).into())
            })?;
            Ok(linker)
        })
    }
}

/// Where the machine code of a program is in the cache.
struct Slot<'a> {
    cache: &'a Cache,
    key: Key,
}

impl Slot<'_> {
    /// What `find` finds; else the right to compile, after another look: somebody else may just have done it.
    fn look<T>(
        slot: Option<&Self>,
        find: impl Fn(&Self, &mut Vec<CacheFailure>) -> Option<T>,
        errors: &mut Vec<CacheFailure>,
    ) -> (Option<T>, Option<Turn>) {
        let Some(slot) = slot else { return (None, None) };
        if let Some(found) = find(slot, errors) {
            return (Some(found), None);
        }
        let turn = slot.cache.turn(&slot.key);
        // What was wrong with an entry that is replaced now was told by who replaced it.
        errors.clear();
        match find(slot, errors) {
            Some(found) => (Some(found), None),
            None => (None, Some(turn)),
        }
    }

    fn find(&self, errors: &mut Vec<CacheFailure>) -> Option<Entry> {
        let found = self.cache.find(&self.key);
        found.unwrap_or_else(|error| {
            errors.push(error.into());
            None
        })
    }

    /// The entry as code that whoever gets it cannot change.
    fn protected(&self, errors: &mut Vec<CacheFailure>) -> Option<Result<Code, CodeError>> {
        let entry = self.find(errors)?;
        Some(match self.cache.open_read_only(&entry) {
            Some(file) => Ok(Code::trusted(file)),
            None => entry.into_code().copied(),
        })
    }
}

/// What was compiled and can run.
struct Compiled {
    code: Code,
    program: Program,
    origin: Origin,
}

/// What a file that is not WebAssembly seems to be.
fn what_else(bytes: &[u8]) -> &'static str {
    if bytes.is_empty() {
        "the file is empty"
    } else if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        "machine code of a Wasm engine, which is only taken from the cache; give the .wasm file that it was made from"
    } else if bytes.starts_with(b"\x7fELF") {
        "a native program or library (ELF)"
    } else if bytes.starts_with(b"#!") {
        "a script"
    } else {
        "the file does not begin as a .wasm file does"
    }
}

fn set_up(error: Error) -> LoadError {
    LoadError::Engine(one_line(&error))
}

fn missing(error: Error) -> LoadError {
    LoadError::MissingImport(one_line(&error))
}

/// What `cell` holds, made now if it was not.
fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> wasmtime::Result<T>) -> Result<&T, LoadError> {
    if let Some(made) = cell.get() {
        return Ok(made);
    }
    let made = make().map_err(set_up)?;
    Ok(cell.get_or_init(|| made))
}

/// An error with its causes on one line.
pub(crate) fn one_line(error: &Error) -> String {
    text::one_line(&format!("{error:#}"))
}

/// Gives everything that the engine hashes of its settings to SHA-256; the standard hasher differs from run to run.
struct SettingsHasher(Sha256);

impl Hasher for SettingsHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest
            .iter()
            .take(8)
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prebuilt(name: &str) -> Vec<u8> {
        let path = format!(
            "{}/../bench/functions/prebuilt/{name}.wasm",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::read(path).unwrap()
    }

    #[test]
    fn without_wasi_03_its_components_are_told_with_the_remedy() {
        let engine = Engine::of(&Mode::PLAIN).unwrap();
        let wasm = prebuilt("echo-p3");
        let told = [
            engine.load(&wasm, None).unwrap_err(),
            engine.prepare(&wasm, None).unwrap_err(),
            engine.prepare_to_share(&wasm, None).unwrap_err(),
        ];
        for error in told {
            assert!(matches!(error, LoadError::LeftOut), "{error}");
            assert!(
                error.to_string().contains("with the cargo feature `p3`"),
                "{error}"
            );
        }
    }

    #[cfg(feature = "p3")]
    #[tokio::test]
    async fn only_components_of_wasi_03_have_an_engine_that_runs_tasks() {
        let engine = Engine::new().unwrap();
        for (name, runs_tasks) in [
            ("echo", false),
            ("inspect-p1", false),
            ("http", false),
            ("echo-p3", true),
        ] {
            for shared in [false, true] {
                let variant = engine.variant(&prebuilt(name), shared).unwrap();
                let mut store = wasmtime::Store::new(&variant.engine, ());
                let ran = store.run_concurrent(async |_| ()).await;
                assert_eq!(ran.is_ok(), runs_tasks, "{name}: {ran:?}");
                assert!(variant.mode.sharing || !shared);
            }
        }
    }
}
