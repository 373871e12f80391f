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
        unpack(&deb, &root)?;
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
        let source = format!("deb [trusted=yes] {mirror} {} main\n", self.suite);
        let apt = PrivateApt::new(work, &source)?;
        process::run_quiet(
            &format!("reading the index of {}", self.suite),
            &mut apt.get(&["update"]),
        )?;
        apt.download(&format!("{}={}", self.name, self.version))
            .map_err(|_| unavailable())
    }
}

/// apt with sources, indices and downloads of its own, in a directory.
#[derive(Debug)]
pub struct PrivateApt {
    directory: PathBuf,
}

impl PrivateApt {
    /// Sets the directory up for the lines of a sources.list(5). Indices that are there are used, and kept.
    ///
    /// # Errors
    /// [`Error::File`] when the directory cannot be written to.
    pub fn new(directory: &Path, sources: &str) -> Result<Self> {
        for needed in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(directory.join(needed)).file("create", directory.join(needed))?;
        }
        for (name, content) in [("sources.list", sources), ("status", "")] {
            fs::write(directory.join(name), content).file("write", directory.join(name))?;
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// An `apt-get` command.
    #[must_use]
    pub fn get(&self, arguments: &[&str]) -> Command {
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
                .arg(format!("{option}={}", self.directory.join(path).display()));
        }
        // The caches of binary indices would go to the system's own directory.
        command.args(["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]);
        // Descriptions and screenshots are of no use here, and as large as the rest.
        command.args([
            "-o",
            "Acquire::Languages=none",
            "-o",
            "Acquire::GzipIndexes=false",
        ]);
        command.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        command.args(["-q", "-o", "APT::Sandbox::User=root"]);
        command.args(arguments).current_dir(&self.directory);
        command
    }

    /// Downloads a package, `name=version`, and gives its file.
    ///
    /// # Errors
    /// [`Error::Failed`] when the mirror does not have it, [`Error::File`] when there is no room for it.
    pub fn download(&self, package: &str) -> Result<PathBuf> {
        let to = self
            .directory
            .join("download")
            .join(package.replace(['=', ':'], "_"));
        fs::create_dir_all(&to).file("create", &to)?;
        process::run_quiet(
            &format!("downloading {package}"),
            self.get(&["download", package]).current_dir(&to),
        )?;
        let mut files = fs::read_dir(&to).file("read", &to)?;
        files
            .find_map(|entry| {
                Some(entry.ok()?.path()).filter(|path| path.extension() == Some("deb".as_ref()))
            })
            .ok_or_else(|| Error::Output {
                program: "apt-get download".to_owned(),
                detail: format!("no package in {}", to.display()),
            })
    }

    /// The files of the package indices that were read.
    ///
    /// # Errors
    /// [`Error::File`] when they cannot be listed.
    pub fn package_indices(&self) -> Result<Vec<PathBuf>> {
        let lists = self.directory.join("lists");
        let entries = fs::read_dir(&lists).file("read", &lists)?;
        Ok(entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.to_string_lossy().ends_with("_Packages"))
            .collect())
    }
}

/// Unpacks a package's files into a directory, which stands for `/`.
///
/// # Errors
/// [`Error::Failed`] when the file is no package.
pub fn unpack(package: &Path, to: &Path) -> Result<()> {
    let name = package.file_name().unwrap_or_default().to_string_lossy();
    process::run_quiet(
        &format!("unpacking {name}"),
        Command::new("dpkg-deb").arg("-x").arg(package).arg(to),
    )
    .map(drop)
}

/// The mirror that this machine itself uses for Debian's main archive, from its apt sources.
#[must_use]
pub fn mirror() -> Option<String> {
    main_archive(&targets()?)
}

/// The mirror that this machine itself uses for Debian's security updates.
#[must_use]
pub fn security_mirror() -> Option<String> {
    security_archive(&targets()?)
}

fn targets() -> Option<String> {
    process::stdout(Command::new("apt-get").args(["--print-uris", "update"])).ok()
}

fn security_archive(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let uri = line.strip_prefix('\'')?.split('\'').next()?;
        let (archive, _) = uri.split_once("/dists/")?;
        archive.ends_with("/debian-security").then(|| archive.to_owned())
    })
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
    use super::{main_archive, security_archive};

    #[test]
    fn the_main_archive_is_found_among_others() {
        let targets = "'http://a.test/vendor/dists/stable/InRelease' a_InRelease 0 \n\
                       'http://b.test/debian-security/dists/bookworm-security/InRelease' b_InRelease 0 \n\
                       'http://c.test/debian/dists/bookworm-updates/InRelease' c_InRelease 0 \n\
                       'http://c.test/debian/dists/bookworm/InRelease' d_InRelease 0 \n";
        assert_eq!(main_archive(targets).as_deref(), Some("http://c.test/debian"));
        assert_eq!(
            security_archive(targets).as_deref(),
            Some("http://b.test/debian-security")
        );
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
