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
use super::compile::engine;
use crate::code::Code;
use crate::exit;
use crate::guest::{Guest, GuestConfig, GuestError};
use crate::program::Program;
use crate::signals;

/// Runs one container's program.
#[derive(Clone)]
pub struct Executor {
    code: Option<Rc<Code>>,
    prepared: Rc<OnceCell<(Program, GuestConfig)>>,
}

impl Executor {
    /// Runs the guest of `code`; without it, what the container's arguments name.
    #[must_use]
    pub fn new(code: Option<Code>) -> Self {
        Self {
            code: code.map(Rc::new),
            prepared: Rc::default(),
        }
    }
}

impl LibcontainerExecutor for Executor {
    /// What can be done before the start is done here: what is wrong fails the container's creation, and the start is quick.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let Some(code) = &self.code else {
            // That the program is there is known; libcontainer's own check would also ask for a PATH, as pause images have none.
            return Ok(());
        };
        let invalid =
            |error: &dyn std::fmt::Display| ExecutorValidationError::ArgValidationError(error.to_string());
        let program = engine()
            .and_then(|engine| engine.link(code))
            .map_err(|error| invalid(&error))?;
        if program.imports_sockets() {
            log::warn!(
                "it imports sockets of WASI 0.1, which no host implements: build it for wasm32-wasip2"
            );
        }
        let config = guest_config(spec).map_err(|error| invalid(&error))?;
        // libcontainer validates once.
        let _ = self.prepared.set((program, config));
        Ok(())
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        match self.code {
            // The guest has its variables from the specification; this process's own would only be in the way.
            Some(_) => Ok(()),
            None => DefaultExecutor {}.setup_envs(envs),
        }
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        if self.code.is_none() {
            // Rust programs ignore it, and an ignored signal stays so across the exec.
            // SAFETY: the default action runs no code.
            let reset = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
            reset.map_err(|errno| ExecutorError::Other(format!("signal(SIGPIPE): {errno}")))?;
            return DefaultExecutor {}.exec(spec);
        }
        let Some((program, config)) = self.prepared.get() else {
            return Err(ExecutorError::Other("the guest was not validated".to_owned()));
        };
        let code = run(program, config).unwrap_or_else(|error| {
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| host(&error))?;
    let ended = runtime.block_on(guest.run());
    // A name lookup that still runs must not hold the end up.
    runtime.shutdown_background();
    ended
}
