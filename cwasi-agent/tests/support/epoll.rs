//! Epoll instances: how a program is seen to wait for its sockets.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

/// An epoll instance.
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An instance that watches nothing.
    pub fn new() -> Self {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        assert!(fd >= 0, "epoll_create1: {}", io::Error::last_os_error());
        // SAFETY: a new descriptor that nobody else owns.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Watches a socket, until it is closed, for `EPOLL…` events.
    pub fn add(&self, socket: &impl AsRawFd, events: i32) {
        let mut event = libc::epoll_event {
            events: events.cast_unsigned(),
            u64: 0,
        };
        // SAFETY: the event outlives the call.
        let result = unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd(),
                &raw mut event,
            )
        };
        assert_eq!(result, 0, "epoll_ctl: {}", io::Error::last_os_error());
    }
}

/// Lets a socket be seen as that of a program that waits level-triggered, however the test reads it.
pub fn watch(socket: &impl AsRawFd) {
    static WATCHED: OnceLock<Epoll> = OnceLock::new();
    WATCHED.get_or_init(Epoll::new).add(socket, libc::EPOLLIN);
}
