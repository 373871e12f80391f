//! The commands of `cwasi-agent`.

mod actions;
mod args;
mod output;
mod queries;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use cwasi_client::client::ClientError;
use tracing_subscriber::EnvFilter;

use crate::capabilities;
use crate::exec::ExecError;
use crate::kernel::PlaneError;
use crate::prepare::{PrepareError, prepare};
use crate::run::{RunError, run};

pub use args::{Cli, Command};
pub(crate) use output::bytes;

/// Exit codes; `exec` has its own, see [`crate::exec`].
pub mod exit {
    /// All is well.
    pub const OK: u8 = 0;
    /// `status`: degraded. `probe`: something that is needed is missing.
    pub const DEGRADED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// No agent answers on the socket.
    pub const NO_AGENT: u8 = 3;
    /// The agent refused the request, or its socket is not open to this user.
    pub const REFUSED: u8 = 4;
    /// `run`, `unload`: another agent is there.
    pub const OTHER_AGENT: u8 = 5;
    /// Anything else: a system call failed.
    pub const FAILED: u8 = 6;
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The agent could not be asked, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The pins could not be changed.
    #[error("{0}; {remedy}", remedy = .0.remedy())]
    Plane(#[from] PlaneError),
    /// The agent could not run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The agent's directories could not be made, or given away.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// this process's capabilities cannot be used: {0}
    #[error("this process's capabilities cannot be used: {0}")]
    Capabilities(#[source] io::Error),
    /// The command could not run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// cannot write the result: {0}
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
    /// the state directory cannot be written: {0}
    #[error("the state directory cannot be written: {0}")]
    State(#[source] io::Error),
    /// The answer does not belong to the question.
    #[error("the agent answered something else; is it of another version? See `cwasi-agent version`")]
    Unexpected,
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Exec(error) => error.exit_code(),
            Self::Client(ClientError::NoAgent { .. }) => exit::NO_AGENT,
            Self::Client(ClientError::Refused(_) | ClientError::Denied { .. }) => exit::REFUSED,
            Self::Run(error) if error.is_other_agent() => exit::OTHER_AGENT,
            Self::Plane(PlaneError::Locked { .. }) => exit::OTHER_AGENT,
            _ => exit::FAILED,
        }
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match perform(&cli) {
        Ok(code) => ExitCode::from(code),
        // A reader that has seen enough, such as `head`, is no failure.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "cwasi-agent: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn perform(cli: &Cli) -> Result<u8, CliError> {
    let format = cli.common.output;
    capabilities::raise().map_err(CliError::Capabilities)?;
    match &cli.command {
        Command::Run(options) => {
            log();
            run(options.options(&cli.common))?;
            Ok(exit::OK)
        }
        Command::Exec(options) => Ok(crate::exec::exec(options.options(&cli.common))?),
        Command::Status => queries::status(&cli.common),
        Command::Functions => queries::functions(&cli.common),
        Command::Flows(options) => queries::flows(&cli.common, options),
        Command::Explain { src, dst } => queries::explain(&cli.common, src, dst),
        Command::Version => queries::version(&cli.common),
        Command::Probe => queries::probe(&cli.common),
        Command::Enable(state) => {
            actions::switch(&cli.common, state, true).and_then(|done| done.print(format))
        }
        Command::Disable(state) => {
            actions::switch(&cli.common, state, false).and_then(|done| done.print(format))
        }
        Command::Prepare(options) => {
            let state = options.state.dir(&cli.common);
            prepare(&cli.common.socket, &state, &cli.common.bpffs, options.user)?;
            Ok(exit::OK)
        }
        Command::Unload => actions::unload(&cli.common).and_then(|done| done.print(format)),
    }
}

fn log() {
    let filter = EnvFilter::try_from_env("CWASI_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .try_init();
}
