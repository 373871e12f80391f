//! Why a container cannot be made or run.

use std::io;
use std::path::PathBuf;

use containerd_shim::protos::ttrpc;
use cwasi_client::cgroup::CgroupError;

use super::compile::MAX_WASM_BYTES;
use crate::text::one_line;

/// Why a container cannot be made or run. containerd passes the message on to whoever asked for the container.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// the bundle {path} cannot be used: {reason}
    #[error("the bundle {path} cannot be used: {reason}")]
    Bundle {
        /// Directory of the bundle.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// annotation {key}: {value:?} cannot be used: {reason}
    #[error("annotation {key}: {value:?} cannot be used: {reason}")]
    Annotation {
        /// Key of the annotation.
        key: &'static str,
        /// Its value, shortened.
        value: String,
        /// Why not.
        reason: String,
    },
    /// the entrypoint {0:?} is not in the image, and the image has no Wasm layer
    #[error("the entrypoint {0:?} is not in the image, and the image has no Wasm layer")]
    NoEntrypoint(String),
    /// no command: neither the image nor the container names an entrypoint
    #[error("no command: neither the image nor the container names an entrypoint")]
    NoCommand,
    /// the image has {0} Wasm layers; one component or module is run
    #[error("the image has {0} Wasm layers; one component or module is run")]
    Layers(usize),
    /// {path} is a program for another platform (ELF machine {machine}); this node needs {expected}
    #[error("{path} is a program for another platform (ELF machine {machine}); this node needs {expected}")]
    Platform {
        /// Path in the image.
        path: String,
        /// `e_machine` of the file.
        machine: u16,
        /// `e_machine` of this node's programs.
        expected: u16,
    },
    /// {name}: {reason}
    #[error("{name}: {reason}")]
    Load {
        /// Path in the image, or digest of the layer.
        name: String,
        /// Why it cannot become a program.
        reason: String,
    },
    /// {name} has {bytes} bytes; a component or module has at most 268435456
    #[error("{name} has {bytes} bytes; a component or module has at most {MAX_WASM_BYTES}")]
    TooLarge {
        /// Path in the image, or digest of the layer.
        name: String,
        /// Its length.
        bytes: u64,
    },
    /// containerd's {call} failed: {reason}
    #[error("containerd's {call} failed: {reason}")]
    Containerd {
        /// What was asked of containerd.
        call: &'static str,
        /// Its answer.
        reason: String,
    },
    /// {call} on {path} failed: {source}
    #[error("{call} on {path} failed: {source}")]
    Io {
        /// System call that failed.
        call: &'static str,
        /// What it was called on.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
    /// mounting the root filesystem on {path} failed: {reason}
    #[error("mounting the root filesystem on {path} failed: {reason}")]
    Mount {
        /// Directory of the root filesystem.
        path: PathBuf,
        /// What the kernel says.
        reason: String,
    },
    /// the resources cannot be changed: {0}
    #[error("the resources cannot be changed: {0}")]
    Resources(String),
    /// there is no container {0}
    #[error("there is no container {0}")]
    NotFound(String),
    /// there is a container {0} already
    #[error("there is a container {0} already")]
    Exists(String),
    /// nobody waits for container {0} any more
    #[error("nobody waits for container {0} any more")]
    Abandoned(String),
    /// container {id} is {state}, not {wanted}
    #[error("container {id} is {state}, not {wanted}")]
    State {
        /// Id of the container.
        id: String,
        /// Where it is in its life.
        state: &'static str,
        /// Where it would have to be.
        wanted: &'static str,
    },
    /// annotation cwasi.dev/embed: {0}
    #[error("annotation cwasi.dev/embed: {0}")]
    Embed(String),
    /// a guest has no use for {0}
    #[error("a guest has no use for {0}")]
    Unsupported(&'static str),
    /// {0}
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// the container's process: {0}
    #[error("the container's process: {0}")]
    Process(String),
}

/// Characters of a value that a message shows.
const SHOWN: usize = 80;

impl ShimError {
    pub(crate) fn annotation(key: &'static str, value: &str, reason: impl ToString) -> Self {
        Self::Annotation {
            key,
            value: value.chars().take(SHOWN).collect(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn no_entrypoint(program: &str) -> Self {
        Self::NoEntrypoint(program.chars().take(SHOWN).collect())
    }
}

impl From<ShimError> for ttrpc::Error {
    fn from(error: ShimError) -> Self {
        let code = match &error {
            ShimError::Bundle { .. }
            | ShimError::Annotation { .. }
            | ShimError::NoEntrypoint(_)
            | ShimError::NoCommand
            | ShimError::Layers(_)
            | ShimError::Platform { .. }
            | ShimError::Load { .. }
            | ShimError::TooLarge { .. }
            | ShimError::Resources(_) => ttrpc::Code::INVALID_ARGUMENT,
            ShimError::NotFound(_) => ttrpc::Code::NOT_FOUND,
            ShimError::Exists(_) => ttrpc::Code::ALREADY_EXISTS,
            ShimError::Abandoned(_) => ttrpc::Code::CANCELLED,
            ShimError::State { .. } | ShimError::Embed(_) => ttrpc::Code::FAILED_PRECONDITION,
            ShimError::Unsupported(_) => ttrpc::Code::UNIMPLEMENTED,
            ShimError::Containerd { .. }
            | ShimError::Io { .. }
            | ShimError::Mount { .. }
            | ShimError::Cgroup(_)
            | ShimError::Process(_) => ttrpc::Code::UNKNOWN,
        };
        // It goes into events and onto terminals, and images and specifications have a say in it.
        Self::RpcStatus(ttrpc::get_status(code, one_line(&error.to_string())))
    }
}

/// An error and its causes on one line, each once.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_is_told_is_one_line() {
        let entrypoint = format!("/app\n\u{1b}[31m{}", "x".repeat(100_000));
        for error in [
            ShimError::no_entrypoint(&entrypoint),
            ShimError::Platform {
                path: entrypoint.clone(),
                machine: 1,
                expected: 2,
            },
            ShimError::Load {
                name: entrypoint,
                reason: "it is \r\n nothing".to_owned(),
            },
        ] {
            let ttrpc::Error::RpcStatus(status) = ttrpc::Error::from(error) else {
                panic!("no status");
            };
            let message = status.message();
            assert!(message.contains("/app"), "{message}");
            assert!(!message.contains(char::is_control), "{message}");
            assert!(message.len() < 10_000, "{} bytes", message.len());
        }
    }
}
