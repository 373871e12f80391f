//! The network namespace in which a function's sockets are opened.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};

use crate::protocol::MAX_ADDRESSES;

/// Directory of the network namespaces that `ip netns add` names.
pub const NAMED: &str = "/run/netns";

const NSFS_MAGIC: FsType = FsType(libc::NSFS_MAGIC);

/// What is wrong with a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// there is no network namespace {name}: {source}; `ip netns list` shows those that have names
    #[error("there is no network namespace {name}: {source}; `ip netns list` shows those that have names")]
    Missing {
        /// Name or path asked for.
        name: String,
        /// Why it cannot be opened.
        source: io::Error,
    },
    /// {0} is not a namespace file
    #[error("{0} is not a namespace file")]
    NotNamespace(PathBuf),
    /// cannot enter the network namespace {path}: setns failed: {errno}
    #[error("cannot enter the network namespace {path}: setns failed: {errno}")]
    Enter {
        /// Namespace file.
        path: PathBuf,
        /// Error of `setns`; EINVAL for a namespace of another kind.
        errno: Errno,
    },
    /// {call} failed: {source}
    #[error("{call} failed: {source}")]
    System {
        /// The call that failed.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// The namespace file of a name that `ip netns` knows, or of a path such as `/proc/PID/ns/net`.
///
/// # Errors
/// There is none, or it is no namespace file.
pub fn resolve(name: &str) -> Result<PathBuf, NetnsError> {
    let path = if name.contains('/') {
        PathBuf::from(name)
    } else {
        Path::new(NAMED).join(name)
    };
    open(&path).map_err(|error| match error {
        NetnsError::Missing { source, .. } => NetnsError::Missing {
            name: name.to_owned(),
            source,
        },
        other => other,
    })?;
    Ok(path)
}

/// Opens a namespace file.
///
/// # Errors
/// It does not exist, or is no namespace file: entering it could then fail in ways that are harder to explain.
pub fn open(path: &Path) -> Result<File, NetnsError> {
    let missing = |source| NetnsError::Missing {
        name: path.display().to_string(),
        source,
    };
    // A FIFO or a device would block or act at the open.
    if !fs::metadata(path).map_err(missing)?.is_file() {
        return Err(NetnsError::NotNamespace(path.to_owned()));
    }
    let file = File::open(path).map_err(missing)?;
    match fstatfs(&file) {
        Ok(stat) if stat.filesystem_type() == NSFS_MAGIC => Ok(file),
        Ok(_) => Err(NetnsError::NotNamespace(path.to_owned())),
        Err(errno) => Err(NetnsError::System {
            call: "fstatfs",
            source: errno.into(),
        }),
    }
}

/// Moves the calling thread, and no other, into a network namespace. Needs CAP_SYS_ADMIN, unless it is there already.
///
/// # Errors
/// See [`open`]; the kernel refuses without the capability or for a namespace of another kind.
pub fn enter(path: &Path) -> Result<(), NetnsError> {
    let file = open(path)?;
    if is_current(&file).unwrap_or(false) {
        return Ok(());
    }
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Enter {
        path: path.to_owned(),
        errno,
    })
}

/// Whether the calling thread is in the namespace of the file.
fn is_current(file: &File) -> io::Result<bool> {
    let (there, here) = (file.metadata()?, fs::metadata("/proc/thread-self/ns/net")?);
    Ok((there.dev(), there.ino()) == (here.dev(), here.ino()))
}

/// Runs `task` on a new thread inside the network namespace; the calling thread stays where it is.
///
/// # Errors
/// See [`enter`]; `task` then does not run.
pub fn run<T: Send>(path: &Path, task: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || enter(path).map(|()| task()))
            .map_err(|source| NetnsError::System {
                call: "clone",
                source,
            })?;
        thread
            .join()
            .unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

