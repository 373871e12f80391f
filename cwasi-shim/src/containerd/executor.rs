//! The container's process: in the container's namespaces and with its rights, it runs the guest or executes the program.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::process;
use std::rc::Rc;

use libcontainer::workload::default::DefaultExecutor;
use libcontainer::workload::{
    Executor as LibcontainerExecutor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::sys::signal::{SigHandler, Signal, signal};
use oci_spec::runtime::Spec;

use super::bundle::guest_config;
use crate::exit;
use crate::guest::{Guest, GuestConfig, GuestError};
use crate::program::Program;
use crate::sandbox;
use crate::signals;

/// Runs one container's program.
#[derive(Clone)]
pub struct Executor {
    guest: Option<Rc<Program>>,
    config: Rc<OnceCell<GuestConfig>>,
}

impl Executor {
    /// Runs `guest`; without one, what the container's arguments name.
    #[must_use]
    pub fn new(guest: Option<Program>) -> Self {
        Self {
            guest: guest.map(Rc::new),
            config: Rc::default(),
        }
    }
}

impl LibcontainerExecutor for Executor {
    /// What is wrong here fails the container's creation, not its start.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let Some(guest) = &self.guest else {
            // That the program is there is known; libcontainer's own check would also ask for a PATH, as pause images have none.
            return Ok(());
        };
        if guest.imports_sockets() {
            log::warn!(
                "it imports sockets of WASI 0.1, which no host implements: build it for wasm32-wasip2"
            );
        }
        let config = guest_config(spec)
            .map_err(|error| ExecutorValidationError::ArgValidationError(error.to_string()))?;
        // libcontainer validates once.
        let _ = self.config.set(config);
        Ok(())
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        match self.guest {
            // The guest has its variables from the specification; this process's own would only be in the way.
            Some(_) => Ok(()),
            None => DefaultExecutor {}.setup_envs(envs),
        }
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let Some(guest) = &self.guest else {
            // Rust programs ignore it, and an ignored signal stays so across the exec.
            // SAFETY: the default action runs no code.
            let reset = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
            reset.map_err(|errno| ExecutorError::Other(format!("signal(SIGPIPE): {errno}")))?;
            return DefaultExecutor {}.exec(spec);
        };
        let Some(config) = self.config.get() else {
            return Err(ExecutorError::Other("the guest was not validated".to_owned()));
        };
        let code = run(guest, config).unwrap_or_else(|error| {
            // To the container's own log, as a native program's last words.
            eprintln!("cwasi: {error}");
            error.exit_code()
        });
        process::exit(i32::from(code))
    }
}

fn run(program: &Program, config: &GuestConfig) -> Result<u8, GuestError> {
    let host = |error: &dyn std::fmt::Display| GuestError::Start(error.to_string());
    // The first process of a pid namespace is ended by no signal that it does not handle.
    signals::on_end(Box::new(|signal| {
        process::exit(i32::from(exit::by_signal(signal)))
    }))
    .map_err(|error| host(&error))?;
    let guest = Guest::new(program, config)?;
    let runtime = sandbox::runtime().map_err(|error| host(&error))?;
    let ended = runtime.block_on(guest.run());
    // A name lookup that still runs must not hold the end up.
    runtime.shutdown_background();
    ended
}
