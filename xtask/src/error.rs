//! What can go wrong in a task, each with what to do about it.

use std::path::PathBuf;

/// The result of a task or of a part of it.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started.
    #[error("cannot run {program}: {source}{}", hint(.remedy))]
    Spawn {
        /// The program's name or path.
        program: String,
        /// What to do about it; empty when there is nothing to add.
        remedy: &'static str,
        /// The error of exec.
        source: std::io::Error,
    },

    /// A program ran and failed; what it printed went before this line.
    #[error("{program} failed ({status})")]
    Failed {
        /// The command line in short.
        program: String,
        /// Its exit status.
        status: std::process::ExitStatus,
    },

    /// A system call on a file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb: "read", "create".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The error of the call.
        source: std::io::Error,
    },

    /// Something that the task needs is missing on this machine.
    #[error("{what}; {remedy}")]
    Missing {
        /// What is missing and where it was looked for.
        what: String,
        /// What to do about it.
        remedy: String,
    },

    /// A downloaded or given file is not the expected one.
    #[error("{} has sha256 {found}, expected {expected}", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// Its digest.
        found: String,
        /// The digest that is pinned in the source.
        expected: &'static str,
    },

    /// A committed, generated file differs from what its sources give.
    #[error("{} differs from a rebuild ({detail}); run `cargo xtask {command}` and commit the result", path.display())]
    Stale {
        /// The committed file.
        path: PathBuf,
        /// Sizes and first difference.
        detail: String,
        /// The command that refreshes the file.
        command: &'static str,
    },

    /// A program printed something that this task does not understand.
    #[error("unexpected output of {program}: {detail}")]
    Output {
        /// The program.
        program: String,
        /// What was expected.
        detail: String,
    },

    /// A file that is to be a function is not WebAssembly.
    #[error("not WebAssembly: {0}; give a component or a core module in the binary format")]
    Wasm(String),

    /// One or more checks failed; each was reported before this line.
    #[error("{0}")]
    Checks(String),

    /// The demo failed, or results cannot be printed.
    #[error(transparent)]
    Bench(#[from] cwasi_bench::Error),
}

fn hint(remedy: &str) -> String {
    if remedy.is_empty() {
        String::new()
    } else {
        format!("; {remedy}")
    }
}

/// Gives a file-system result its verb and path.
pub trait FileContext<T> {
    /// Turns an `io::Error` into [`Error::File`].
    ///
    /// # Errors
    /// The same failure, with what was tried and on what.
    fn file(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> FileContext<T> for std::io::Result<T> {
    fn file(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::File {
            action,
            path: path.into(),
            source,
        })
    }
}
