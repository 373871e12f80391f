//! The command line, which containerd uses: `start`, `delete`, and no word at all for the shim itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, io, process, thread};

use containerd_shim::api::DeleteResponse;
use containerd_shim::protos::protobuf::{Message, MessageField};
use containerd_shim::protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use containerd_shim::publisher::RemotePublisher;
use containerd_shim::util::{timestamp, write_address};
use containerd_shim::{Config, ExitSignal, Flags, Shim as ContainerdShim, StartOpts};
use nix::sys::socket::{UnixAddr, getsockname};
use zygote::Zygote;

use super::bundle::Bundle;
use super::error::ShimError;
use super::events::Events;
use super::service::Service;
use super::{RUNTIME, logger, remains, trace};
use crate::exit;

/// Where containerd's shims find its event service.
const TTRPC_VARIABLE: &str = "TTRPC_ADDRESS";

/// Descriptor of the shim's listener, as containerd-shim's `spawn` passes it.
const LISTENER: i32 = 3;

/// Longest time that the server may take to end once no container is left: nobody else would end the shim.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the program cannot do what it was called for.
#[derive(Debug, thiserror::Error)]
enum CallError {
    /// {0}; containerd calls this program: name the runtime io.containerd.cwasi.v1 there
    #[error("{0}; containerd calls this program: name the runtime io.containerd.cwasi.v1 there")]
    Usage(String),
    /// {0}
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// standard output: {0}
    #[error("standard output: {0}")]
    Output(String),
    /// no log that containerd reads ({0}); containerd starts this program in a bundle
    #[error("no log that containerd reads ({0}); containerd starts this program in a bundle")]
    Log(io::Error),
}

/// Runs `containerd-shim-cwasi-v1` with this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    match call() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-shim-cwasi-v1: {error}");
            ExitCode::from(match error {
                CallError::Usage(_) => exit::USAGE,
                CallError::Shim(_) | CallError::Output(_) | CallError::Log(_) => 1,
            })
        }
    }
}

fn call() -> Result<(), CallError> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let flags = containerd_shim::parse(&arguments).map_err(|error| CallError::Usage(error.to_string()))?;
    if flags.version {
        println!("containerd-shim-cwasi-v1 {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if flags.info {
        return info();
    }
    check(&flags, env::var_os(TTRPC_VARIABLE).is_some()).map_err(CallError::Usage)?;
    match flags.action.as_str() {
        // containerd reads the bundle in this directory, and so must the shim.
        "start" => drop(Bundle::load(&remains::bundle("")?)?),
        // Before the first thread: what is forked from a process with threads inherits their locks.
        "delete" => Zygote::init(),
        _ => {
            logger::init(flags.debug).map_err(CallError::Log)?;
            Zygote::init();
        }
    }
    let config = Config {
        no_setup_logger: true,
        ..Config::default()
    };
    containerd_shim::run::<Shim>(RUNTIME, Some(config));
    Ok(())
}

/// What containerd 2 asks of a runtime before it uses it.
fn info() -> Result<(), CallError> {
    let info = RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    info.write_to_writer(&mut io::stdout().lock())
        .map_err(|error| CallError::Output(error.to_string()))
}

fn check(flags: &Flags, has_ttrpc_address: bool) -> Result<(), String> {
    if !["start", "delete", ""].contains(&flags.action.as_str()) {
        return Err(format!("{:?} is neither `start` nor `delete`", flags.action));
    }
    if flags.namespace.is_empty() {
        return Err("no containerd namespace (-namespace)".to_owned());
    }
    if flags.id.is_empty() {
        return Err("no container (-id)".to_owned());
    }
    if flags.address.is_empty() {
        return Err("no address of containerd (-address)".to_owned());
    }
    if !has_ttrpc_address {
        return Err(format!("no address of containerd's events ({TTRPC_VARIABLE})"));
    }
    Ok(())
}

