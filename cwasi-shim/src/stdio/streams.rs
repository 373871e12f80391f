//! A guest's ends of its standard streams.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use nix::poll::PollFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::descriptor::Descriptor;

/// Most bytes of one read, and of one write that a guest may hand over.
const MAX_TRANSFER: usize = 64 * 1024;

/// As the stock streams word it: a peer that is gone is a closed stream, all else keeps its error for the guest.
fn stream_error(error: io::Error) -> StreamError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => StreamError::Closed,
        _ => StreamError::LastOperationFailed(error.into()),
    }
}

/// Standard input.
pub(super) struct Input(Arc<Descriptor>);

impl Input {
    pub(super) const fn new(file: Arc<Descriptor>) -> Self {
        Self(file)
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        self.0.is_terminal()
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
pub(super) struct Output {
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
    pub(super) fn new(file: Arc<Descriptor>) -> Self {
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
                Ok(wrote @ 1..) => rest.bytes.advance(wrote),
                Ok(0) => {
                    rest.bytes.clear();
                    rest.error = Some(io::ErrorKind::WriteZero.into());
                }
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
        self.file.is_terminal()
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
