//! The node's files and programs, seen through the directory where its root is mounted.

use std::ffi::CString;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::error::IoContext;

/// Ends the names of files that are not complete yet; containerd's patterns (`*.toml`) do not match it.
const UNFINISHED: &str = ".cwasi-new";

/// Most symbolic links on the way to one file, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Where the commands of the node are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Called with a description before each change of the node's files.
pub type BeforeChange = Box<dyn Fn(&str)>;

/// The node's file system. Paths are the node's own.
pub struct Host {
    root: PathBuf,
    before: BeforeChange,
}

impl fmt::Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Host").field(&self.root).finish()
    }
}

/// A file's bytes, and who may do what with it.
#[derive(Debug)]
pub struct Found {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Owner and mode.
    pub metadata: Metadata,
}

/// What a written file's mode and owner are.
#[derive(Clone, Copy, Debug)]
pub enum Attributes<'a> {
    /// Those of the file that it replaces.
    Of(&'a Metadata),
    /// The caller's user and group, and this mode.
    Mode(u32),
}

impl Host {
    /// The node whose root is mounted at `root`; `before` sees every change coming.
    #[must_use]
    pub fn new(root: &Path, before: BeforeChange) -> Self {
        Self {
            root: root.to_owned(),
            before,
        }
    }

    /// Where a file of the node is for this process: symbolic links lead where they do on the node, not out of its root.
    ///
    /// # Errors
    /// A link cannot be read, or there are too many.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let mut todo: Vec<PathBuf> = parts(path);
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == Path::new("..") {
                done.pop();
                continue;
            }
            let next = done.join(part);
            match fs::read_link(self.root.join(&next)) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(io::Error::from(Errno::ELOOP)).on("follow the links of", path.display());
                    }
                    if target.is_absolute() {
                        done = PathBuf::new();
                    }
                    todo.extend(parts(&target));
                }
                // EINVAL: no link.
                Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => done = next,
                Err(error) if is_absent(&error) => done = next,
                Err(error) => return Err(error).on("follow the links of", path.display()),
            }
        }
        Ok(self.root.join(done))
    }

    /// The content of a file, `None` when there is none.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(&self, path: &Path) -> Result<Option<Found>> {
        let read = |real: &Path| -> io::Result<Found> {
            let mut file = File::open(real)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(Found {
                bytes,
                metadata: file.metadata()?,
            })
        };
        absent_is_none(read(&self.resolve(path)?)).on("read", path.display())
    }

    /// Whether there is a file or directory of that name.
    #[must_use]
    pub fn exists(&self, path: &Path) -> bool {
        self.resolve(path).is_ok_and(|real| real.exists())
    }

    /// Makes or replaces a file at once: who looks sees all of the old one or all of the new one, also after a crash of the node.
    ///
    /// # Errors
    /// The call that failed; the old file is then untouched.
    pub fn write(&self, path: &Path, bytes: &[u8], attributes: Attributes<'_>) -> Result<()> {
        let real = self.resolve(path)?;
        let name = real.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = real.with_file_name(format!(".{name}{UNFINISHED}"));
        (self.before)(&format!("prepare {}", path.display()));
        let prepare = || -> io::Result<()> {
            absent_is_none(fs::remove_file(&unfinished))?;
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(bytes)?;
            let mode = match attributes {
                Attributes::Of(metadata) => {
                    fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
                    metadata.mode()
                }
                Attributes::Mode(mode) => mode,
            };
            file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
            file.sync_all()
        };
        prepare().on("write", unfinished.display())?;
        (self.before)(&format!("write {}", path.display()));
        fs::rename(&unfinished, &real).on("replace", path.display())?;
        sync_directory(&real)
    }

    /// Removes a file; it may be gone already.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let real = self.resolve(path)?;
        if real.symlink_metadata().is_err() {
            return Ok(());
        }
        (self.before)(&format!("remove {}", path.display()));
        absent_is_none(fs::remove_file(&real)).on("remove", path.display())?;
        sync_directory(&real)
    }

    /// Removes a directory with everything in it; it may be gone already.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_tree(&self, path: &Path) -> Result<()> {
        let real = self.resolve(path)?;
        if real.symlink_metadata().is_err() {
            return Ok(());
        }
        (self.before)(&format!("remove all of {}", path.display()));
        absent_is_none(fs::remove_dir_all(real)).on("remove", path.display())?;
        Ok(())
    }

    /// Those of a directory and its parents that are not there, outermost first.
    #[must_use]
    pub fn missing_directories(&self, path: &Path) -> Vec<PathBuf> {
        let missing = path.ancestors().take_while(|directory| !self.exists(directory));
        let mut missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        missing.reverse();
        missing
    }

    /// Makes a directory, whose parent is there; it may be there already.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_directory(&self, path: &Path) -> Result<()> {
        let real = self.resolve(path)?;
        if real.is_dir() {
            return Ok(());
        }
        (self.before)(&format!("make {}", path.display()));
        fs::create_dir(&real)
            .and_then(|()| fs::set_permissions(&real, Permissions::from_mode(0o755)))
            .on("make the directory", path.display())
    }

    /// Removes a directory if it is empty, and says whether it is gone.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn remove_empty(&self, path: &Path) -> Result<bool> {
        let real = self.resolve(path)?;
        if !real.is_dir() {
            return Ok(true);
        }
        (self.before)(&format!("remove {}", path.display()));
        match fs::remove_dir(&real) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(error) => Err(error).on("remove the directory", path.display()),
        }
    }

    /// Names in a directory; none when it is not there.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn names(&self, directory: &Path) -> Result<Vec<String>> {
        let entries =
            absent_is_none(fs::read_dir(self.resolve(directory)?)).on("read", directory.display())?;
        let entries = entries.into_iter().flatten();
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        names.collect::<io::Result<_>>().on("read", directory.display())
    }

    /// Removes what a killed run left half written in a directory.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn sweep(&self, directory: &Path) -> Result<()> {
        for name in self.names(directory)? {
            if name.starts_with('.') && name.ends_with(UNFINISHED) {
                self.remove(&directory.join(name))?;
            }
        }
        Ok(())
    }

    /// Waits until no other process holds this directory's lock, and takes it until the value is dropped. Nothing is written.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn lock(&self, directory: &Path) -> Result<Flock<File>> {
        let file = File::open(self.resolve(directory)?).on("open", directory.display())?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(lock),
            Err((file, _)) => {
                tracing::info!("another run is at work; waiting for its end");
                Flock::lock(file, FlockArg::LockExclusive)
                    .map_err(|(_, errno)| errno)
                    .on("lock", directory.display())
            }
        }
    }

    /// A command of the node, run with the node's root as its own. Needs CAP_SYS_CHROOT where that is not this process's root.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", PATH)
            // systemctl(1) does nothing in what it takes for a chroot without a manager.
            .env("SYSTEMD_IGNORE_CHROOT", "1");
        if self.root != Path::new("/") {
            let root = CString::new(self.root.as_os_str().as_bytes());
            // SAFETY: between fork and exec there are two system calls on memory that was made before, and no allocation.
            unsafe {
                command.pre_exec(move || {
                    let root = root.as_deref().map_err(|_| Errno::EINVAL)?;
                    nix::unistd::chroot(root)?;
                    nix::unistd::chdir(c"/")?;
                    Ok(())
                });
            }
        }
        command
    }
}

