//! What a guest of WASI 0.3 reads connections from, and reads and writes the bytes of one.
//!
//! Bytes go between the kernel and the guest's memory without a copy; nothing is read, or taken from the guest, before it is asked for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;
use wasmtime::component::{Destination, Resource, Source, StreamConsumer, StreamProducer, StreamResult};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi::p3::bindings::sockets::types::ErrorCode;

use super::Socket;
use crate::sockets::connection::Connection;
use crate::sockets::listener::Listener;
use crate::sockets::socket::TcpSocket;
use crate::state::GuestState;

/// Bytes that are read at once for a reader that is not a guest: a stream that a guest has passed on.
const CAPACITY: usize = 64 * 1024;

type Polled = Poll<wasmtime::Result<StreamResult>>;

/// The end of a wait that may be called off.
fn waited(ready: Poll<()>, called_off: bool) -> Polled {
    match ready {
        Poll::Ready(()) => Poll::Ready(Ok(StreamResult::Completed)),
        Poll::Pending if called_off => Poll::Ready(Ok(StreamResult::Cancelled)),
        Poll::Pending => Poll::Pending,
    }
}

/// Tries until it succeeds, fails or has to wait.
fn attempt<T>(
    mut act: impl FnMut() -> io::Result<T>,
    mut wait: impl FnMut() -> Poll<()>,
) -> Poll<io::Result<T>> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(wait()),
            done => return Poll::Ready(done),
        }
    }
}

/// The connections of a listener.
pub(super) struct Accepting(pub(super) Arc<Listener>);

impl StreamProducer<GuestState> for Accepting {
    type Item = Resource<Socket>;
    type Buffer = Option<Self::Item>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, GuestState>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Polled {
        let listener = &self.0;
        if destination.remaining(&mut store) == Some(0) {
            return waited(listener.poll_acceptable(cx), finish);
        }
        let accepted = attempt(
            || TcpSocket::accepted(listener).map(|(socket, _)| socket),
            || listener.poll_acceptable(cx),
        );
        let socket = match accepted {
            Poll::Ready(accepted) => {
                accepted.unwrap_or_else(|error| TcpSocket::not_accepted(listener, error))
            }
            Poll::Pending => return waited(Poll::Pending, finish),
        };
        let (table, _) = store.data_mut().sockets();
        destination.set_buffer(Some(table.push(Socket::new(socket))?));
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

/// Tells how a stream of bytes ended: the guest, when it still wants to know.
struct End(Option<oneshot::Sender<Result<(), ErrorCode>>>);

impl End {
    fn tell(&mut self, ended: Result<(), ErrorCode>) {
        if let Some(end) = self.0.take() {
            let _ = end.send(ended);
        }
    }
}

/// The incoming bytes of a connection.
pub(super) struct Receiving {
    connection: Arc<Connection>,
    end: End,
}

impl Receiving {
    pub(super) const fn new(
        connection: Arc<Connection>,
        end: oneshot::Sender<Result<(), ErrorCode>>,
    ) -> Self {
        let end = End(Some(end));
        Self { connection, end }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.connection.transport().end_reading();
        self.end.tell(Ok(()));
    }
}

impl StreamProducer<GuestState> for Receiving {
    type Item = u8;
    type Buffer = bytes::BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, GuestState>,
        destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Polled {
        let this = &mut *self;
        let transport = this.connection.transport();
        if destination.remaining(store.as_context_mut()) == Some(0) {
            return waited(transport.poll_readable(cx), finish);
        }
        let mut destination = destination.as_direct(store, CAPACITY);
        let buffer = destination.remaining();
        let read = attempt(|| transport.read_into(buffer), || transport.poll_readable(cx));
        Poll::Ready(Ok(match read {
            Poll::Ready(Ok(0)) => {
                this.end.tell(Ok(()));
                StreamResult::Dropped
            }
            Poll::Ready(Ok(read)) => {
                destination.mark_written(read);
                StreamResult::Completed
            }
            Poll::Ready(Err(error)) => {
                this.end.tell(Err(error.into()));
                StreamResult::Dropped
            }
            Poll::Pending => return waited(Poll::Pending, finish),
        }))
    }
}

/// The outgoing bytes of a connection.
pub(super) struct Sending {
    connection: Arc<Connection>,
    end: End,
}

impl Sending {
    pub(super) const fn new(
        connection: Arc<Connection>,
        end: oneshot::Sender<Result<(), ErrorCode>>,
    ) -> Self {
        let end = End(Some(end));
        Self { connection, end }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.connection.transport().end_writing();
        self.end.tell(Ok(()));
    }
}

impl StreamConsumer<GuestState> for Sending {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, GuestState>,
        source: Source<'_, Self::Item>,
        finish: bool,
    ) -> Polled {
        let this = &mut *self;
        let transport = this.connection.transport();
        let mut source = source.as_direct(store);
        let bytes = source.remaining();
        if bytes.is_empty() {
            return waited(transport.poll_writable(cx), finish);
        }
        let written = attempt(|| transport.write(bytes), || transport.poll_writable(cx));
        Poll::Ready(Ok(match written {
            Poll::Ready(Ok(written)) => {
                source.mark_read(written);
                StreamResult::Completed
            }
            Poll::Ready(Err(error)) => {
                this.end.tell(Err(match error.kind() {
                    io::ErrorKind::BrokenPipe => ErrorCode::ConnectionBroken,
                    _ => error.into(),
                }));
                StreamResult::Dropped
            }
            Poll::Pending => return waited(Poll::Pending, finish),
        }))
    }
}
