//! Sockets of the kernel.
//!
//! Every call asks the kernel first, whatever tokio remembers of the socket, and tokio only does the waiting: a guest that never
//! waits would otherwise never see what came meanwhile.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrAny, SocketFlags, SocketType, ipproto, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{options, turn};

/// `poll(2)` that does not wait.
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// A new socket, of IPv4 or of IPv6, that is neither bound nor connected, as every guest's begins.
pub(super) fn socket(ipv4: bool) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let family = if ipv4 {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    options::prepare(&socket)?;
    Ok(socket)
}

/// Keeps an IPv6 socket from carrying IPv4, too.
pub(super) fn ipv6_only(socket: &OwnedFd) -> io::Result<()> {
    Ok(sockopt::set_ipv6_v6only(socket, true)?)
}

/// Binds a socket; one that is bound already is an error of the kernel.
pub(super) fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    // wasi:sockets says that connections in TIME_WAIT are in nobody's way.
    sockopt::set_socket_reuseaddr(socket, true)?;
    Ok(rustix::net::bind(socket, &address)?)
}

/// Binds a socket that is about to be connected.
pub(super) fn bind_for_connection(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    Ok(rustix::net::bind(socket, &address)?)
}

/// The address a socket is bound to; port 0 when it is not.
pub(super) fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    inet(rustix::net::getsockname(socket)?)
}

fn inet(address: SocketAddrAny) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(address)?)
}

/// A connection that is being made.
#[derive(Debug)]
pub(super) struct Connecting(AsyncFd<OwnedFd>);

impl Connecting {
    pub(super) fn begin(socket: OwnedFd, to: SocketAddr) -> io::Result<Self> {
        match rustix::net::connect(&socket, &to) {
            // Interrupted, it goes on all the same.
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Not before: a socket that is not connected is ready for its end, and tokio would never forget that.
        Ok(Self(waited_for(socket)?))
    }

    /// Waits for the handshake's end; then [`Connecting::finish`] tells how it ended.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_write_ready(cx).map(drop)
    }

    pub(super) fn finish(self) -> io::Result<Stream> {
        sockopt::socket_error(&self.0)??;
        Ok(Stream::new(self.0))
    }
}

/// A connected socket.
///
/// A read that is shorter than asked does not mean that nothing is left: bytes that were redirected into a socket, and those
/// that TCP delivered, wait in two queues (`tcp_bpf_recvmsg`, Linux 5.10 to 6.18). Only `EAGAIN` means it.
#[derive(Debug)]
pub(super) struct Stream {
    fd: AsyncFd<OwnedFd>,
    /// The [`turn`] at which a read came short: the next one at the same turn would most likely find nothing.
    drained_at: AtomicU64,
    /// Somebody waits for tokio to see something new.
    awaited: AtomicBool,
}

/// No turn.
const NEVER: u64 = u64::MAX;

impl Stream {
    fn new(fd: AsyncFd<OwnedFd>) -> Self {
        Self {
            fd,
            drained_at: AtomicU64::new(NEVER),
            awaited: AtomicBool::new(false),
        }
    }

