//! What can go wrong, beside what the crates below say.

use crate::Peer;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a figure cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// no containerd can run here: {0}
    #[error("no containerd can run here: {0}")]
    NoNode(String),
    /// {peer} did not do what is measured: {detail}
    #[error("{} did not do what is measured: {detail}", peer.name())]
    Invalid {
        /// Which peer.
        peer: Peer,
        /// What it did.
        detail: String,
    },
    /// {0}
    #[error(transparent)]
    Bench(#[from] cwasi_bench::Error),
    /// {0}
    #[error(transparent)]
    Node(#[from] cwasi_testnode::Error),
}
