//! A connection inside the process, with TCP's manners.
//!
//! Bytes are copied twice, from the writer's memory into a flow and from there into the reader's; no system call is made. What ends a
//! connection is told to its ends as Linux tells it (net/ipv4/tcp.c and tcp_input.c): the end after the data, a reset to
//! whoever's bytes are left unread, an error once.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use cwasi_client::process_report::monotonic_ns;

use super::flow::{Flow, Passed};
use super::local::LocalNetwork;

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// A function at one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Party {
    /// Its name.
    pub(super) function: Arc<str>,
    /// Its address in this connection.
    pub(super) address: SocketAddr,
}

/// A connection, and who is at its ends.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Who connected.
    pub(super) client: Party,
    /// Who listened; the address is the one that was dialled.
    pub(super) server: Party,
    /// When it was made: [`monotonic_ns`] of then.
    pub(super) established_ns: u64,
    sides: Mutex<[Side; 2]>,
    network: LocalNetwork,
}

/// What one end is to the other.
#[derive(Debug)]
struct Side {
    incoming: Flow,
    /// Told once, to a read or to a write.
    error: Option<io::ErrorKind>,
    /// This end will write no more.
    sent_end: bool,
    /// The other end will write no more.
    got_end: bool,
    /// This end will read no more.
    stopped_reading: bool,
    /// The connection was broken off.
    is_reset: bool,
    /// Nobody has this end any more.
    is_gone: bool,
}

impl Side {
    fn new(all_waiting: &Arc<AtomicUsize>) -> Self {
        Self {
            incoming: Flow::new(Arc::clone(all_waiting)),
            error: None,
            sent_end: false,
            got_end: false,
            stopped_reading: false,
            is_reset: false,
            is_gone: false,
        }
    }

    /// Nothing more can come of it: broken off, or ended in both directions.
    const fn is_closed(&self) -> bool {
        self.is_reset || (self.sent_end && self.got_end)
    }

    /// A reset arrives.
    fn reset(&mut self) {
        if self.is_closed() {
            return;
        }
        self.error = Some(if self.got_end {
            io::ErrorKind::BrokenPipe
        } else {
            io::ErrorKind::ConnectionReset
        });
        self.is_reset = true;
        self.incoming.wake_reader();
    }

    const fn is_readable(&self) -> bool {
        !self.incoming.is_empty() || self.got_end || self.is_reset || self.stopped_reading
    }

    const fn cannot_write(&self) -> bool {
        self.sent_end || self.is_reset
    }
}

impl Pipe {
    /// A new connection in `network`, all of whose connections count their waiting bytes in `all_waiting`.
    pub(super) fn new(
        client: Party,
        server: Party,
        network: LocalNetwork,
        all_waiting: &Arc<AtomicUsize>,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            server,
            established_ns: monotonic_ns(),
            sides: Mutex::new([Side::new(all_waiting), Side::new(all_waiting)]),
            network,
        })
    }

    fn sides(&self) -> MutexGuard<'_, [Side; 2]> {
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its two ends: the client's and the server's. Taken once.
    pub(super) fn ends(self: Arc<Self>) -> (End, End) {
        let end = |pipe, side| End { pipe, side };
        (end(Arc::clone(&self), CLIENT), end(self, SERVER))
    }

    /// What went to the server, and what to the client.
    pub(super) fn passed(&self) -> (Passed, Passed) {
        let sides = self.sides();
        (sides[SERVER].incoming.passed(), sides[CLIENT].incoming.passed())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let (mut passed, to_client) = self.passed();
        passed += to_client;
        self.network.over(passed);
    }
}

/// One end of a connection. When it is dropped the peer sees the end of the data; with bytes unread, a reset.
#[derive(Debug)]
pub(super) struct End {
    pipe: Arc<Pipe>,
    side: usize,
}

impl End {
    /// Does something with this end's side and the other's.
    fn with<T>(&self, act: impl FnOnce(&mut Side, &mut Side) -> T) -> T {
        let [client, server] = &mut *self.pipe.sides();
        if self.side == CLIENT {
            act(client, server)
        } else {
            act(server, client)
        }
    }

    /// Reads what is there, at most `want` bytes; none at all is the end.
    pub(super) fn read(&self, want: usize) -> io::Result<Bytes> {
        self.with(|own, _| {
            if !own.incoming.is_empty() {
                return Ok(own.incoming.read(want));
            }
            if own.got_end {
                return Ok(Bytes::new());
            }
            match own.error.take() {
                Some(error) => Err(error.into()),
                None if own.is_reset || own.stopped_reading => Ok(Bytes::new()),
                None => Err(io::ErrorKind::WouldBlock.into()),
            }
        })
    }

    /// Writes what fits.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|own, other| {
            if own.cannot_write() {
                return Err(own.error.take().unwrap_or(io::ErrorKind::BrokenPipe).into());
            }
            // Such bytes are answered with a reset.
            if other.is_gone || (other.stopped_reading && other.sent_end) {
                own.reset();
                other.reset();
                return Ok(bytes.len());
            }
            match other.incoming.write(bytes) {
                0 if !bytes.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
                len => Ok(len),
            }
        })
    }

    /// Bytes that are worth a write now. A connection that is over takes any: the write finds out.
    pub(super) fn permit(&self) -> usize {
        self.with(|own, other| {
            if own.cannot_write() || other.is_gone {
                usize::MAX
            } else {
                other.incoming.permit()
            }
        })
    }

    pub(super) fn is_readable(&self) -> bool {
        self.with(|own, _| own.is_readable())
    }

    pub(super) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.with(|own, _| {
            if own.is_readable() {
                return Poll::Ready(());
            }
            own.incoming.on_readable(cx);
            Poll::Pending
        })
    }

    pub(super) fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        self.with(|own, other| {
            if own.cannot_write() || other.is_gone || other.incoming.permit() > 0 {
                return Poll::Ready(());
            }
            other.incoming.on_writable(cx);
            Poll::Pending
        })
    }

    /// Tells the peer that no more will be written.
    pub(super) fn end_writing(&self) {
        self.with(Self::end);
    }

    fn end(own: &mut Side, other: &mut Side) {
        own.sent_end = true;
        if !own.is_reset {
            other.got_end = true;
            other.incoming.wake_reader();
        }
    }

    /// Reads no more. What comes is kept, as the kernel keeps it, until the connection is over.
    pub(super) fn end_reading(&self) {
        self.with(|own, _| own.stopped_reading = true);
    }

    pub(super) fn local_address(&self) -> SocketAddr {
        self.party(self.side).address
    }

    /// The peer's address, as long as there is a connection.
    pub(super) fn remote_address(&self) -> io::Result<SocketAddr> {
        if self.with(|own, _| own.is_closed()) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(self.party(1 - self.side).address)
    }

    fn party(&self, side: usize) -> &Party {
        if side == CLIENT {
            &self.pipe.client
        } else {
            &self.pipe.server
        }
    }

    /// Breaks the connection off, as a listener does with those that it never accepted.
    pub(super) fn reset(self) {
        self.with(|own, other| {
            own.is_reset = true;
            other.reset();
            own.incoming.wake_writer();
        });
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.with(|own, other| {
            own.is_gone = true;
            let unread = !own.incoming.is_empty();
            own.incoming.discard();
            if own.is_closed() {
            } else if unread {
                other.reset();
            } else {
                Self::end(own, other);
            }
            own.incoming.wake_writer();
        });
    }
}
