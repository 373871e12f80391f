//! A guest's standard streams: open files that no call of a guest makes its neighbours wait for.
//!
//! The files may be shared with other processes, as a terminal is with the shell, so their flags are left alone: each call
//! says for itself that it must not wait.

use std::fmt::Display;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// Most bytes of one read, and of one write that a guest may hand over.
const MAX_TRANSFER: usize = 64 * 1024;

/// Most bytes written at once to a file that can only be asked beforehand whether it takes some: pipes then take these
/// without a wait, and terminals nearly always.
const MAX_ASKED: usize = 512;

/// A guest's standard streams.
#[derive(Clone, Debug, Default)]
pub struct Stdio {
    /// What it reads.
    pub stdin: Stream,
    /// What it writes.
    pub stdout: Stream,
    /// What it says of itself.
    pub stderr: Stream,
}

/// One of a guest's standard streams.
#[derive(Clone, Debug, Default)]
pub enum Stream {
    /// This process's own.
    #[default]
    Inherited,
    /// At its end when read; takes whatever is written.
    Null,
    /// An open file of any kind: it is read and written as it is, its flags are not changed.
    File(Arc<OwnedFd>),
}

impl<T: Into<OwnedFd>> From<T> for Stream {
    fn from(file: T) -> Self {
        Self::File(Arc::new(file.into()))
    }
}

impl Stream {
    /// Writes a line of the host for people. What the file does not take at once is lost: nobody is to wait for it.
    pub(crate) fn tell(&self, line: &dyn Display) {
        let file = match self {
            Self::Inherited => return eprintln!("cwasi: {line}"),
            Self::Null => return,
            Self::File(file) => file,
        };
        let Ok(file) = file.try_clone().and_then(Descriptor::new) else {
            return;
        };
        let line = format!("cwasi: {line}\n");
        let mut rest = line.as_bytes();
        while let Ok(written @ 1..) = file.write(rest) {
            rest = &rest[written..];
        }
    }

    /// A descriptor of its own of what it stands for: the event loop takes each one once.
    fn open(&self, inherited: BorrowedFd<'_>) -> io::Result<Option<Arc<Descriptor>>> {
        let file = match self {
            Self::Inherited => inherited.try_clone_to_owned()?,
            Self::Null => return Ok(None),
            Self::File(file) => file.try_clone()?,
        };
        Ok(Some(Arc::new(Descriptor::new(file)?)))
    }
}

/// The open files behind a guest's standard streams, shared by all its instances.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    stdin: Option<Arc<Descriptor>>,
    stdout: Option<Arc<Descriptor>>,
    stderr: Option<Arc<Descriptor>>,
}

impl Streams {
    pub(crate) fn open(stdio: &Stdio) -> io::Result<Self> {
        Ok(Self {
            stdin: stdio.stdin.open(io::stdin().as_fd())?,
            stdout: stdio.stdout.open(io::stdout().as_fd())?,
            stderr: stdio.stderr.open(io::stderr().as_fd())?,
        })
    }

    /// Gives them to an instance. What it returns has what the instance has written and its files have not taken.
    pub(crate) fn give(&self, wasi: &mut WasiCtxBuilder) -> Unwritten {
        if let Some(file) = &self.stdin {
            wasi.stdin(Input(Arc::clone(file)));
        }
        let output = |file: &Option<Arc<Descriptor>>| file.as_ref().map(|file| Output::new(Arc::clone(file)));
        let (stdout, stderr) = (output(&self.stdout), output(&self.stderr));
        if let Some(stdout) = &stdout {
            wasi.stdout(stdout.clone());
        }
        if let Some(stderr) = &stderr {
            wasi.stderr(stderr.clone());
        }
        Unwritten([stdout, stderr])
    }
}

/// What an instance has written and its files have not taken yet.
pub(crate) struct Unwritten([Option<Output>; 2]);

impl Unwritten {
    /// Waits until the files have taken everything, or fail.
    pub(crate) async fn write(&mut self) {
        for output in self.0.iter_mut().flatten() {
            output.ready().await;
        }
    }
}

/// An open file, and the event loop's view of it.
#[derive(Debug)]
struct Descriptor {
    file: Arc<OwnedFd>,
    /// Regular files and disks are read and written at once, as every file of a guest is.
    never_waits: bool,
    /// Made at the first wait, when there is an event loop.
    events: OnceLock<AsyncFd<Arc<OwnedFd>>>,
}

impl Descriptor {
    fn new(file: OwnedFd) -> io::Result<Self> {
        let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT;
        Ok(Self {
            file: Arc::new(file),
            never_waits: kind == SFlag::S_IFREG || kind == SFlag::S_IFBLK,
            events: OnceLock::new(),
        })
    }

