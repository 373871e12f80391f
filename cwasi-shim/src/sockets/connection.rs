//! A connection of a guest, through the kernel or inside the process: what its socket and both of its streams share.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use rustix::net::Shutdown;
use wasmtime_wasi::p2::{StreamError, StreamResult};

use super::pending::{Pending, Unsent};
use super::{kernel, pipe};

/// Most bytes that one read gives.
const MAX_READ: usize = 256 * 1024;
/// Most bytes that one write takes.
const MAX_WRITE: usize = 256 * 1024;
/// The same after the kernel has not taken all of a write: the rest is copied, and malloc maps fresh memory for more.
const MAX_WRITE_AFTER_REST: usize = 64 * 1024;

thread_local! {
    // One for all connections: what is read is given to the guest before anything else is read.
    static READ: RefCell<BytesMut> = RefCell::default();
}

/// What carries the bytes.
#[derive(Debug)]
pub(super) enum Transport {
    /// A socket.
    Kernel(kernel::Stream),
    /// A connection inside the process.
    Pipe(pipe::End),
}

impl Transport {
    /// Reads what is there, at most `want` bytes; none at all is the end.
    pub(super) fn read(&self, want: usize) -> io::Result<Bytes> {
        let want = want.min(MAX_READ);
        match self {
            Self::Kernel(stream) => READ.with_borrow_mut(|buffer| {
                // Has no other owner: the memory of what was read before is used again.
                buffer.reserve(want);
                let len = stream.recv(&mut buffer.spare_capacity_mut()[..want])?;
                // SAFETY: the kernel has written that many bytes at the beginning of the spare capacity.
                unsafe { buffer.set_len(len) };
                Ok(buffer.split().freeze())
            }),
            Self::Pipe(end) => end.read(want),
        }
    }

    /// Reads what is there, as much as there is room for; 0 is the end.
    #[cfg(feature = "p3")]
    pub(super) fn read_into(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(stream) => stream.recv_into(buffer),
            Self::Pipe(end) => {
                let bytes = end.read(buffer.len())?;
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
        }
    }

    /// Writes what fits.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(stream) => stream.send(bytes),
            Self::Pipe(end) => end.write(bytes),
        }
    }

    /// Bytes that are worth a write now.
    fn permit(&self) -> usize {
        match self {
            Self::Kernel(_) => usize::MAX,
            Self::Pipe(end) => end.permit(),
        }
    }

    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Kernel(stream) => stream.poll_readable(cx),
            Self::Pipe(end) => end.poll_readable(cx),
        }
    }

    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Kernel(stream) => stream.poll_writable(cx),
            Self::Pipe(end) => end.poll_writable(cx),
        }
    }

    pub(super) fn end_reading(&self) {
        match self {
            Self::Kernel(stream) => stream.shutdown(Shutdown::Read),
            Self::Pipe(end) => end.end_reading(),
        }
    }

    pub(super) fn end_writing(&self) {
        match self {
            Self::Kernel(stream) => stream.shutdown(Shutdown::Write),
            Self::Pipe(end) => end.end_writing(),
        }
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(stream) => kernel::local_address(stream),
            Self::Pipe(end) => Ok(end.local_address()),
        }
    }

    pub(super) fn remote_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(stream) => stream.remote_address(),
            Self::Pipe(end) => end.remote_address(),
        }
    }
}

/// A connection with the state that WASI gives its streams.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: Transport,
    reading: Mutex<Reading>,
    writing: Mutex<Writing>,
    unsent: Unsent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    Over,
}

#[derive(Debug)]
struct Writing {
    state: WriteState,
    /// Bytes that the guest may write before it asks again.
    permit: usize,
    /// Most bytes of the next write.
    most: usize,
}

#[derive(Debug)]
enum WriteState {
    Open,
    /// The kernel has not taken these bytes yet; a task of its own gives them to it.
    Pending(Pending),
    Over,
}

impl Connection {
    /// A connection whose bytes that wait for the kernel are counted in `unsent`.
    pub(super) fn new(transport: Transport, unsent: Unsent) -> Arc<Self> {
        Arc::new(Self {
            transport,
            reading: Mutex::new(Reading::Open),
            writing: Mutex::new(Writing {
                state: WriteState::Open,
                permit: 0,
                most: MAX_WRITE,
            }),
            unsent,
        })
    }

    pub(super) const fn transport(&self) -> &Transport {
        &self.transport
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At most `want` bytes; none when there are none now.
    pub(crate) fn read(&self, want: usize) -> StreamResult<Bytes> {
        let mut reading = self.reading();
        if *reading == Reading::Over {
            return Err(StreamError::Closed);
        }
        if want == 0 {
            return Ok(Bytes::new());
        }
        match self.transport.read(want) {
            Ok(bytes) if bytes.is_empty() => {
                *reading = Reading::Over;
                Err(StreamError::Closed)
            }
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Bytes::new()),
            Err(error) => {
                *reading = Reading::Over;
                Err(failed(error))
            }
        }
    }