/// The names on a path, last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let parts = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    parts.collect()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if is_absent(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// Makes a rename or removal last through a crash of the node.
fn sync_directory(file: &Path) -> Result<()> {
    let parent = file.parent().unwrap_or(file);
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .on("sync", parent.display())
}

/// A digest in lower-case hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("a string takes every write");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn host(root: &Path) -> Host {
        Host::new(root, Box::new(|_| ()))
    }

    #[test]
    fn links_stay_inside_of_the_nodes_root() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("var/opt")).unwrap();
        fs::create_dir(at("etc")).unwrap();
        symlink("/var/opt", at("opt")).unwrap();
        symlink("../../../../etc", at("var/up")).unwrap();
        let resolve = |path: &str| host(root.path()).resolve(Path::new(path)).unwrap();
        assert_eq!(resolve("/opt/cwasi/bin"), at("var/opt/cwasi/bin"));
        assert_eq!(resolve("/var/up/x"), at("etc/x"));
        assert_eq!(resolve("/../../a"), at("a"));
        symlink("loop", at("loop")).unwrap();
        let error = host(root.path()).resolve(Path::new("/loop")).unwrap_err();
        assert!(error.to_string().contains("ymbolic"), "{error}");
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_leaves_no_other() {
        let root = tempfile::tempdir().unwrap();
        let (host, path) = (host(root.path()), Path::new("/f"));
        host.write(path, b"one", Attributes::Mode(0o640)).unwrap();
        let found = host.read(path).unwrap().unwrap();
        host.write(path, b"two", Attributes::Of(&found.metadata)).unwrap();
        let found = host.read(path).unwrap().unwrap();
        assert_eq!(
            (found.bytes.as_slice(), found.metadata.mode() & 0o7777),
            (&b"two"[..], 0o640)
        );
        assert_eq!(host.names(Path::new("/")).unwrap(), ["f"]);
    }

    #[test]
    fn what_was_half_written_is_swept_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        for name in [".a.cwasi-new", "b.cwasi-new", ".c"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let host = host(root.path());
        host.sweep(Path::new("/")).unwrap();
        host.sweep(Path::new("/absent")).unwrap();
        let mut left = host.names(Path::new("/")).unwrap();
        left.sort();
        assert_eq!(left, [".c", "b.cwasi-new"]);
    }

    #[test]
    fn one_holds_the_lock_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let host = host(root.path());
        let held = host.lock(Path::new("/")).unwrap();
        let other = File::open(root.path()).unwrap();
        assert!(Flock::lock(other, FlockArg::LockExclusiveNonblock).is_err());
        drop(held);
        drop(host.lock(Path::new("/")).unwrap());
    }

    #[test]
    fn missing_directories_come_outermost_first() {
        let root = tempfile::tempdir().unwrap();
        let host = host(root.path());
        let missing = host.missing_directories(Path::new("/a/b"));
        assert_eq!(missing, [Path::new("/a"), Path::new("/a/b")]);
        for directory in &missing {
            host.make_directory(directory).unwrap();
        }
        assert!(!host.remove_empty(Path::new("/a")).unwrap());
        assert!(host.remove_empty(Path::new("/a/b")).unwrap());
        assert!(host.remove_empty(Path::new("/a")).unwrap());
    }
}
