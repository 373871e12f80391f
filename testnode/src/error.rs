//! What can go wrong on a test node.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use cwasi_client::cgroup::CgroupError;
use cwasi_client::client::ClientError;
use cwasi_client::netns::NetnsError;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something on a test node failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// {what}; {remedy}
    #[error("{what}; {remedy}")]
    Missing {
        /// What this machine does not have.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// cannot {action}: {source}
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, and on what.
        action: String,
        /// The error of the call.
        source: io::Error,
    },
    /// {program} failed ({status}): {output}
    #[error("{program} failed ({status}): {output}")]
    Failed {
        /// The command line in short.
        program: String,
        /// Its exit status.
        status: ExitStatus,
        /// What it printed, stderr last.
        output: String,
    },
    /// not within {after}: {what}
    #[error("not within {after:?}: {what}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// CRI {call}: {message}
    #[error("CRI {call}: {message}")]
    Cri {
        /// The remote procedure.
        call: &'static str,
        /// What containerd says, or why it was not reached.
        message: String,
    },
    /// {program} gave {detail}
    #[error("{program} gave {detail}")]
    Output {
        /// The program or file.
        program: String,
        /// What is wrong with what it gave.
        detail: String,
    },
    /// left over: {0}
    #[error("left over: {}", .0.join(", "))]
    Leftovers(Vec<String>),
    /// {0}
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// {0}
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// {0}
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// {0}
    #[error(transparent)]
    Build(#[from] xtask::Error),
}

/// Gives an I/O result its action.
pub(crate) trait IoContext<T> {
    /// Turns an `io::Error`, or an `Errno`, into [`Error::Io`].
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
pub(crate) fn on(verb: &'static str, path: impl Into<PathBuf>) -> impl FnOnce() -> String {
    let path = path.into();
    move || format!("{verb} {}", path.display())
}

/// A command line in short.
pub(crate) fn brief(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
