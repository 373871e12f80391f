//! `cwasi-run`: run one program as a function of this node.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use clap::Parser;
use cwasi_client::netns::{self, NetnsError};
use cwasi_client::protocol::{FunctionSpec, Sockets};
use nix::sys::signal::Signal;

use crate::cache::Cache;
use crate::engine::{Engine, LoadError, Origin};
use crate::enrol::Enrolment;
use crate::exit;
use crate::guest::{Guest, GuestConfig, GuestError};
use crate::http;
use crate::network::{NetworkPolicy, Peer, Refusals};
use crate::preopen::Preopen;
use crate::program::Program;
use crate::sandbox;
use crate::signals::{self, SignalError};
use crate::stdio::Stdio;

/// Run a WebAssembly program as a function of this node.
///
/// A component of WASI 0.2 or a module of WASI 0.1 runs once, with this process's standard streams, and its exit code is passed
/// on. A component that handles HTTP is served. Components have real sockets: when a cwasi agent answers, their connections
/// to other functions of this node are moved by the kernel; when none answers, they run all the same.
#[derive(Debug, Parser)]
#[command(name = "cwasi-run", version, after_help = EXIT_CODES)]
struct Args {
    /// Name of the function [default: the file's name without its extension]
    #[arg(long, env = "CWASI_NAME")]
    name: Option<String>,

    /// Kubernetes namespace of the function
    #[arg(long, value_name = "NS", env = "CWASI_NAMESPACE", default_value = "default")]
    namespace: String,

    /// Network namespace to open sockets in: a name of `ip netns`, or a path
    #[arg(long, value_name = "NAME|PATH", env = "CWASI_NETNS")]
    netns: Option<String>,

    /// Environment variable of the guest; repeatable. It gets no others
    #[arg(long = "env", value_name = "K=V", value_parser = variable)]
    env: Vec<(String, String)>,

    /// Directory that the guest sees, at GUEST when given; repeatable
    #[arg(long = "dir", value_name = "HOST[::GUEST[::ro]]")]
    dirs: Vec<Preopen>,

    /// Peer that the guest may connect and send to; repeatable. Without it, every peer
    #[arg(long, value_name = "ADDR[:PORT]|CIDR|all")]
    allow_net: Vec<Peer>,

    /// Where a component that handles HTTP is served
    #[arg(long, value_name = "ADDR:PORT", env = "CWASI_HTTP_ADDR", default_value_t = http::DEFAULT_ADDRESS)]
    http: SocketAddr,

    /// Most bytes that the guest's memories and tables may have together
    #[arg(long, value_name = "BYTES", env = "CWASI_MEMORY_LIMIT")]
    memory_limit: Option<u64>,

    /// Do not look for an agent
    #[arg(long)]
    no_agent: bool,

    /// Socket of the agent
    #[arg(long, value_name = "PATH", env = "CWASI_SOCKET", default_value = cwasi_client::DEFAULT_SOCKET)]
    socket: PathBuf,

    /// Directory of compiled programs [default: /var/cache/cwasi for root, else cwasi in the user's cache directory]
    #[arg(long, value_name = "DIR", env = "CWASI_CACHE_DIR")]
    cache_dir: Option<PathBuf>,

    /// The component or module, and the guest's arguments
    // One list, so that every flag after the file is the guest's.
    #[arg(required = true, trailing_var_arg = true, value_names = ["APP.WASM", "ARGS"])]
    command: Vec<String>,
}

impl Args {
    fn wasm(&self) -> &Path {
        Path::new(&self.command[0])
    }
}

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
  134  the guest trapped
  137  the guest ran out of memory under --memory-limit
  128+n  ended by signal n (SIGTERM 143, SIGINT 130, SIGHUP 129, SIGQUIT 131)";

fn variable(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a variable is NAME=VALUE"),
    }
}

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
                LoadError::MissingImport(_) => exit::MISSING_IMPORT,
                LoadError::Engine(_) | LoadError::Code(_) | LoadError::Memory(_) => exit::HOST,
            },
            Self::Netns(_) => exit::NETNS,
            Self::Guest(error) => error.exit_code(),
            Self::Signals(_) | Self::EventLoop(_) => exit::HOST,
        }
    }
}

/// Runs `cwasi-run` with this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let code = run(Args::parse()).unwrap_or_else(|error| {
        note(&error);
        error.exit_code()
    });
    ExitCode::from(code)
}

/// One line for people.
fn note(line: &dyn Display) {
    eprintln!("cwasi-run: {line}");
}

fn run(args: Args) -> Result<u8, RunError> {
    // First of all: a thread that was started before would take the signals itself.
    let enrolment = Shared::default();
    let at_signal = enrolment.clone();
    signals::on_end(Box::new(move |signal| at_signal.end_process(signal)))?;

    let netns = args.netns.as_deref().map(netns::resolve).transpose()?;
    // Whatever is wrong with the program, it is told before anyone hears of the function.
    let program = load(&args)?;
    if program.imports_sockets() {
        note(&"the module imports sockets of WASI 0.1, which fail here; build it for wasm32-wasip2");
    }
    let guest = Guest::new(&program, &config(&args))?;
    if let Some(netns) = &netns {
        netns::enter(netns)?;
    }
    if !args.no_agent {
        enrolment.begin(&args, netns);
    }
    let ended = run_guest(guest);
    drop(enrolment.end());
    ended
}

