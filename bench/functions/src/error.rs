//! Why a function ends with a non-zero exit code.

use std::io;
use std::process::ExitCode;

/// The result of a function or of a part of it.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a function failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong.
    #[error("{0}; see --help")]
    Usage(String),

    /// A call on a socket or file failed.
    #[error("{action}: {source}")]
    Io {
        /// What was tried, on what.
        action: String,
        /// The error of the call.
        source: io::Error,
    },

    /// The peer sent other bytes than it should have.
    #[error("wrong data: {0}")]
    Data(String),

    /// A connection to a peer failed, or the peer did.
    #[error(transparent)]
    Peer(#[from] cwasi_peer::Error),

    /// A picture could not be decoded or encoded.
    #[error("image: {0}")]
    Image(#[from] image::ImageError),

    /// A server's connections that failed; each was reported when it did.
    #[error("{failed} of {served} connections failed")]
    Connections {
        /// How many failed.
        failed: u64,
        /// How many were served in all.
        served: u64,
    },
}

impl From<lexopt::Error> for Error {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Gives an `io::Result` the action that failed.
pub trait Context<T> {
    /// Names the action: `"cannot connect to 10.0.0.1:80"`.
    ///
    /// # Errors
    /// The same failure as [`Error::Io`].
    fn context(self, action: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io {
            action: action(),
            source,
        })
    }
}

/// Runs a function: one line on stderr and exit code 2 for a wrong command line, 1 for any other failure.
pub fn exit(name: &str, function: impl FnOnce() -> Result<()>) -> ExitCode {
    match function() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}
