//! `cwasi-run`: run programs as functions of this node.

mod command_line;
mod registration;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use cwasi_client::netns::{self, NetnsError};

use self::command_line::{CommandLine, FunctionFlags};
use self::registration::Registration;
use crate::cache::Cache;
use crate::engine::{Engine, LoadError, Origin};
use crate::exit;
use crate::guest::{Guest, GuestConfig, GuestError};
use crate::network::Refusals;
use crate::program::{NO_SOCKETS, Program};
use crate::sandbox::{self, Sandbox};
use crate::signals::{self, SignalError};
use crate::sockets::LocalNetwork;
use crate::stdio::Stdio;

const EXIT_CODES: &str = "\
Exit codes: the guest's own; or
    2  a flag cannot be used
  110  the file cannot be read
  111  it is not valid WebAssembly
  112  it is a core module without an exported function `_start`
  113  it is a component that exports neither wasi:cli/run nor wasi:http/incoming-handler
  114  it needs an import that this host does not have
  115  the network namespace cannot be entered
  116  a directory of --dir cannot be opened
  117  the engine or the operating system failed
  118  the address of --http cannot be listened on
  120  a file of --stdin, --stdout or --stderr cannot be opened
  134  the guest trapped
  137  the guest ran out of memory under --memory-limit
  128+n  ended by signal n (SIGTERM 143, SIGINT 130, SIGHUP 129, SIGQUIT 131)
Of several functions, that of the first on the command line whose code is not 0.";

/// Why a guest did not run, or did not end by itself.
#[derive(Debug, thiserror::Error)]
enum RunError {
    /// cannot read {path}: {source}
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// {path}: {source}
    #[error("{path}: {source}")]
    Load { path: PathBuf, source: LoadError },
    /// {0}
    #[error(transparent)]
    Engine(LoadError),
    /// cannot open {path}: {source}
    #[error("cannot open {path}: {source}")]
    Stream { path: PathBuf, source: io::Error },
    /// {0}
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// {0}
    #[error(transparent)]
    Signals(#[from] SignalError),
    /// the event loop cannot be set up: {0}
    #[error("the event loop cannot be set up: {0}")]
    EventLoop(io::Error),
    /// {0}
    #[error(transparent)]
    Guest(#[from] GuestError),
}

impl RunError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Read { .. } => exit::UNREADABLE,
            Self::Load { source, .. } => match source {
                LoadError::NotWasm(_) | LoadError::Invalid(_) => exit::INVALID,
                LoadError::NoStart => exit::NO_START,
                LoadError::NotCommand => exit::NOT_COMMAND,
                LoadError::MissingImport(_) | LoadError::LeftOut => exit::MISSING_IMPORT,
                LoadError::Engine(_) | LoadError::Code(_) | LoadError::Memory(_) => exit::HOST,
            },
            Self::Stream { .. } => exit::STREAM,
            Self::Netns(_) => exit::NETNS,
            Self::Guest(error) => error.exit_code(),
            Self::Engine(_) | Self::Signals(_) | Self::EventLoop(_) => exit::HOST,
        }
    }
}

/// Runs `cwasi-run` with this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let code = run(CommandLine::get()).unwrap_or_else(|error| {
        note(&error);
        error.exit_code()
    });
    ExitCode::from(code)
}

/// One line for people.
fn note(line: &dyn Display) {
    eprintln!("cwasi-run: {line}");
}

fn run(line: CommandLine) -> Result<u8, RunError> {
    // First of all: a thread that was started before would take the signals itself.
    let registration = Registration::default();
    let at_signal = registration.clone();
    signals::on_end(Box::new(move |signal| at_signal.end_process(signal)))?;

    let netns = line.process.netns.as_deref().map(netns::resolve).transpose()?;
    // Whatever is wrong with a program, it is told before anyone hears of the functions.
    let network = (line.functions.len() > 1).then(LocalNetwork::default);
    let guests = guests(&line, network.as_ref())?;
    if let Some(netns) = &netns {
        netns::enter(netns)?;
    }
    if !line.process.no_agent {
        registration.begin(&line, netns, network);
    }
    let ended = run_guests(guests);
    drop(registration.end());
    ended
}

/// What runs as each function, by name, with everything that it is given.
fn guests(line: &CommandLine, network: Option<&LocalNetwork>) -> Result<Vec<(String, Guest)>, RunError> {
    let programs = programs(line)?;
    let streams = line
        .open_streams()
        .map_err(|(path, source)| RunError::Stream { path, source })?;
    let given = line.functions.iter().zip(streams).zip(&programs);
    given
        .map(|((function, stdio), program)| {
            let name = function.name();
            if program.imports_sockets() {
                note(&of(&name, network.is_some(), &NO_SOCKETS));
            }
            let guest = Guest::new(program, &config(function, stdio, network))?;
            Ok((name, guest))
        })
        .collect()
}

