//! The two streams of a connection, as `wasi:io` calls those that it knows nothing special about.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamResult};

use super::connection::Connection;

/// What comes in.
pub(super) struct Input(pub(super) Arc<Connection>);

#[async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.poll_readable(cx)).await;
    }
}

#[async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.0.read(size)
    }
}

/// What goes out.
pub(super) struct Output(pub(super) Arc<Connection>);

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.poll_writable(cx)).await;
    }
}

#[async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(&bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.0.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.0.check_write()
    }

    /// A stream that is dropped is waited for: what was written is sent.
    async fn cancel(&mut self) {
        poll_fn(|cx| self.0.poll_sent(cx)).await;
    }
}
