//! What the shim, the process of a pod's functions and the stand-ins say to each other.

use std::net::SocketAddr;

use cwasi_client::process_report::ProcessReport;
use serde::{Deserialize, Serialize};

/// Files with [`Order::Admit`]: the channel of the stand-in, the machine code.
pub const ADMIT_FILES: usize = 2;

/// Files with the message of a stand-in that starts, before the directories: memory with a [`Given`], standard input, output
/// and error.
pub const START_FILES: usize = 4;

/// Most bytes of a [`Given`].
pub const MAX_GIVEN_BYTES: u64 = 16 << 20;

/// What the shim asks of the process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Run a guest once its stand-in starts it.
    Admit {
        /// Number of the guest, which is used once.
        guest: u64,
        /// Name of the function.
        name: String,
    },
}

/// What the process tells the shim.
#[derive(Debug, Serialize, Deserialize)]
pub enum Notice {
    /// Nothing of a guest is left: its memory, sockets and files are closed.
    Gone {
        /// Number of the guest.
        guest: u64,
    },
    /// What passed and passes between the guests. Comes before the notice of a guest's end.
    Report(ProcessReport),
}

/// How a guest ended; for its stand-in.
#[derive(Debug, Serialize, Deserialize)]
pub struct End {
    /// Exit code.
    pub code: u8,
    /// Why, where it did not end by itself.
    pub reason: Option<String>,
}

/// What a guest is given besides files.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// See [`GuestConfig::args`](crate::guest::GuestConfig::args).
    pub args: Vec<String>,
    /// See [`GuestConfig::env`](crate::guest::GuestConfig::env).
    pub env: Vec<(String, String)>,
    /// See [`GuestConfig::cwd`](crate::guest::GuestConfig::cwd).
    pub cwd: Option<String>,
    /// See [`GuestConfig::http`](crate::guest::GuestConfig::http).
    pub http: SocketAddr,
    /// The annotation [`ALLOW_NET`](crate::containerd::bundle::ALLOW_NET).
    pub allow_net: Option<String>,
    /// See [`GuestConfig::memory_limit`](crate::guest::GuestConfig::memory_limit).
    pub memory_limit: Option<u64>,
    /// Its directories, in the order of their files.
    pub directories: Vec<Directory>,
}

/// A directory that a stand-in opened.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// See [`Preopen::guest`](crate::preopen::Preopen::guest).
    pub guest: String,
    /// See [`Preopen::read_only`](crate::preopen::Preopen::read_only).
    pub read_only: bool,
}
