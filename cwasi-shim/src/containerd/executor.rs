//! The container's process: in the container's namespaces and with its rights, it runs the guest or executes the program.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::SystemTime;
use std::{io, process};

use libcontainer::workload::default::DefaultExecutor;
use libcontainer::workload::{
    Executor as LibcontainerExecutor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::sys::signal::{SigHandler, Signal, signal};
use oci_spec::runtime::Spec;

use super::bundle::guest_config;
use super::embed::wire::Channel;
use super::embed::{self, standin};
use super::trace::Mark;
use crate::guest::{Guest, GuestConfig, GuestError};
use crate::program::{NO_SOCKETS, Program};
use crate::{exit, sandbox, signals};

/// Does one container's work.
#[derive(Clone)]
pub struct Executor {
    work: Rc<Work>,
    config: Rc<OnceCell<GuestConfig>>,
}

enum Work {
    Native,
    Guest(Program, Option<Mark>),
    StandIn(Channel),
    Functions(OwnedFd),
}

impl Executor {
    fn new(work: Work) -> Self {
        Self {
            work: Rc::new(work),
            config: Rc::default(),
        }
    }

    /// Executes what the container's arguments name.
    #[must_use]
    pub fn native() -> Self {
        Self::new(Work::Native)
    }

    /// Runs a guest, and tells `mark` when it was made.
    #[must_use]
    pub fn guest(program: Program, mark: Option<Mark>) -> Self {
        Self::new(Work::Guest(program, mark))
    }

    /// Stands in for a guest of the process behind `process`.
    #[must_use]
    pub fn stand_in(process: OwnedFd) -> Self {
        Self::new(Work::StandIn(process.into()))
    }

    /// Runs the guests of stand-ins, as the shim behind `shim` says.
    #[must_use]
    pub fn functions(shim: OwnedFd) -> Self {
        Self::new(Work::Functions(shim))
    }
}

impl LibcontainerExecutor for Executor {
    /// What is wrong here fails the container's creation, not its start.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        match &*self.work {
            // That the program is there is known; libcontainer's own check would also ask for a PATH, as pause images have none.
            Work::Native | Work::Functions(_) => return Ok(()),
            Work::Guest(program, _) if program.imports_sockets() => log::warn!("{NO_SOCKETS}"),
            Work::Guest(..) | Work::StandIn(_) => {}
        }
        let config = guest_config(spec)
            .map_err(|error| ExecutorValidationError::ArgValidationError(error.to_string()))?;
        // libcontainer validates once.
        let _ = self.config.set(config);
        Ok(())
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        match &*self.work {
            Work::Native => DefaultExecutor {}.setup_envs(envs),
            // A guest has its variables from the specification; this process's own would only be in the way.
            Work::Guest(..) | Work::StandIn(_) | Work::Functions(_) => Ok(()),
        }
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let other = |error: &dyn Display| ExecutorError::Other(error.to_string());
        let config = || {
            self.config
                .get()
                .ok_or_else(|| other(&"the guest was not validated"))
        };
        let code = match &*self.work {
            Work::Native => {
                // Rust programs ignore it, and an ignored signal stays so across the exec.
                // SAFETY: the default action runs no code.
                let reset = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
                reset.map_err(|errno| other(&format_args!("signal(SIGPIPE): {errno}")))?;
                return DefaultExecutor {}.exec(spec);
            }
            Work::Guest(program, mark) => ended(run(program, config()?, mark.as_ref())),
            Work::StandIn(process) => {
                let config = config()?;
                ended(end_by_signal().map(|()| standin::run(process, spec, config)))
            }
            Work::Functions(shim) => match functions(shim) {
                Ok(()) => 0,
                Err(error) => {
                    log::error!("the process of the pod's functions: {error}");
                    exit::HOST
                }
            },
        };
        process::exit(i32::from(code))
    }
}

/// Runs guests until the shim wants no more of them.
fn functions(shim: &OwnedFd) -> io::Result<()> {
    embed::process::run(shim.try_clone()?)
}

fn ended(ended: Result<u8, GuestError>) -> u8 {
    ended.unwrap_or_else(|error| {
        // To the container's own log, as a native program's last words.
        eprintln!("cwasi: {error}");
        error.exit_code()
    })
}

/// Ends this process on signals that end a container.
fn end_by_signal() -> Result<(), GuestError> {
    // The first process of a pid namespace is ended by no signal that it does not handle.
    signals::on_end(Box::new(|signal| {
        process::exit(i32::from(exit::by_signal(signal)))
    }))
    .map_err(|error| GuestError::Start(error.to_string()))
}

fn run(program: &Program, config: &GuestConfig, mark: Option<&Mark>) -> Result<u8, GuestError> {
    let began = SystemTime::now();
    end_by_signal()?;
    let guest = Guest::new(program, config)?;
    let runtime = sandbox::runtime().map_err(|error| GuestError::Start(error.to_string()))?;
    let ended = runtime.block_on(guest.run_after(|| {
        if let Some(mark) = mark {
            mark.instantiated(began);
        }
    }));
    // A name lookup that still runs must not hold the end up.
    runtime.shutdown_background();
    ended
}
