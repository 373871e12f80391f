//! The Debian package of the programs that cargo built, made by cargo-deb.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo_tool::CargoTool;
use crate::error::FileContext;
use crate::{Error, Result, paths, process};

/// The tool, built in about two minutes.
const CARGO_DEB: CargoTool = CargoTool {
    name: "cargo-deb",
    version: "3.8.0",
    features: "default",
};

/// What is in the package, as cargo names it.
pub const PROGRAMS: [&str; 4] = [
    "cwasi-agent",
    "cwasi-run",
    "cwasi-installer",
    "containerd-shim-cwasi-v1",
];

/// How the package is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// For who downloads it.
    Small,
    /// For who waits for it.
    Fast,
}

/// Packs the programs of a directory, and gives the package's file in `out`.
///
/// # Errors
/// [`Error::Missing`] when a program is not there or a tool of Debian's is missing, [`Error::Failed`] when cargo-deb fails.
pub fn pack(built: &Path, out: &Path, revision: &str, compression: Compression) -> Result<PathBuf> {
    for program in PROGRAMS {
        if !built.join(program).is_file() {
            return Err(Error::Missing {
                what: format!("{} has no {program}", built.display()),
                remedy: "build them first, or leave out --built".into(),
            });
        }
    }
    // The libraries that the programs need are found in its database.
    if !Path::new("/usr/bin/dpkg-shlibdeps").exists() {
        return Err(Error::Missing {
            what: "there is no dpkg-shlibdeps".into(),
            remedy: "install the package dpkg-dev".into(),
        });
    }
    let cargo_deb = CARGO_DEB.ensure(&mut Command::new("cargo"))?;
    fs::create_dir_all(out).file("create", out)?;
    // cargo-deb looks for programs where cargo puts those of a release.
    let target = tempfile::tempdir_in(out).file("create a directory in", out)?;
    let release = target.path().join("release");
    let built = built.canonicalize().file("find", built)?;
    symlink(&built, &release).file("create", &release)?;
    let work = target.path().join("deb");
    fs::create_dir(&work).file("create", &work)?;
    process::run_quiet(
        "packing the Debian package",
        Command::new(cargo_deb)
            .current_dir(paths::root())
            .env("CARGO_TARGET_DIR", target.path())
            .args([
                "-p",
                "cwasi-agent",
                "--no-build",
                "--strip",
                "--no-dbgsym",
                "--deb-revision",
                revision,
            ])
            .args((compression == Compression::Fast).then_some("--fast"))
            .arg("--output")
            .arg(&work),
    )?;
    let mut files = fs::read_dir(&work).file("read", &work)?;
    let made = files.next().and_then(|entry| Some(entry.ok()?.path()));
    let made = made.ok_or_else(|| Error::Missing {
        what: "cargo-deb made no package".into(),
        remedy: "see what it printed".into(),
    })?;
    let package = out.join(made.file_name().expect("a file has a name"));
    fs::rename(&made, &package).file("move", &made)?;
    Ok(package)
}
