//! Debian packages of pinned versions, unpacked privately: nothing is installed on the machine.

use crate::error::FileContext;
use crate::process;
use crate::{Error, Result, digest, paths};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A binary package, pinned by version and digest.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// The package's name.
    pub name: &'static str,
    /// Its full Debian version.
    pub version: &'static str,
    /// The digest of the .deb file, lower-case hexadecimal.
    pub sha256: &'static str,
    /// The suite to look in, for example `trixie-backports`.
    pub suite: &'static str,
}

impl Package {
    /// Unpacks the package, once, and returns the directory that stands for `/`.
    ///
    /// # Errors
    /// [`Error::Missing`] where the machine has no Debian mirror in its apt sources, the mirror cannot be reached or no
    /// longer has the version, [`Error::Digest`] when it has another file by that name.
    pub fn unpack(&self) -> Result<PathBuf> {
        // A colon of a version's epoch would split search paths that name the directory.
        let version = self.version.replace(':', "_");
        let directory = paths::cache_dir()?
            .join("debian")
            .join(format!("{}-{version}", self.name));
        if directory.is_dir() {
            return Ok(directory);
        }
        let parent = directory.parent().expect("joined above");
        fs::create_dir_all(parent).file("create", parent)?;
        let work = tempfile::tempdir_in(parent).file("create a directory in", parent)?;
        let deb = self.download(work.path())?;
        let found = digest::sha256(&fs::read(&deb).file("read", &deb)?);
        if found != self.sha256 {
            return Err(Error::Digest {
                path: deb,
                found,
                expected: self.sha256,
            });
        }
        let root = work.path().join("root");
        process::run_quiet(
            &format!("unpacking {} {}", self.name, self.version),
            Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root),
        )?;
        // Renamed only when complete, so that an interrupted run leaves nothing that looks usable.
        fs::rename(&root, &directory).file("rename", &root)?;
        Ok(directory)
    }

    fn download(&self, work: &Path) -> Result<PathBuf> {
        let unavailable = || Error::Missing {
            what: format!(
                "{} {} of Debian's {} cannot be had",
                self.name, self.version, self.suite
            ),
            remedy: "check that the machine's apt sources reach a full Debian mirror".into(),
        };
        let mirror = mirror().ok_or_else(unavailable)?;
        // The pinned digest is the proof of origin, whatever keys this machine's keyring has.
        let source = work.join("sources.list");
        fs::write(
            &source,
            format!("deb [trusted=yes] {mirror} {} main\n", self.suite),
        )
        .file("write", &source)?;
        for directory in ["lists/partial", "archives/partial", "download"] {
            fs::create_dir_all(work.join(directory)).file("create", work.join(directory))?;
        }
        fs::write(work.join("status"), "").file("write", work.join("status"))?;
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            for (option, path) in [
                ("Dir::Etc::SourceList", "sources.list"),
                ("Dir::Etc::SourceParts", "no-parts"),
                ("Dir::State::Lists", "lists"),
                ("Dir::State::Status", "status"),
                ("Dir::Cache::Archives", "archives"),
            ] {
                command
                    .arg("-o")
                    .arg(format!("{option}={}", work.join(path).display()));
            }
            // The caches of binary indices would go to the system's own directory.
            command.args(["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]);
            command.args(["-q", "-o", "APT::Sandbox::User=root"]);
            command.args(arguments).current_dir(work.join("download"));
            command
        };
        process::run_quiet(
            &format!("reading the index of {}", self.suite),
            &mut apt(&["update"]),
        )?;
        process::run_quiet(
            &format!("downloading {} {}", self.name, self.version),
            &mut apt(&["download", &format!("{}={}", self.name, self.version)]),
        )
        .map_err(|_| unavailable())?;
        let mut files = fs::read_dir(work.join("download")).file("read", work.join("download"))?;
        files
            .next()
            .and_then(|entry| Some(entry.ok()?.path()))
            .ok_or_else(unavailable)
    }
}

/// The mirror that this machine itself uses for Debian's main archive, from its apt sources.
fn mirror() -> Option<String> {
    let targets = process::stdout(Command::new("apt-get").args(["--print-uris", "update"])).ok()?;
    main_archive(&targets)
}

/// Picks the archive of a plain release (`dists/bookworm`, not `-security` or `-updates`) out of apt's list of
/// `'URI' file size` lines. Only Debian's names its suites after Debian's releases.
fn main_archive(targets: &str) -> Option<String> {
    const RELEASES: [&str; 6] = ["bookworm", "trixie", "forky", "sid", "stable", "testing"];
    targets.lines().find_map(|line| {
        let uri = line.strip_prefix('\'')?.split('\'').next()?;
        let (archive, rest) = uri.split_once("/dists/")?;
        let suite = rest.split('/').next()?;
        (RELEASES.contains(&suite) && archive.ends_with("/debian")).then(|| archive.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::main_archive;

    #[test]
    fn the_main_archive_is_found_among_others() {
        let targets = "'http://a.test/vendor/dists/stable/InRelease' a_InRelease 0 \n\
                       'http://b.test/debian-security/dists/bookworm-security/InRelease' b_InRelease 0 \n\
                       'http://c.test/debian/dists/bookworm-updates/InRelease' c_InRelease 0 \n\
                       'http://c.test/debian/dists/bookworm/InRelease' d_InRelease 0 \n";
        assert_eq!(main_archive(targets).as_deref(), Some("http://c.test/debian"));
    }

    #[test]
    fn other_distributions_have_none() {
        assert_eq!(
            main_archive("'http://a.test/ubuntu/dists/noble/InRelease' x 0 \n"),
            None
        );
        assert_eq!(main_archive(""), None);
    }
}
