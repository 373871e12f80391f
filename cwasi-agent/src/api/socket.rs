//! The socket file: one agent at a time, root's only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// another agent listens on {0}; stop it, or give this one its own --socket and --bpffs
    #[error("another agent listens on {0}; stop it, or give this one its own --socket and --bpffs")]
    Taken(PathBuf),
    /// {0} is in the way: it is no socket
    #[error("{0} is in the way: it is no socket")]
    InTheWay(PathBuf),
    /// {call} on {path} failed: {source}
    #[error("{call} on {path} failed: {source}")]
    Io {
        /// The call that failed.
        call: &'static str,
        /// What it was called on.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

/// A listening socket file. Dropping it removes the file.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Held for as long as the file is ours; it ends with the process, however that ends.
    _lock: Flock<File>,
}

impl Socket {
    /// Listens on `path`, in the place of a socket file that a dead agent left.
    ///
    /// # Errors
    /// [`SocketError::Taken`] when another agent lives; the path cannot be used.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |call, path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::Io { call, path, source }
        };
        let dir = path
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(failed("mkdir", dir))?;
        let lock = Self::lock(path)?;
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(SocketError::InTheWay(path.to_owned()));
            }
            // The lock says that no agent lives; something else may still listen.
            Ok(_) if UnixStream::connect(path).is_ok() => return Err(SocketError::Taken(path.to_owned())),
            Ok(_) => fs::remove_file(path).map_err(failed("unlink", path))?,
            Err(_) => {}
        }
        // The file must not be open to others even for a moment; no other thread makes files yet.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(failed("bind", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed("chmod", path))?;
        listener.set_nonblocking(true).map_err(failed("fcntl", path))?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            _lock: lock,
        })
    }

    /// A file beside the socket, because the socket file itself is replaced.
    fn lock(path: &Path) -> Result<Flock<File>, SocketError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let name = PathBuf::from(name);
        let failed = |call| {
            let path = name.clone();
            move |source| SocketError::Io { call, path, source }
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&name);
        match Flock::lock(file.map_err(failed("open"))?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(lock),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(SocketError::Taken(path.to_owned())),
            Err((_, errno)) => Err(failed("flock")(errno.into())),
        }
    }

    /// The listener, for the server.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated.
    pub fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.listener.try_clone()?)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Socket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::Taken(_)), "{error}");
        drop(socket);
        assert!(!path.exists());
        Socket::bind(&path).unwrap();
    }

    #[test]
    fn what_a_dead_agent_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Socket::bind(&path).unwrap();
    }

    #[test]
    fn strangers_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::Taken(_))));
        drop(listener);
        let file = dir.path().join("file");
        fs::write(&file, "mine").unwrap();
        assert!(matches!(Socket::bind(&file), Err(SocketError::InTheWay(_))));
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
        assert!(matches!(
            Socket::bind(&file.join("x/agent.sock")),
            Err(SocketError::Io { .. })
        ));
    }
}
