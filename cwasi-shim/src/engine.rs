//! wasmtime, set up once for every guest, and the way from bytes to a component that can run.

use std::fmt;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Error};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::cache::{Cache, CacheError, Key};
use crate::guest::GuestState;

/// What every WebAssembly file starts with.
const WASM_MAGIC: [u8; 4] = *b"\0asm";
/// Version and layer of a core module; a component has layer 1.
const CORE_MODULE: [u8; 4] = [1, 0, 0, 0];
/// The export that makes a component a command, in any version that this host serves.
const RUN: &str = "wasi:cli/run@0.2.";

/// Why bytes cannot become a component that runs.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// the engine cannot be set up: {0}
    #[error("the engine cannot be set up: {0}")]
    Engine(String),
    /// not valid WebAssembly: {0}
    #[error("not valid WebAssembly: {0}")]
    Invalid(String),
    /// a core module, not a component; build it for wasm32-wasip2, or wrap it with `wasm-tools component new`
    #[error(
        "a core module, not a component; build it for wasm32-wasip2, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    /// a component, but not a command: it does not export wasi:cli/run@0.2; build it as a program with a main function
    #[error(
        "a component, but not a command: it does not export wasi:cli/run@0.2; build it as a program with a main function"
    )]
    NotCommand,
    /// it needs what this host does not have: {0}
    #[error("it needs what this host does not have: {0}")]
    MissingImport(String),
}

/// Where the machine code of a component came from.
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

/// A cache that did not do its part. The component runs all the same.
#[derive(Debug, thiserror::Error)]
pub enum CacheFailure {
    /// {0}
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// the engine does not take the cached code: {0}
    #[error("the engine does not take the cached code: {0}")]
    Code(String),
}

/// A command component, checked and linked, of which any number of instances can run.
#[derive(Clone)]
pub struct Command {
    pub(crate) pre: CommandPre<GuestState>,
}

impl fmt::Debug for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Command").finish_non_exhaustive()
    }
}

/// A loaded component and how it was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// What can run.
    pub command: Command,
    /// Where its code came from.
    pub origin: Origin,
}

/// wasmtime with cwasi's settings and WASI 0.2.
pub struct Engine {
    engine: wasmtime::Engine,
    linker: Linker<GuestState>,
    settings: [u8; 32],
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// Sets the engine up for this machine's processor.
    ///
    /// # Errors
    /// [`LoadError::Engine`] when this machine cannot run it.
    pub fn new() -> Result<Self, LoadError> {
        let failed = |error: Error| LoadError::Engine(one_line(&error));
        let mut config = Config::new();
        // Only WASI 0.3 needs it, and each call between guest and host pays for it.
        config.concurrency_support(false);
        // Nothing unwinds through guests natively; the tables would be registered at every start.
        config.native_unwind_info(false);
        let engine = wasmtime::Engine::new(&config).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(failed)?;
        let mut settings = SettingsHasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut settings);
        Ok(Self {
            engine,
            linker,
            settings: settings.0.finalize().into(),
        })
    }

    /// Makes a component of the bytes of a .wasm file: from `cache` when it was compiled before, else by compiling it,
    /// on all processors, and storing it there.
    ///
    /// # Errors
    /// Every [`LoadError`] but [`LoadError::Engine`]. A cache that fails is no error: see [`Origin::Compiled`].
    pub fn load(&self, wasm: &[u8], cache: Option<&Cache>) -> Result<Loaded, LoadError> {
        let (component, origin) = self.component(wasm, cache)?;
        Ok(Loaded {
            command: self.link(&component)?,
            origin,
        })
    }

    fn component(&self, wasm: &[u8], cache: Option<&Cache>) -> Result<(Component, Origin), LoadError> {
        let Some(cache) = cache else {
            let component = self.compile(wasm)?;
            return Ok((
                component,
                Origin::Compiled {
                    stored: false,
                    cache_errors: Vec::new(),
                },
            ));
        };
        let key = Key::new(wasm, &self.settings);
        let mut cache_errors = Vec::new();
        match self.cached(cache, &key) {
            Ok(Some(component)) => return Ok((component, Origin::Cache)),
            Ok(None) => {}
            Err(failure) => cache_errors.push(failure),
        }
        let component = self.compile(wasm)?;
        let object = component
            .serialize()
            .map_err(|error| CacheFailure::Code(one_line(&error)));
        let stored = object.and_then(|object| Ok(cache.store(&key, &object)?));
        let stored = stored.map_err(|failure| cache_errors.push(failure)).is_ok();
        Ok((component, Origin::Compiled { stored, cache_errors }))
    }

    fn cached(&self, cache: &Cache, key: &Key) -> Result<Option<Component>, CacheFailure> {
        let Some(entry) = cache.find(key)? else {
            return Ok(None);
        };
        // SAFETY: the bytes are those that `Component::serialize` gave to `Cache::store`: `Cache::find` has checked that
        // only this user could write them and that their digest is right, and nothing changes an entry in place.
        let component = unsafe { Component::deserialize_file(&self.engine, entry.path()) };
        component
            .map(Some)
            .map_err(|error| CacheFailure::Code(one_line(&error)))
    }

    fn compile(&self, wasm: &[u8]) -> Result<Component, LoadError> {
        if wasm.starts_with(&WASM_MAGIC) && wasm[WASM_MAGIC.len()..].starts_with(&CORE_MODULE) {
            return Err(LoadError::CoreModule);
        }
        Component::from_binary(&self.engine, wasm).map_err(|error| LoadError::Invalid(one_line(&error)))
    }

    fn link(&self, component: &Component) -> Result<Command, LoadError> {
        if !component
            .component_type()
            .exports(&self.engine)
            .any(|(name, _)| name.starts_with(RUN))
        {
            return Err(LoadError::NotCommand);
        }
        let missing = |error: Error| LoadError::MissingImport(one_line(&error));
        let pre = self.linker.instantiate_pre(component).map_err(missing)?;
        Ok(Command {
            pre: CommandPre::new(pre).map_err(|_| LoadError::NotCommand)?,
        })
    }
}

/// An error with its causes on one line.
pub(crate) fn one_line(error: &Error) -> String {
    let text = format!("{error:#}");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
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