    /// Whether a read would give something, as far as that can be told without a system call.
    pub(crate) fn is_readable(&self) -> bool {
        *self.reading() == Reading::Over
            || match &self.transport {
                Transport::Kernel(_) => false,
                Transport::Pipe(end) => end.is_readable(),
            }
    }

    /// Waits until a read gives something, and holds the thread up meanwhile. `false` when that cannot be waited for so.
    pub(crate) fn wait_readable(&self) -> bool {
        match &self.transport {
            Transport::Kernel(stream) => {
                if *self.reading() == Reading::Open {
                    stream.wait_readable();
                }
                true
            }
            Transport::Pipe(_) => false,
        }
    }

    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if *self.reading() == Reading::Over {
            return Poll::Ready(());
        }
        self.transport.poll_readable(cx)
    }

    /// Bytes that may be written; 0 when none now.
    pub(crate) fn check_write(&self) -> StreamResult<usize> {
        let mut writing = self.writing();
        writing.settle()?;
        writing.permit = match writing.state {
            WriteState::Open => self.transport.permit().min(writing.most),
            WriteState::Pending(_) => 0,
            WriteState::Over => return Err(StreamError::Closed),
        };
        Ok(writing.permit)
    }

    /// Writes all of `bytes`, at most what [`Connection::check_write`] gave.
    pub(crate) fn write(self: &Arc<Self>, bytes: &[u8]) -> StreamResult<()> {
        let mut writing = self.writing();
        if matches!(writing.state, WriteState::Over) {
            return Err(StreamError::Closed);
        }
        if bytes.len() > writing.permit {
            return Err(StreamError::Trap(wasmtime::format_err!(
                "not permitted to write {} bytes",
                bytes.len()
            )));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        writing.permit = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.transport.write(rest) {
                Ok(len) => rest = &rest[len..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let pending = self.unsent.send(Arc::clone(self), Bytes::copy_from_slice(rest));
                    writing.state = WriteState::Pending(pending);
                    writing.most = MAX_WRITE_AFTER_REST;
                    return Ok(());
                }
                Err(error) => {
                    writing.state = WriteState::Over;
                    return Err(closed_or_failed(error));
                }
            }
        }
        if bytes.len() >= writing.most {
            writing.most = MAX_WRITE;
        }
        Ok(())
    }

    /// Bytes are on their way as soon as they are written; there is nothing to do but to tell what failed.
    pub(crate) fn flush(&self) -> StreamResult<()> {
        let mut writing = self.writing();
        writing.settle()?;
        match writing.state {
            WriteState::Open | WriteState::Pending(_) => Ok(()),
            WriteState::Over => Err(StreamError::Closed),
        }
    }

    /// Whether a write would be permitted or fail, as far as that can be told without a system call.
    pub(crate) fn is_writable(&self) -> bool {
        let writing = self.writing();
        match (&writing.state, &self.transport) {
            (WriteState::Over, _) => true,
            (WriteState::Open, Transport::Pipe(end)) => end.permit() > 0,
            _ => false,
        }
    }

    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut writing = self.writing();
        if let WriteState::Pending(pending) = &writing.state {
            ready!(pending.poll_done(cx));
        }
        match writing.state {
            WriteState::Open => {
                drop(writing);
                self.transport.poll_writable(cx)
            }
            // What came of it is told by the next call.
            WriteState::Pending(_) | WriteState::Over => {
                writing.permit = 0;
                Poll::Ready(())
            }
        }
    }

    /// Waits until everything that was written is sent, or failed to be.
    pub(crate) fn poll_sent(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.writing().state {
            WriteState::Pending(pending) => pending.poll_done(cx),
            _ => Poll::Ready(()),
        }
    }

    /// Ends reading, writing, or both, of a guest's socket.
    pub(super) fn shutdown(&self, how: Shutdown) {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            let mut reading = self.reading();
            if *reading == Reading::Open {
                *reading = Reading::Over;
                self.transport.end_reading();
            }
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            let mut writing = self.writing();
            match &writing.state {
                WriteState::Open => self.transport.end_writing(),
                WriteState::Pending(pending) => pending.end_after(self),
                WriteState::Over => {}
            }
            writing.state = WriteState::Over;
        }
    }
}

impl Writing {
    /// Takes over how pending bytes ended, if they did.
    fn settle(&mut self) -> StreamResult<()> {
        let WriteState::Pending(pending) = &self.state else {
            return Ok(());
        };
        match pending.done() {
            None => Ok(()),
            Some(Ok(())) => {
                self.state = WriteState::Open;
                Ok(())
            }
            Some(Err(error)) => {
                self.state = WriteState::Over;
                Err(closed_or_failed(error))
            }
        }
    }
}

fn failed(error: io::Error) -> StreamError {
    StreamError::LastOperationFailed(error.into())
}

/// A peer that takes no more is the ordinary end of a stream.
fn closed_or_failed(error: io::Error) -> StreamError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        StreamError::Closed
    } else {
        failed(error)
    }
}