/// The shim as containerd-shim drives it.
struct Shim {
    namespace: String,
    id: String,
    containerd: PathBuf,
    bundle: String,
    /// The socket that containerd talks to; `None` unless this process serves it.
    socket: Option<PathBuf>,
    exit: Arc<ExitSignal>,
}

impl ContainerdShim for Shim {
    type T = Service;

    fn new(_runtime: &str, flags: &Flags, _config: &mut Config) -> Self {
        Self {
            namespace: flags.namespace.clone(),
            id: flags.id.clone(),
            containerd: PathBuf::from(&flags.address),
            bundle: flags.bundle.clone(),
            socket: flags.action.is_empty().then(listener_path).flatten(),
            exit: Arc::default(),
        }
    }

    /// Starts the shim of a container, or finds the one that serves its pod already.
    fn start_shim(&mut self, opts: StartOpts) -> containerd_shim::Result<String> {
        let bundle = remains::bundle("").and_then(|dir| Bundle::load(&dir));
        let bundle = bundle.map_err(|error| containerd_shim::Error::InvalidArgument(error.to_string()))?;
        let group = bundle.sandbox_id().unwrap_or(&self.id).to_owned();
        let (_pid, address) = containerd_shim::spawn(opts, &group, Vec::new())?;
        write_address(&address)?;
        Ok(address)
    }

    /// Cleans up after a shim that is gone. What cannot be removed must not keep containerd from hearing that the container is
    /// over.
    fn delete_shim(&mut self) -> containerd_shim::Result<DeleteResponse> {
        let removed = remains::bundle(&self.bundle)
            .and_then(|bundle| remains::remove(&bundle, &self.namespace, &self.id));
        if let Err(error) = removed {
            eprintln!("containerd-shim-cwasi-v1: {}: {error}", self.id);
        }
        Ok(DeleteResponse {
            exit_status: u32::from(exit::MEMORY_LIMIT),
            exited_at: Some(timestamp()?).into(),
            ..Default::default()
        })
    }

    fn wait(&mut self) {
        self.exit.wait();
        // The server joins the threads of its connections, of which one may be new, or wait for another.
        thread::spawn(|| {
            thread::sleep(SHUTDOWN_TIMEOUT);
            process::exit(0);
        });
        trace::end();
        // containerd-shim does it, too, but looks the path up in a bundle that containerd may have removed by then.
        if let Some(socket) = &self.socket {
            let _ = fs::remove_file(socket);
        }
    }

    fn create_task_service(&self, _publisher: RemotePublisher) -> Service {
        let address = env::var(TTRPC_VARIABLE).unwrap_or_default();
        let events = Events::new(self.namespace.clone(), address);
        let (namespace, containerd) = (self.namespace.clone(), self.containerd.clone());
        Service::new(namespace, containerd, events, Arc::clone(&self.exit))
    }
}

/// Where the listener is that the `start` process passed on; the bundle's file may not be written yet.
fn listener_path() -> Option<PathBuf> {
    let address: UnixAddr = getsockname(LISTENER).ok()?;
    address.path().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let whole = || Flags {
            namespace: "default".to_owned(),
            id: "a".to_owned(),
            address: "/run/containerd/containerd.sock".to_owned(),
            action: "start".to_owned(),
            ..Flags::default()
        };
        assert_eq!(check(&whole(), true), Ok(()));
        let wrong = |change: fn(&mut Flags), ttrpc| {
            let mut flags = whole();
            change(&mut flags);
            check(&flags, ttrpc).unwrap_err()
        };
        assert!(wrong(|flags| flags.action = "run".to_owned(), true).contains("\"run\""));
        assert!(wrong(|flags| flags.namespace.clear(), true).contains("-namespace"));
        assert!(wrong(|flags| flags.id.clear(), true).contains("-id"));
        assert!(wrong(|flags| flags.address.clear(), true).contains("-address"));
        assert!(wrong(|_| {}, false).contains("TTRPC_ADDRESS"));
    }
}
