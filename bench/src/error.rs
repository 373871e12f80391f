//! What can go wrong, each with what to do about it.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use cwasi_client::cgroup::CgroupError;
use cwasi_client::client::ClientError;
use cwasi_client::netns::NetnsError;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a topology, a program in it or a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// cannot run {program}: {source}{remedy}
    #[error("cannot run {program}: {source}{remedy}")]
    Spawn {
        /// The program's name or path.
        program: String,
        /// Error of exec.
        source: io::Error,
        /// `; install the package …` where the package is known, else empty.
        remedy: String,
    },
    /// {program} failed ({status}): {stderr}
    #[error("{program} failed ({status}): {stderr}")]
    Failed {
        /// The command line in short.
        program: String,
        /// Its exit status.
        status: ExitStatus,
        /// The last lines that it printed on stderr.
        stderr: String,
    },
    /// {program} did not {what} within {seconds} s
    #[error("{program} did not {what} within {} s", after.as_secs_f32())]
    Timeout {
        /// The command line in short.
        program: String,
        /// What was waited for, as a verb: "end", "listen on …".
        what: String,
        /// How long.
        after: Duration,
    },
    /// unexpected output of {program}: {detail}
    #[error("unexpected output of {program}: {detail}")]
    Output {
        /// The program.
        program: String,
        /// What was expected, or what is wrong.
        detail: String,
    },
    /// cannot {action}: {source}
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, and on what: "connect to 10.0.0.1:80".
        action: String,
        /// The error of the call.
        source: io::Error,
    },
    /// the received data is wrong: {0}
    #[error("the received data is wrong: {0}")]
    Data(String),
    /// {0}
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// {0}
    #[error(transparent)]
    Peer(#[from] cwasi_peer::Error),
    /// {0}
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// processor time cannot be counted: {0}
    #[error("processor time cannot be counted: {0}")]
    Cgroup(#[from] CgroupError),
    /// acceleration does not work here: {0}
    #[error("acceleration does not work here: {0}")]
    NotAccelerating(String),
    /// the peers cannot have one processor each here; use `--cpus together`
    #[error("the peers cannot have one processor each here; use `--cpus together`")]
    Cpus,
    /// {failed} measurements failed; the report says which and why
    #[error("{failed} measurements failed; the report says which and why")]
    Suite {
        /// How many.
        failed: usize,
    },
    /// network namespaces need root; run this with sudo
    #[error("network namespaces need root; run this with sudo")]
    NotRoot,
    /// interrupted
    #[error("interrupted")]
    Interrupted,
}

/// Gives an I/O result its action.
pub trait IoContext<T> {
    /// Turns an `io::Error`, or an `Errno`, into [`Error::Io`].
    ///
    /// # Errors
    /// The same failure, with what was tried and on what.
    fn action<D: Display>(self, action: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn action<D: Display>(self, action: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|source| Error::Io {
            action: action().to_string(),
            source: source.into(),
        })
    }
}

/// The action of a file operation, for [`IoContext::action`].
pub fn on(verb: &'static str, path: impl Into<PathBuf>) -> impl FnOnce() -> String {
    let path = path.into();
    move || format!("{verb} {}", path.display())
}
