//! What can go wrong, beside what the crates below say.

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a soak failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// {broken} connections broke that nothing had broken, {wrong} of them with wrong bytes; the report says which
    #[error(
        "{broken} connections broke that nothing had broken, {wrong} of them with wrong bytes; the report says which"
    )]
    Broken {
        /// How many.
        broken: usize,
        /// Those of them whose bytes were wrong.
        wrong: usize,
    },
    /// left behind by the soak: {0}
    #[error("left behind by the soak: {0}")]
    Left(String),
    /// {0}
    #[error(transparent)]
    Bench(#[from] cwasi_bench::Error),
    /// {0}
    #[error(transparent)]
    Node(#[from] cwasi_testnode::Error),
}
