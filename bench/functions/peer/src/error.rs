//! What can go wrong between two peers.

use std::io;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between two peers.
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
    /// wrong data: {0}
    #[error("wrong data: {0}")]
    Data(String),
    /// {0}
    #[error("{0}")]
    Senseless(&'static str),
}

/// Gives an `io::Result` its action.
pub(crate) trait Context<T> {
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
