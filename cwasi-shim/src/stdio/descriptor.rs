//! An open file that is read and written without a wait, whatever its flags.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Most bytes written at once to a file that can only be asked beforehand whether it takes some: pipes then take these
/// without a wait, and terminals nearly always.
const MAX_ASKED: usize = 512;

/// An open file, and the event loop's view of it.
#[derive(Debug)]
pub(super) struct Descriptor {
    file: Arc<OwnedFd>,
    /// Regular files and disks are read and written at once, as every file of a guest is.
    never_waits: bool,
    /// Made at the first wait, when there is an event loop.
    events: OnceLock<AsyncFd<Arc<OwnedFd>>>,
}

impl Descriptor {
    pub(super) fn new(file: OwnedFd) -> io::Result<Self> {
        let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT;
        Ok(Self {
            file: Arc::new(file),
            never_waits: kind == SFlag::S_IFREG || kind == SFlag::S_IFBLK,
            events: OnceLock::new(),
        })
    }

    /// Reads without waiting. 0 is the end; where a read would wait, [`io::ErrorKind::WouldBlock`].
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.never_waits {
            return Ok(unistd::read(&self.file, buffer)?);
        }
        let parts = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: the one part is the buffer, which is ours to write for the time of the call.
        let read = unsafe { libc::preadv2(self.file.as_raw_fd(), &raw const parts, 1, -1, libc::RWF_NOWAIT) };
        match Errno::result(read) {
            // Terminals, and pipes before Linux 6.4; filters of system calls that do not know this one.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                self.ask(PollFlags::POLLIN)?;
                Ok(unistd::read(&self.file, buffer)?)
            }
            read => Ok(read?.unsigned_abs()),
        }
    }

    /// Writes what the file takes without waiting; where that is nothing, [`io::ErrorKind::WouldBlock`].
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.never_waits {
            return Ok(unistd::write(&self.file, bytes)?);
        }
        let parts = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: the one part is the slice, which the call only reads.
        let wrote =
            unsafe { libc::pwritev2(self.file.as_raw_fd(), &raw const parts, 1, -1, libc::RWF_NOWAIT) };
        match Errno::result(wrote) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                self.ask(PollFlags::POLLOUT)?;
                Ok(unistd::write(&self.file, &bytes[..bytes.len().min(MAX_ASKED)])?)
            }
            wrote => Ok(wrote?.unsigned_abs()),
        }
    }

    /// Whether the file is ready, or has failed; else [`io::ErrorKind::WouldBlock`].
    pub(super) fn ask(&self, events: PollFlags) -> io::Result<()> {
        let mut polled = [PollFd::new(self.file.as_fd(), events)];
        match poll(&mut polled, PollTimeout::ZERO)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.file.is_terminal()
    }

    fn events(&self) -> io::Result<&AsyncFd<Arc<OwnedFd>>> {
        if let Some(events) = self.events.get() {
            return Ok(events);
        }
        // SAFETY: the descriptor stays open and the same as long as it is registered: what is registered owns it.
        let events = unsafe { AsyncFd::register(Arc::clone(&self.file)) }?;
        Ok(self.events.get_or_init(|| events))
    }

    /// Does what would wait, as soon as it does not.
    pub(super) async fn attempt<T>(
        &self,
        interest: Interest,
        mut operation: impl FnMut(&Self) -> io::Result<T>,
    ) -> io::Result<T> {
        match operation(self) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.events()?.async_io(interest, |_| operation(self)).await
            }
            done => done,
        }
    }

    /// As [`Descriptor::attempt`], for one that waits in this direction at a time.
    pub(super) fn poll_attempt<T>(
        &self,
        context: &mut Context<'_>,
        interest: Interest,
        mut operation: impl FnMut(&Self) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match operation(self) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let events = self.events()?;
                    let mut guard = if interest.is_readable() {
                        ready!(events.poll_read_ready(context))?
                    } else {
                        ready!(events.poll_write_ready(context))?
                    };
                    guard.clear_ready();
                }
                done => return Poll::Ready(done),
            }
        }
    }
}
