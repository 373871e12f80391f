//! Where things live: the repository, cargo's directories and the cache of build tools.

use crate::{Error, Result};
use std::env;
use std::path::{Path, PathBuf};

/// The repository's root.
#[must_use]
pub fn root() -> &'static Path {
    // xtask is run from the checkout that it was compiled in: that is what `cargo xtask` means.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask/ has a parent")
}

/// Cargo's target directory for the root workspace: `CARGO_TARGET_DIR`, or `target/` in the repository.
#[must_use]
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cache of build tools: `CWASI_CACHE`, or `~/.cache/cwasi`.
///
/// # Errors
/// [`Error::Missing`] without a home directory.
pub fn cache_dir() -> Result<PathBuf> {
    match env::var_os("CWASI_CACHE") {
        // Tools are built with absolute paths inside, so a relative cache would break in another directory.
        Some(dir) => Ok(root().join(dir)),
        None => Ok(home_dir()?.join(".cache/cwasi")),
    }
}

/// Cargo's home: `CARGO_HOME`, or `~/.cargo`.
///
/// # Errors
/// [`Error::Missing`] without a home directory.
pub fn cargo_home() -> Result<PathBuf> {
    match env::var_os("CARGO_HOME") {
        Some(dir) => Ok(dir.into()),
        None => Ok(home_dir()?.join(".cargo")),
    }
}

fn home_dir() -> Result<PathBuf> {
    env::home_dir().ok_or_else(|| Error::Missing {
        what: "no home directory is known".into(),
        remedy: "set HOME, or CWASI_CACHE and CARGO_HOME".into(),
    })
}
