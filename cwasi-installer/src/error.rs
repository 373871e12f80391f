//! What can go wrong on a node.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the node is not as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// cannot {action}: {source}
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, and on what.
        action: String,
        /// The error of the call.
        source: io::Error,
    },
    /// {path}: {detail}; nothing was changed
    #[error("{path}: {detail}; nothing was changed", path = .path.display())]
    Refused {
        /// The file of the node.
        path: PathBuf,
        /// Why it is left alone, and what to do.
        detail: String,
    },
    /// processes of functions run on this node ({0}); end their pods first, or use --force; nothing was changed
    #[error(
        "processes of functions run on this node ({}); end their pods first, or use --force; nothing was changed",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Running(Vec<u32>),
    /// {command} failed: {detail}
    #[error("{command} failed: {detail}")]
    Command {
        /// The command line.
        command: String,
        /// Its status, and the end of what it printed.
        detail: String,
    },
    /// containerd does not take the configuration: {0}
    #[error("containerd does not take the configuration: {0}")]
    Invalid(String),
    /// {cause}; the configuration is again as it was before
    #[error("{cause}; the configuration is again as it was before")]
    RolledBack {
        /// What failed.
        cause: Box<Error>,
    },
    /// {cause}; and what was there before could not be restored: {failure}; see the backup beside {path}
    #[error(
        "{cause}; and what was there before could not be restored: {failure}; see the backup beside {path}",
        path = .path.display()
    )]
    NotRolledBack {
        /// What failed first.
        cause: Box<Error>,
        /// What failed then.
        failure: Box<Error>,
        /// The file that was changed.
        path: PathBuf,
    },
    /// cannot write the result: {0}
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
}

impl Error {
    /// The exit code of a command that ends with it.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::Running(_) => 3,
            Self::RolledBack { .. } => 4,
            _ => 6,
        }
    }

    pub(crate) fn refused(path: &Path, detail: impl Into<String>) -> Self {
        Self::Refused {
            path: path.to_owned(),
            detail: detail.into(),
        }
    }
}

/// Gives an I/O result its action.
pub(crate) trait IoContext<T> {
    /// Turns an `io::Error`, or an `Errno`, into [`Error::Io`].
    fn on(self, verb: &str, what: impl Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn on(self, verb: &str, what: impl Display) -> Result<T> {
        self.map_err(|source| Error::Io {
            action: format!("{verb} {what}"),
            source: source.into(),
        })
    }
}
