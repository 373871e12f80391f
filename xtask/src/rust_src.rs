//! The standard library's source of exactly [`RUST_VERSION`], for `-Z build-std`.

use crate::debian::Package;
use crate::error::FileContext;
use crate::process;
use crate::toolchain::{RUST_VERSION, Toolchain};
use crate::{Error, Result, paths};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The environment variable that names a `library` directory or a .tar.xz of one.
pub const VARIABLE: &str = "RUST_SRC_LIBRARY";

const DEBIAN: Package = Package {
    name: "rust-src",
    version: "1.95.0+dfsg1-2~bpo13+1",
    sha256: "7b76db5b880a77f9e52975d2baa6209d2f76d2c9c2789515c3088cb960e2c83b",
    suite: "trixie-backports",
};

/// Where the library's source is.
#[derive(Debug, Clone)]
pub struct RustSrc {
    /// The `library` directory.
    pub library: PathBuf,
    /// Whether cargo must be told: it finds the sysroot's own by itself.
    outside_sysroot: bool,
}

impl RustSrc {
    /// Looks in the sysroot, then at `RUST_SRC_LIBRARY`, then fetches Debian's package.
    ///
    /// # Errors
    /// [`Error::Missing`] when none of the three can be had.
    pub fn find(toolchain: &Toolchain) -> Result<Self> {
        let own = toolchain.lib_dir().join("rustlib/src/rust/library");
        if is_library(&own) {
            return Ok(Self {
                library: own,
                outside_sysroot: false,
            });
        }
        let library = match env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            Some(given) => from_variable(&paths::root().join(given))?,
            None => DEBIAN
                .unpack()
                .map_err(|error| Error::Missing {
                    what: format!("the source of Rust's standard library is needed: {error}"),
                    remedy: format!(
                        "run `rustup component add rust-src --toolchain {RUST_VERSION}` or set {VARIABLE} to its library directory"
                    ),
                })?
                .join("usr/src/rustc-1.95.0/library"),
        };
        Ok(Self {
            library,
            outside_sysroot: true,
        })
    }

    /// Lets a cargo command build the standard library from here.
    pub fn apply(&self, cargo: &mut Command) {
        cargo.env("RUSTC_BOOTSTRAP", "1");
        if self.outside_sysroot {
            cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", &self.library);
        }
    }
}

fn from_variable(given: &Path) -> Result<PathBuf> {
    if given.is_dir() {
        return check(given.to_owned(), given);
    }
    let directory = paths::cache_dir()?.join("rust-src").join(RUST_VERSION);
    if !directory.is_dir() {
        let parent = directory.parent().expect("joined above");
        fs::create_dir_all(parent).file("create", parent)?;
        let work = tempfile::tempdir_in(parent).file("create a directory in", parent)?;
        process::run_quiet(
            &format!("unpacking {}", given.display()),
            Command::new("tar")
                .arg("-xf")
                .arg(given)
                .arg("-C")
                .arg(work.path()),
        )?;
        check(work.path().join("library"), given)?;
        // Renamed only when complete, so that an interrupted run leaves nothing that looks usable.
        let work = work.keep();
        fs::rename(&work, &directory).file("rename", &work)?;
    }
    check(directory.join("library"), given)
}

fn check(library: PathBuf, given: &Path) -> Result<PathBuf> {
    if is_library(&library) {
        return Ok(library);
    }
    Err(Error::Missing {
        what: format!("{VARIABLE}={} holds no standard library", given.display()),
        remedy: "it must be the `library` directory of Rust's source or a tar archive with that directory"
            .into(),
    })
}

fn is_library(path: &Path) -> bool {
    path.join("core/src/lib.rs").is_file() && path.join("Cargo.lock").is_file()
}