fn programs(line: &CommandLine) -> Result<Vec<Program>, RunError> {
    let engine = match line.functions.as_slice() {
        [_] => Engine::new(),
        _ => Engine::shared(),
    };
    let engine = engine.map_err(RunError::Engine)?;
    let cache = line.process.cache_dir.clone().map_or_else(Cache::default_dir, Ok);
    let cache = cache
        .and_then(|dir| Cache::open(&dir))
        .map_err(|error| note(&format_args!("compiling without a cache: {error}")))
        .ok();
    line.functions
        .iter()
        .map(|function| load(&engine, cache.as_ref(), function.wasm()))
        .collect()
}

fn load(engine: &Engine, cache: Option<&Cache>, path: &Path) -> Result<Program, RunError> {
    let wasm = fs::read(path).map_err(|source| RunError::Read {
        path: path.to_owned(),
        source,
    })?;
    let loaded = engine.load(&wasm, cache).map_err(|source| RunError::Load {
        path: path.to_owned(),
        source,
    })?;
    if let Origin::Compiled { cache_errors, .. } = &loaded.origin {
        for error in cache_errors {
            note(&format_args!("compiled anew: {error}"));
        }
    }
    Ok(loaded.program)
}

fn config(function: &FunctionFlags, stdio: Stdio, network: Option<&LocalNetwork>) -> GuestConfig {
    let (name, several) = (function.name(), network.is_some());
    GuestConfig {
        name: name.clone(),
        local: network.cloned(),
        alone: network.is_none(),
        args: function.arguments(),
        env: function.env.clone(),
        stdio,
        preopens: function.dirs.clone(),
        cwd: None,
        http: function.http,
        network: function.network(),
        refusals: Refusals::new(move |peer| {
            note(&of(
                &name,
                several,
                &format_args!("refused {peer}: no --allow-net names it"),
            ));
        }),
        memory_limit: function.memory_limit,
    }
}

/// What is said of a function, which has to be named where there are others.
fn of(name: &str, several: bool, what: &dyn Display) -> String {
    if several {
        format!("{name}: {what}")
    } else {
        what.to_string()
    }
}

fn run_guests(guests: Vec<(String, Guest)>) -> Result<u8, RunError> {
    let runtime = sandbox::runtime().map_err(RunError::EventLoop)?;
    let ended = match <[(String, Guest); 1]>::try_from(guests) {
        Ok([(_, guest)]) => runtime.block_on(guest.run()).map_err(RunError::from),
        Err(guests) => Ok(runtime.block_on(run_side_by_side(guests))),
    };
    // A name lookup that still runs must not hold the end up.
    runtime.shutdown_background();
    ended
}

/// Runs all guests to their ends, and tells of each that did not end with 0. Gives the code of the first of these.
async fn run_side_by_side(guests: Vec<(String, Guest)>) -> u8 {
    let sandbox = Sandbox::new();
    let ends = guests.into_iter().map(|(name, guest)| {
        let running = sandbox.start(guest);
        // On its own, so that each end is told when it comes.
        tokio::spawn(async move {
            match running.await {
                Ok(0) => 0,
                Ok(code) => {
                    note(&format_args!("{name}: ended with exit code {code}"));
                    code
                }
                Err(error) => {
                    note(&format_args!("{name}: {error}"));
                    error.exit_code()
                }
            }
        })
    });
    let ends: Vec<_> = ends.collect();
    let mut first = 0;
    for end in ends {
        let code = end.await.unwrap_or(exit::HOST);
        if first == 0 {
            first = code;
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_tells_every_exit_code() {
        let codes = [
            exit::USAGE,
            exit::UNREADABLE,
            exit::INVALID,
            exit::NO_START,
            exit::NOT_COMMAND,
            exit::MISSING_IMPORT,
            exit::NETNS,
            exit::PREOPEN,
            exit::HOST,
            exit::LISTEN,
            exit::STREAM,
            exit::TRAP,
            exit::MEMORY_LIMIT,
        ];
        for code in codes {
            let told = EXIT_CODES
                .lines()
                .any(|line| line.trim_start().starts_with(&format!("{code}  ")));
            assert!(told, "{code}");
        }
    }
}