    /// Reads without waiting. 0 is the end; where a read would wait, [`io::ErrorKind::WouldBlock`].
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
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
            // Terminals, and pipes before Linux 6.4.
            Err(Errno::EOPNOTSUPP) => {
                self.ask(PollFlags::POLLIN)?;
                Ok(unistd::read(&self.file, buffer)?)
            }
            read => Ok(read?.unsigned_abs()),
        }
    }

    /// Writes what the file takes without waiting; where that is nothing, [`io::ErrorKind::WouldBlock`].
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
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
            Err(Errno::EOPNOTSUPP) => {
                self.ask(PollFlags::POLLOUT)?;
                Ok(unistd::write(&self.file, &bytes[..bytes.len().min(MAX_ASKED)])?)
            }
            wrote => Ok(wrote?.unsigned_abs()),
        }
    }

    /// Whether the file is ready, or has failed; else [`io::ErrorKind::WouldBlock`].
    fn ask(&self, events: PollFlags) -> io::Result<()> {
        let mut polled = [PollFd::new(self.file.as_fd(), events)];
        match poll(&mut polled, PollTimeout::ZERO)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
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
    async fn attempt<T>(
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
    fn poll_attempt<T>(
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

/// As the stock streams word it: a peer that is gone is a closed stream, all else keeps its error for the guest.
fn stream_error(error: io::Error) -> StreamError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => StreamError::Closed,
        _ => StreamError::LastOperationFailed(error.into()),
    }
}

/// Standard input.
struct Input(Arc<Descriptor>);

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        io::IsTerminal::is_terminal(&*self.0.file)
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(Self(Arc::clone(&self.0)))
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

#[async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        let readable = |file: &Descriptor| file.ask(PollFlags::POLLIN);
        // A failure is what the read will say.
        let _ = self.0.attempt(Interest::READABLE, readable).await;
    }
}

#[async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut bytes = BytesMut::zeroed(size.min(MAX_TRANSFER));
        match self.0.read(&mut bytes) {
            Ok(0) => Err(StreamError::Closed),
            Ok(read) => {
                bytes.truncate(read);
                Ok(bytes.freeze())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Bytes::new()),
            Err(error) => Err(stream_error(error)),
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let into = buffer.initialize_unfilled();
        let read = ready!(
            self.0
                .poll_attempt(context, Interest::READABLE, |file| file.read(into))
        )?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

/// Standard output or standard error. Clones write to the same stream.
#[derive(Clone)]
struct Output {
    file: Arc<Descriptor>,
    rest: Arc<Mutex<Rest>>,
}

/// What a file has not taken yet. While there is some, the guest may not write more.
#[derive(Default)]
struct Rest {
    bytes: Bytes,
    /// Why the file took no more: told to the guest once.
    error: Option<io::Error>,
}

impl Output {
    fn new(file: Arc<Descriptor>) -> Self {
        Self {
            file,
            rest: Arc::default(),
        }
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the rest as far as the file takes it.
    fn drain(file: &Descriptor, rest: &Mutex<Rest>) -> io::Result<()> {
        let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
        while !rest.bytes.is_empty() {
            match file.write(&rest.bytes) {
                Ok(wrote) => rest.bytes.advance(wrote),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => {
                    rest.bytes.clear();
                    rest.error = Some(error);
                }
            }
        }
        Ok(())
    }

    /// What the file has said, once.
    fn check(&self) -> StreamResult<()> {
        match mem::take(&mut self.rest().error) {
            Some(error) => Err(stream_error(error)),
            None => Ok(()),
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        io::IsTerminal::is_terminal(&*self.file.file)
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        let rest = Arc::clone(&self.rest);
        let drain = |file: &Descriptor| Self::drain(file, &rest);
        if let Err(error) = self.file.attempt(Interest::WRITABLE, drain).await {
            // It cannot be waited for.
            let mut rest = self.rest();
            rest.bytes.clear();
            rest.error = Some(error);
        }
    }
}

#[async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.check()?;
        {
            let mut rest = self.rest();
            if !rest.bytes.is_empty() {
                return Err(StreamError::trap("write without a permit"));
            }
            rest.bytes = bytes;
        }
        // What it does not take now, it is given when it is ready.
        let _ = Self::drain(&self.file, &self.rest);
        self.check()
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.check()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let drained = Self::drain(&self.file, &self.rest);
        self.check()?;
        Ok(if drained.is_ok() { MAX_TRANSFER } else { 0 })
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.file
            .poll_attempt(context, Interest::WRITABLE, |file| file.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