    /// Reads what is there; 0 is the end. May say once that there is nothing, after a read that came short: who then
    /// waits has one system call less, and who tries again gets what there is.
    pub(super) fn recv(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        self.receive(buffer.len(), || {
            rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::empty()).map(|(_, len)| len)
        })
    }

    /// As [`Stream::recv`], into memory that has been something before.
    #[cfg(feature = "p3")]
    pub(super) fn recv_into(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer.len(), || {
            rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::empty()).map(|(_, len)| len)
        })
    }

    fn receive(&self, want: usize, call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
        let turn = turn::current();
        if self.drained_at.swap(NEVER, Ordering::Relaxed) == turn {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = noting(&self.fd, Interest::READABLE, retry(call))?;
        if (1..want).contains(&len) {
            self.drained_at.store(turn, Ordering::Relaxed);
        }
        Ok(len)
    }

    /// Writes what fits.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let sent = retry(|| rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL));
        noting(&self.fd, Interest::WRITABLE, sent)
    }

    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        poll_readable(&self.fd, &self.awaited, cx)
    }

    /// Waits until a read gives something, and holds the thread up meanwhile.
    pub(super) fn wait_readable(&self) {
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN | PollFlags::RDHUP)];
        // An error of the socket is what the next read gives; there is no other.
        let _ = retry(|| rustix::event::poll(&mut polled, None));
    }

    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        // An error is what the next write gives.
        self.fd.poll_write_ready(cx).map(drop)
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        // Fails only where there is nothing left to shut down.
        let _ = rustix::net::shutdown(&self.fd, how);
    }

    pub(super) fn remote_address(&self) -> io::Result<SocketAddr> {
        rustix::net::getpeername(&self.fd)?.map_or_else(|| Err(Errno::NOTCONN.into()), inet)
    }

    /// Has the peer told that the connection is broken off.
    pub(super) fn reset(self) {
        // Without it the peer would see an ordinary end.
        let _ = sockopt::set_socket_linger(&self.fd, Some(std::time::Duration::ZERO));
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    fd: AsyncFd<OwnedFd>,
    awaited: AtomicBool,
}

impl Listener {
    pub(super) fn begin(socket: OwnedFd, backlog: u32) -> io::Result<Self> {
        listen(&socket, backlog)?;
        Ok(Self {
            fd: waited_for(socket)?,
            awaited: AtomicBool::new(false),
        })
    }

    /// The next connection.
    pub(super) fn accept(&self) -> io::Result<Stream> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accepted = retry(|| rustix::net::accept_with(&self.fd, flags)).map_err(accept_error);
        let socket = noting(&self.fd, Interest::READABLE, accepted)?;
        Ok(Stream::new(waited_for(socket)?))
    }

    pub(super) fn poll_acceptable(&self, cx: &mut Context<'_>) -> Poll<()> {
        poll_readable(&self.fd, &self.awaited, cx)
    }

    pub(super) fn set_backlog(&self, backlog: u32) -> io::Result<()> {
        listen(self.fd.get_ref(), backlog)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn waited_for(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor until it is dropped.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

fn listen(socket: &OwnedFd, backlog: u32) -> io::Result<()> {
    Ok(rustix::net::listen(
        socket,
        i32::try_from(backlog).unwrap_or(i32::MAX),
    )?)
}

/// accept(2) on Linux gives the errors that wait on the new socket; elsewhere, and in WASI, such a connection was aborted.
fn accept_error(errno: Errno) -> Errno {
    match errno {
        Errno::CONNRESET
        | Errno::NETRESET
        | Errno::HOSTUNREACH
        | Errno::HOSTDOWN
        | Errno::NETDOWN
        | Errno::NETUNREACH
        | Errno::PROTO
        | Errno::NOPROTOOPT
        | Errno::NONET
        | Errno::OPNOTSUPP => Errno::CONNABORTED,
        other => other,
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Tells tokio when a socket has to be waited for.
fn noting<T>(fd: &AsyncFd<OwnedFd>, interest: Interest, done: rustix::io::Result<T>) -> io::Result<T> {
    if matches!(done, Err(Errno::AGAIN)) {
        not_ready(fd, interest);
    }
    Ok(done?)
}

fn not_ready(fd: &AsyncFd<OwnedFd>, interest: Interest) {
    // What tokio is told comes back.
    let _ = fd.try_io(interest, |_| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}

/// Ready when a read, or an accept, would give something.
fn poll_readable(fd: &AsyncFd<OwnedFd>, awaited: &AtomicBool, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        let Poll::Ready(ready) = fd.poll_read_ready(cx) else {
            awaited.store(true, Ordering::Relaxed);
            return Poll::Pending;
        };
        // An error is what the next read gives.
        let Ok(mut ready) = ready else {
            return Poll::Ready(());
        };
        // What tokio has seen while somebody waited is news; what it saw before may have been read since.
        if awaited.swap(false, Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let mut polled = [PollFd::new(fd, PollFlags::IN | PollFlags::RDHUP)];
        match rustix::event::poll(&mut polled, Some(&AT_ONCE)) {
            Ok(0) => ready.clear_ready(),
            _ => return Poll::Ready(()),
        }
    }
}
