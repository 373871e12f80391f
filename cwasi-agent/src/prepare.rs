//! `prepare`: the directories of an agent that is not root, which only root can make and give away.
//!
//! It runs as root before each start of such an agent: what an agent or a launcher of root left there is given to the user too.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cwasi_client::announce::Announcements;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{fchown, fchownat};

use crate::kernel::{PlaneError, make_bpffs};

/// Whom the directories are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl FromStr for User {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse().map_err(|_| "UID or UID:GID is needed, in numbers");
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        Ok(Self {
            uid: number(uid)?,
            gid: number(gid)?,
        })
    }
}

/// Why the directories cannot be made or given away.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The pins have no place.
    #[error("{0}; {remedy}", remedy = .0.remedy())]
    Plane(#[from] PlaneError),
    /// {call} on {path} failed: {source}; this needs root, with CAP_CHOWN and CAP_DAC_OVERRIDE
    #[error("{call} on {path} failed: {source}; this needs root, with CAP_CHOWN and CAP_DAC_OVERRIDE")]
    Io {
        /// The call that failed.
        call: &'static str,
        /// What it was called on.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(call: &'static str, path: &Path) -> impl FnOnce(E) -> PrepareError {
    move |source| PrepareError::Io {
        call,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// Makes the directories of the socket, the announcements, the state and the pins where they are missing, and gives them, with all
/// that is in them, to the user. bpffs is mounted where it is not.
///
/// # Errors
/// This process is not root, or lacks a right that the message names.
pub fn prepare(socket: &Path, state: &Path, bpffs: &Path, user: User) -> Result<(), PrepareError> {
    let run = socket.parent().filter(|dir| !dir.as_os_str().is_empty());
    let run = run.unwrap_or(Path::new("."));
    let announced = Announcements::beside(socket);
    for (dir, mode) in [(run, 0o755), (announced.dir(), 0o700), (state, 0o700)] {
        let made = DirBuilder::new().recursive(true).mode(mode).create(dir);
        made.map_err(failed("mkdir", dir))?;
    }
    make_bpffs(bpffs)?;
    // The socket's own directory may hold more than what is the agent's, such as /tmp.
    let lock = socket.with_added_extension("lock");
    for file in [socket, &lock] {
        match fchownat(
            nix::fcntl::AT_FDCWD,
            file,
            Some(user.uid.into()),
            Some(user.gid.into()),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        ) {
            Err(errno) if errno != Errno::ENOENT => return Err(failed("fchownat", file)(errno)),
            _ => {}
        }
    }
    for dir in [announced.dir(), state, bpffs] {
        let file = open(None, dir).map_err(failed("open", dir))?;
        give(&file, dir, user)?;
    }
    give_itself(run, user)
}

/// Gives the socket's directory away, unless everybody may write it: the agent then needs no more.
fn give_itself(run: &Path, user: User) -> Result<(), PrepareError> {
    let dir = open(None, run).map_err(failed("open", run))?;
    let mode = dir.metadata().map_err(failed("fstat", run))?.mode();
    if mode & 0o002 != 0 {
        return Ok(());
    }
    fchown(&dir, Some(user.uid.into()), Some(user.gid.into())).map_err(failed("fchown", run))
}

/// A directory, never one that a link leads to: whom they belong to must not choose what root gives away.
fn open(at: Option<&File>, name: &Path) -> nix::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = match at {
        Some(dir) => openat(dir, name, flags, Mode::empty()),
        None => nix::fcntl::open(name, flags, Mode::empty()),
    };
    fd.map(File::from)
}

/// Gives away a directory and everything below it.
fn give(dir: &File, path: &Path, user: User) -> Result<(), PrepareError> {
    let (uid, gid) = (Some(user.uid.into()), Some(user.gid.into()));
    fchown(dir, uid, gid).map_err(failed("fchown", path))?;
    // By the descriptor: the path may lead elsewhere by now.
    let entries = fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    for entry in entries.map_err(failed("readdir", path))? {
        let name = PathBuf::from(entry.map_err(failed("readdir", path))?.file_name());
        let below = path.join(&name);
        match open(Some(dir), &name) {
            Ok(inner) => give(&inner, &below, user)?,
            // A file, a pin, a socket, or a link, which is given away itself.
            Err(Errno::ENOTDIR | Errno::ELOOP | Errno::ENXIO) => {
                fchownat(dir.as_fd(), &name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
                    .map_err(failed("fchownat", &below))?;
            }
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed("openat", &below)(errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn users_are_numbers() {
        assert_eq!(
            "65532".parse(),
            Ok(User {
                uid: 65532,
                gid: 65532
            })
        );
        assert_eq!("1:2".parse(), Ok(User { uid: 1, gid: 2 }));
        for bad in ["", "cwasi", "1:", ":1", "-1", "1:2:3"] {
            assert!(bad.parse::<User>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_there_is_given_away_and_what_links_lead_to_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        for path in [inside.join("a/b"), outside.clone()] {
            fs::create_dir_all(path).unwrap();
        }
        for path in [inside.join("a/file"), outside.join("file")] {
            fs::write(path, "").unwrap();
        }
        symlink(&outside, inside.join("dir-link")).unwrap();
        symlink(outside.join("file"), inside.join("file-link")).unwrap();
        let user = User {
            uid: 65532,
            gid: 65533,
        };
        match give(&open(None, &inside).unwrap(), &inside, user) {
            Err(error) if !nix::unistd::geteuid().is_root() => return eprintln!("skipped: {error}"),
            given => given.unwrap(),
        }
        let owner = |path: &Path| {
            let meta = fs::symlink_metadata(path).unwrap();
            (meta.uid(), meta.gid())
        };
        for name in ["", "a", "a/b", "a/file", "dir-link", "file-link"] {
            assert_eq!(owner(&inside.join(name)), (65532, 65533), "{name}");
        }
        assert_eq!(owner(&outside), (0, 0));
        assert_eq!(owner(&outside.join("file")), (0, 0));
        assert!(matches!(
            open(None, &inside.join("dir-link")),
            Err(Errno::ENOTDIR | Errno::ELOOP)
        ));
    }
}
