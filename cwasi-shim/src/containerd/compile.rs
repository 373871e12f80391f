//! Machine code for a guest, from the cache or compiled in a process of its own.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use zygote::{WireError, WireFd, Zygote};

use super::error::ShimError;
use crate::cache::{Cache, ROOT_DIR};
use crate::engine::{Engine, LoadError, Origin};

/// Most bytes of a component or module: an image can have a file of any size, and it is read and compiled outside of the container's
/// limits.
pub const MAX_WASM_BYTES: u64 = 256 << 20;

/// Whom the kernel kills first when memory is short, and that it is this process.
const OOM_SCORE: (&str, &str) = ("/proc/self/oom_score_adj", "1000");

/// Directory of compiled guests, where it is not the default.
pub const CACHE_VARIABLE: &str = "CWASI_CACHE_DIR";

/// Machine code, and how it was come by.
#[derive(Debug)]
pub struct Compiled {
    /// See [`crate::code::Code::from_file`].
    pub code: File,
    /// Whether it was in the cache.
    pub cached: bool,
    /// What kept the cache from serving or storing it.
    pub cache_errors: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Job {
    wasm: WireFd<OwnedFd>,
    cache: PathBuf,
    shared: bool,
}

#[derive(Serialize, Deserialize)]
struct Done {
    code: WireFd<OwnedFd>,
    cached: bool,
    cache_errors: Vec<String>,
}

/// Machine code for the component or module `wasm`, which shares its thread with others when it is `shared`; `name` is for
/// messages. A process of its own does it: compiling needs
/// much memory and many threads, and the shim lives as long as its pod.
///
/// # Errors
/// [`ShimError::Load`] for what cannot be compiled or linked, [`ShimError::TooLarge`].
pub fn compile(name: &str, wasm: File, shared: bool) -> Result<Compiled, ShimError> {
    check_size(name, wasm.metadata().map_or(0, |meta| meta.len()))?;
    let cache = std::env::var_os(CACHE_VARIABLE).map_or_else(|| PathBuf::from(ROOT_DIR), PathBuf::from);
    let job = Job {
        wasm: WireFd::new(OwnedFd::from(wasm)),
        cache,
        shared,
    };
    let done = Zygote::global()
        .spawn()
        .try_run(run, job)
        .map_err(|error| ShimError::Process(format!("compiling {name}: {error}")))?
        .map_err(|error| ShimError::Load {
            name: name.to_owned(),
            reason: error.to_string(),
        })?;
    Ok(Compiled {
        code: File::from(done.code.into_inner()),
        cached: done.cached,
        cache_errors: done.cache_errors,
    })
}

/// Refuses what has more than [`MAX_WASM_BYTES`].
///
/// # Errors
/// [`ShimError::TooLarge`].
pub fn check_size(name: &str, bytes: u64) -> Result<(), ShimError> {
    if bytes <= MAX_WASM_BYTES {
        return Ok(());
    }
    Err(ShimError::TooLarge {
        name: name.to_owned(),
        bytes,
    })
}

/// Sets the engine up in the zygote, so that every process forked from it has it already.
///
/// # Errors
/// [`ShimError::Process`] when this machine cannot run the engine.
pub fn warm_up() -> Result<(), ShimError> {
    Zygote::global()
        .try_run(|()| engine().map(drop).map_err(WireError::from), ())
        .map_err(|error| ShimError::Process(format!("warming up: {error}")))?
        .map_err(|error| ShimError::Process(error.to_string()))
}

/// The engine of this process.
///
/// # Errors
/// [`LoadError::Engine`].
pub fn engine() -> Result<&'static Engine, LoadError> {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    match ENGINE.get() {
        Some(engine) => Ok(engine),
        None => {
            let engine = Engine::new()?;
            Ok(ENGINE.get_or_init(|| engine))
        }
    }
}

fn run(job: Job) -> Result<Done, WireError> {
    // With the shim's score the node's other processes would die for a module that takes too much. Where it cannot be set, they do.
    let (score, first) = OOM_SCORE;
    let _ = fs::write(score, first);
    let mut wasm = Vec::new();
    File::from(job.wasm.into_inner())
        .take(MAX_WASM_BYTES)
        .read_to_end(&mut wasm)?;
    let mut cache_errors = Vec::new();
    let cache = Cache::open(&job.cache)
        .map_err(|error| cache_errors.push(error.to_string()))
        .ok();
    let prepared = if job.shared {
        engine()?.prepare_to_share(&wasm, cache.as_ref())?
    } else {
        engine()?.prepare(&wasm, cache.as_ref())?
    };
    let cached = match &prepared.origin {
        Origin::Cache => true,
        Origin::Compiled {
            cache_errors: errors, ..
        } => {
            cache_errors.extend(errors.iter().map(ToString::to_string));
            false
        }
    };
    let code = OwnedFd::from(prepared.code.into_file());
    Ok(Done {
        code: WireFd::new(code),
        cached,
        cache_errors,
    })
}
