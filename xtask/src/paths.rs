//! Where things live: the repository, cargo's directories and the cache of build tools.

use crate::{Error, Result};
use std::env;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The root of the repository that cargo runs this program in, or else of the one that it was compiled in.
#[must_use]
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        // In a target directory that two checkouts share, cargo takes the program of one for the other's.
        let run = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let compiled = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = run.as_deref().and_then(repository_of);
        root.or_else(|| compiled.parent()).unwrap_or(compiled).to_owned()
    });
    &ROOT
}

/// The repository that a package is in, where it is this one's.
fn repository_of(package: &Path) -> Option<&Path> {
    package
        .ancestors()
        .find(|directory| directory.join("xtask/Cargo.toml").is_file())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_tells_its_repository() {
        let checkout = tempfile::tempdir().unwrap();
        let checkout = checkout.path();
        for package in ["xtask", "bench/functions/echo"] {
            std::fs::create_dir_all(checkout.join(package)).unwrap();
        }
        std::fs::write(checkout.join("xtask/Cargo.toml"), "").unwrap();
        assert_eq!(repository_of(&checkout.join("xtask")), Some(checkout));
        assert_eq!(
            repository_of(&checkout.join("bench/functions/echo")),
            Some(checkout)
        );
        assert_eq!(repository_of(Path::new("/registry/src/other-1.0.0")), None);
    }
}
