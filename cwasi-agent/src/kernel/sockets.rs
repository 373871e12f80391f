//! Sockets made in another cgroup and network namespace, for use here.
//!
//! A socket belongs for good to the cgroup and the network namespace of the process that made it. A child that shares this
//! process's descriptors, and does nothing but make sockets, lets one process hold the sockets of many functions.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Makes sockets in a cgroup and a network namespace, until it is dropped or the thread that started it ends.
#[derive(Debug)]
pub struct SocketFactory {
    orders: UnixStream,
    child: Pid,
}

impl SocketFactory {
    /// Starts the child in the cgroup v2 directory and the network namespace file given; `None` means the caller's own.
    ///
    /// # Errors
    /// The child cannot be started, or cannot enter them.
    pub fn start(cgroup: Option<&Path>, netns: Option<&Path>) -> io::Result<Self> {
        let procs = cgroup.map(|dir| dir.join("cgroup.procs"));
        let procs = procs
            .map(|path| named(File::options().write(true).open(&path), &path))
            .transpose()?;
        let netns = netns.map(|path| named(File::open(path), path)).transpose()?;
        let raw = |file: &Option<File>| file.as_ref().map(AsRawFd::as_raw_fd);
        let (orders, theirs) = UnixStream::pair()?;
        // SAFETY: the child is a copy of this process, as after fork, that runs only `child`: it allocates nothing, takes no
        // lock and never returns. CLONE_FILES makes the sockets that it opens ours.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) };
        match i32::try_from(pid).map_err(io::Error::other)? {
            0 => child(theirs.as_raw_fd(), raw(&procs), raw(&netns)),
            pid if pid > 0 => {
                // The descriptors are shared: `theirs` is the child's for as long as it runs, and is closed in `drop`.
                let mut factory = Self {
                    orders,
                    child: Pid::from_raw(pid),
                };
                let ready = factory.answer();
                std::mem::forget(theirs);
                ready.map(|_| factory)
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes a socket (`AF_INET`, `AF_INET6`, … and `SOCK_STREAM`, …), close-on-exec.
    ///
    /// # Errors
    /// The errno of socket(2), or the child is gone.
    pub fn socket(&mut self, domain: i32, kind: i32) -> io::Result<OwnedFd> {
        self.orders
            .write_all(&[domain.to_ne_bytes(), kind.to_ne_bytes()].concat())?;
        let fd = self.answer()?;
        // SAFETY: the child has just made this descriptor in the table that we share, and keeps no copy.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// What the child answers: a descriptor, or a negated errno.
    fn answer(&mut self) -> io::Result<i32> {
        let mut answer = [0; 4];
        self.orders.read_exact(&mut answer)?;
        match i32::from_ne_bytes(answer) {
            errno if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
            fd => Ok(fd),
        }
    }
}

impl Drop for SocketFactory {
    fn drop(&mut self) {
        // The child sees the end of orders, closes its end of the pair and exits.
        let _ = self.orders.shutdown(std::net::Shutdown::Both);
        let _ = waitpid(self.child, None);
    }
}

fn named<T>(result: io::Result<T>, path: &Path) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("open {}: {error}", path.display())))
}

/// The child. In a copy of a process with threads only async-signal-safe calls are allowed: no allocation, no locks.
fn child(orders: RawFd, procs: Option<RawFd>, netns: Option<RawFd>) -> ! {
    // SAFETY: system calls on integers and on memory of this stack.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        let entered = procs.is_none_or(|fd| libc::write(fd, c"0".as_ptr().cast(), 1) == 1)
            && netns.is_none_or(|fd| libc::setns(fd, libc::CLONE_NEWNET) == 0);
        let mut answer = if entered {
            0
        } else {
            -nix::errno::Errno::last_raw()
        };
        let mut order = [0_i32; 2];
        let whole = size_of_val(&order);
        while libc::write(orders, (&raw const answer).cast(), size_of_val(&answer)) > 0 && entered {
            if libc::recv(orders, order.as_mut_ptr().cast(), whole, libc::MSG_WAITALL) != whole.cast_signed()
            {
                break;
            }
            let made = libc::socket(order[0], order[1] | libc::SOCK_CLOEXEC, 0);
            answer = if made < 0 {
                -nix::errno::Errno::last_raw()
            } else {
                made
            };
        }
        libc::close(orders);
        libc::_exit(0)
    }
}