/// The addresses of the current network namespace's interfaces, loopback addresses left out, sorted.
///
/// # Errors
/// The kernel's list cannot be read.
pub fn addresses() -> Result<Vec<IpAddr>, NetnsError> {
    let interfaces = getifaddrs().map_err(|errno| NetnsError::System {
        call: "getifaddrs",
        source: errno.into(),
    })?;
    let mut addresses: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| !address.is_loopback())
        .collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// As many of [`addresses`] as a function may have ([`MAX_ADDRESSES`]), IPv4 first: whoever may configure a namespace can give it
/// any number.
///
/// # Errors
/// The kernel's list cannot be read.
pub fn function_addresses() -> Result<Vec<IpAddr>, NetnsError> {
    let mut addresses = addresses()?;
    addresses.truncate(MAX_ADDRESSES);
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use nix::sched::unshare;

    use super::*;

    #[test]
    fn only_namespace_files_are_taken() {
        assert!(
            matches!(resolve("no-such-netns"), Err(NetnsError::Missing { name, .. }) if name == "no-such-netns")
        );
        assert!(matches!(
            resolve("/proc/self/status"),
            Err(NetnsError::NotNamespace(_))
        ));
        assert!(matches!(resolve("/proc"), Err(NetnsError::NotNamespace(_))));
        assert!(matches!(resolve("/dev/null"), Err(NetnsError::NotNamespace(_))));
        assert_eq!(
            resolve("/proc/self/ns/net").unwrap(),
            Path::new("/proc/self/ns/net")
        );
    }

    #[test]
    fn a_new_namespace_has_no_addresses() {
        let seen = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok::<_, Errno>(addresses().unwrap())
        });
        match seen.join().unwrap() {
            Ok(seen) => assert_eq!(seen, Vec::<IpAddr>::new()),
            Err(errno) => eprintln!("skipped: unshare(CLONE_NEWNET): {errno}"),
        }
    }

    #[test]
    fn a_function_has_no_more_addresses_than_it_may() {
        let seen = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let batch: String = (0..200)
                .map(|n| format!("addr add 10.9.{n}.1/32 dev lo\n"))
                .collect();
            let ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .spawn();
            let Ok(mut ip) = ip else { return Ok(None) };
            ip.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
            assert!(ip.wait().unwrap().success());
            Ok::<_, Errno>(Some((addresses().unwrap(), function_addresses().unwrap())))
        });
        match seen.join().unwrap() {
            Ok(Some((all, some))) => {
                assert_eq!((all.len(), some.len()), (200, MAX_ADDRESSES));
                assert_eq!(all[..MAX_ADDRESSES], some);
            }
            Ok(None) => eprintln!("skipped: no program `ip`: install the package iproute2"),
            Err(errno) => eprintln!("skipped: unshare(CLONE_NEWNET): {errno}"),
        }
    }

    #[test]
    fn run_is_inside_and_the_caller_is_not() {
        let link = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let (opened, is_open) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let other = thread::spawn(move || {
            let path = fs::canonicalize("/proc/thread-self").map(|thread| thread.join("ns/net"));
            opened
                .send(unshare(CloneFlags::CLONE_NEWNET).map(|()| (path.unwrap(), link())))
                .unwrap();
            // The namespace lives as long as this thread.
            let _ = ended.recv();
        });
        match is_open.recv().unwrap() {
            Ok((path, inside)) => {
                let here = link();
                assert_ne!(here, inside);
                assert_eq!(run(&path, link).unwrap(), inside);
                assert_eq!(link(), here);
            }
            Err(errno) => eprintln!("skipped: unshare(CLONE_NEWNET): {errno}"),
        }
        drop(end);
        other.join().unwrap();
    }

    #[test]
    fn run_leaves_the_caller_where_it_is() {
        let link = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let (here, file) = (
            link(),
            fs::canonicalize("/proc")
                .unwrap()
                .join(format!("{}/ns/net", std::process::id())),
        );
        assert_eq!(run(&file, link).unwrap(), here);
        assert!(matches!(
            enter(Path::new("/proc/self/ns/uts")),
            Err(NetnsError::Enter { .. })
        ));
        assert_eq!(link(), here);
    }
}
