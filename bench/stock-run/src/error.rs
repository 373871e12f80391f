//! Why a component did not run.

use std::io;
use std::path::PathBuf;

use cwasi_client::netns::NetnsError;

/// Why a component did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// cannot {call} {path}: {source}
    #[error("cannot {call} {}: {source}", path.display())]
    File {
        /// What was tried: "read", "write".
        call: &'static str,
        /// On what.
        path: PathBuf,
        /// The error of the call.
        source: io::Error,
    },
    /// {0}
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// cannot start the runtime's threads: {0}
    #[error("cannot start the runtime's threads: {0}")]
    Runtime(io::Error),
    /// {0}
    // wasmtime's errors have their causes behind `#`.
    #[error("{0:#}")]
    Engine(#[from] wasmtime::Error),
}