fn load(args: &Args) -> Result<Program, RunError> {
    let path = args.wasm();
    let wasm = fs::read(path).map_err(|source| RunError::Read {
        path: path.to_owned(),
        source,
    })?;
    let failed = |source| RunError::Load {
        path: path.to_owned(),
        source,
    };
    let engine = Engine::new().map_err(failed)?;
    let cache = args
        .cache_dir
        .clone()
        .map_or_else(Cache::default_dir, Ok)
        .and_then(|dir| Cache::open(&dir));
    let cache = cache
        .map_err(|error| note(&format_args!("compiling without a cache: {error}")))
        .ok();
    let loaded = engine.load(&wasm, cache.as_ref()).map_err(failed)?;
    if let Origin::Compiled { cache_errors, .. } = &loaded.origin {
        for error in cache_errors {
            note(&format_args!("compiled anew: {error}"));
        }
    }
    Ok(loaded.program)
}

fn function_name(args: &Args) -> String {
    let stem = || args.wasm().file_stem().unwrap_or_default().to_string_lossy();
    args.name.clone().unwrap_or_else(|| stem().into_owned())
}

fn config(args: &Args) -> GuestConfig {
    let program = args
        .wasm()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let network = match args.allow_net.as_slice() {
        [] => NetworkPolicy::unrestricted(),
        peers => NetworkPolicy::only(peers.to_vec()),
    };
    GuestConfig {
        name: function_name(args),
        local: None,
        args: std::iter::once(program)
            .chain(args.command[1..].iter().cloned())
            .collect(),
        env: args.env.clone(),
        stdio: Stdio::default(),
        preopens: args.dirs.clone(),
        cwd: None,
        http: args.http,
        network,
        refusals: Refusals::new(|peer| note(&format_args!("refused {peer}: no --allow-net names it"))),
        memory_limit: args.memory_limit,
    }
}

fn run_guest(guest: Guest) -> Result<u8, RunError> {
    let runtime = sandbox::runtime().map_err(RunError::EventLoop)?;
    let ended = runtime.block_on(guest.run());
    // A name lookup that still runs must not hold the end up.
    runtime.shutdown_background();
    Ok(ended?)
}

/// The enrolment, where both the end of the guest and a signal find it. Whoever changes it holds the lock until that is
/// done, so that neither ends the process in the middle of the other's work.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Option<Enrolment>>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Enrolment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, args: &Args, netns: Option<PathBuf>) {
        let spec = FunctionSpec {
            name: function_name(args),
            namespace: args.namespace.clone(),
            // Paths below /proc may mean something else to the agent; it then looks at this process.
            netns: netns
                .and_then(|path| std::path::absolute(path).ok())
                .filter(|path| !path.starts_with("/proc")),
            // The engine never waits in a read, and reads until EAGAIN.
            sockets: Sockets::All,
            ..FunctionSpec::default()
        };
        let function = format!("{}/{}", spec.namespace, spec.name);
        let mut enrolment = self.lock();
        match Enrolment::begin(&args.socket, spec) {
            Ok(begun) => {
                if let Some(reason) = &begun.registered().reason {
                    note(&format_args!(
                        "{function} is registered but not accelerated: {reason}"
                    ));
                }
                *enrolment = Some(begun);
            }
            Err(error) => note(&format_args!("{function} runs without the agent: {error}")),
        }
    }

    /// Ends the enrolment, if there is one. The lock that it gives back keeps the other thread from getting past its own
    /// clean-up.
    fn end(&self) -> MutexGuard<'_, Option<Enrolment>> {
        let mut enrolment = self.lock();
        let ended = enrolment.take().map_or(Ok(()), Enrolment::end);
        if let Err(error) = ended {
            note(&format_args!(
                "the function ended, but its registration did not: {error}"
            ));
        }
        enrolment
    }

    fn end_process(&self, signal: Signal) {
        let _locked = self.end();
        process::exit(i32::from(exit::by_signal(signal)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Args {
        Args::try_parse_from(["cwasi-run"].iter().chain(args)).unwrap()
    }

    #[test]
    fn command_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn everything_after_the_component_is_the_guests() {
        let args = parsed(&["--name", "a", "app.wasm", "--name", "b", "-x", "--", "c"]);
        assert_eq!(args.name.as_deref(), Some("a"));
        assert_eq!(config(&args).args, ["app.wasm", "--name", "b", "-x", "--", "c"]);
        assert_eq!(config(&parsed(&["/a/b/app.wasm"])).args, ["app.wasm"]);
    }

    #[test]
    fn variables_are_name_and_value() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(variable("A="), Ok(("A".to_owned(), String::new())));
        assert!(variable("A").is_err());
        assert!(variable("=b").is_err());
    }

    #[test]
    fn listed_peers_are_the_only_ones() {
        assert_eq!(
            config(&parsed(&["app.wasm"])).network,
            NetworkPolicy::unrestricted()
        );
        let args = parsed(&["--allow-net", "10.0.0.0/8", "--allow-net", "[::1]:80", "app.wasm"]);
        let peers = ["10.0.0.0/8", "[::1]:80"].map(|peer| peer.parse().unwrap());
        assert_eq!(config(&args).network, NetworkPolicy::only(peers.to_vec()));
    }

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
