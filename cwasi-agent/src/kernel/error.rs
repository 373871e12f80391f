//! What can go wrong between the agent and the kernel.

use std::io;
use std::path::PathBuf;

use super::btf::BtfError;

/// Why the data plane could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// Another agent runs on the bpffs directory.
    #[error("another agent runs on {}", path.display())]
    Locked {
        /// The bpffs directory.
        path: PathBuf,
    },
    /// The directory for the pins is not on a bpffs.
    #[error("{} is not on a bpffs: {detail}", path.display())]
    NoBpffs {
        /// The bpffs directory.
        path: PathBuf,
        /// What was found, or what failed.
        detail: String,
    },
    /// No agent has left pins.
    #[error("nothing is pinned in {}", path.display())]
    NothingPinned {
        /// The bpffs directory.
        path: PathBuf,
    },
    /// A pinned map is not the one that the programs expect.
    #[error("{} has keys of {} and values of {} bytes, not {} and {}", pin.display(), found.0, found.1, wanted.0, wanted.1)]
    OtherMap {
        /// The pin.
        pin: PathBuf,
        /// Sizes of its keys and values, in bytes.
        found: (u32, u32),
        /// Sizes in this layout.
        wanted: (usize, usize),
    },
    /// The kernel's BTF cannot be used.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel's structs lack a field.
    #[error("this kernel has no {field}")]
    MissingField {
        /// Struct and member.
        field: String,
    },
    /// The object could not be loaded.
    #[error("load of the eBPF object: {}", chain(source))]
    Load {
        /// What aya said.
        source: Box<aya::EbpfError>,
    },
    /// A program was rejected or could not be attached.
    #[error("{what} of program {program}: {}", chain(source))]
    Program {
        /// Program name.
        program: &'static str,
        /// `load` or `attach`.
        what: &'static str,
        /// What aya said, with the verifier's log.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map could not be read or changed.
    #[error("{what} of map {map}: {}", chain(source))]
    Map {
        /// Map name.
        map: &'static str,
        /// Operation.
        what: &'static str,
        /// What aya said.
        source: Box<aya::maps::MapError>,
    },
    /// The object lacks a program or a map that this agent needs: they are of different versions.
    #[error("the eBPF object has no {0}")]
    NoSuch(&'static str),
    /// A system call failed.
    #[error("{call} on {target}: {source}")]
    Syscall {
        /// Call.
        call: &'static str,
        /// What it was called on.
        target: String,
        /// errno.
        source: io::Error,
    },
    /// The ring of events holds something that is no event.
    #[error("the event ring holds {len} bytes that are no event")]
    NotAnEvent {
        /// Length found.
        len: usize,
    },
}

impl PlaneError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "stop the other agent, or give this one its own --bpffs and --socket",
            Self::NoBpffs { .. } => "mount one: mount -t bpf bpf /sys/fs/bpf",
            Self::NothingPinned { .. } => "give the --bpffs of the agent that was there",
            Self::OtherMap { .. } => "take the pins away with `cwasi-agent unload`, and restart the agent",
            Self::Btf(BtfError::Read { .. }) => "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
            Self::Btf(BtfError::Malformed(_)) | Self::MissingField { .. } => {
                "use a kernel that docs/kernel-policy.md lists; connections stay on TCP until then"
            }
            Self::Load { .. } | Self::Program { .. } => {
                "run `cwasi-agent probe` for what the kernel lacks; CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed"
            }
            Self::Map { .. } => "see `cwasi-agent status` for full maps; fewer functions or prefixes fit",
            Self::NoSuch(_) => "rebuild the object with `cargo xtask build-ebpf`",
            Self::Syscall { .. } => "see the errno; most need root",
            Self::NotAnEvent { .. } => "unload the pins of another version: cwasi-agent unload",
        }
    }

    pub(super) fn map(map: &'static str, what: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map {
            map,
            what,
            source: Box::new(source),
        }
    }

    pub(super) fn program(
        program: &'static str,
        what: &'static str,
    ) -> impl FnOnce(aya::programs::ProgramError) -> Self {
        move |source| Self::Program {
            program,
            what,
            source: Box::new(source),
        }
    }

    pub(super) fn syscall(call: &'static str, target: impl ToString) -> impl FnOnce(io::Error) -> Self {
        let target = target.to_string();
        move |source| Self::Syscall { call, target, source }
    }
}

/// An error with its causes, on one line but for a verifier log.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
