//! A connection inside the process: two flows, and an end of it for each of two functions.
//!
//! Bytes are copied twice, from the writer's memory into a flow and from there into the reader's; no system call is made.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use cwasi_client::process_report::monotonic_ns;

use super::flow::{Flow, Passed};
use super::local::LocalNetwork;

/// A function at one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Party {
    /// Its name.
    pub(super) function: Arc<str>,
    /// Its address in this connection.
    pub(super) address: SocketAddr,
}

/// Both directions of a connection, and who is at its ends.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Who connected.
    pub(super) client: Party,
    /// Who listened; the address is the one that was dialled.
    pub(super) server: Party,
    /// When it was made: [`monotonic_ns`] of then.
    pub(super) established_ns: u64,
    to_server: Mutex<Flow>,
    to_client: Mutex<Flow>,
    network: LocalNetwork,
}

impl Pipe {
    /// A new connection in `network`, all of whose connections count their waiting bytes in `all_waiting`.
    pub(super) fn new(
        client: Party,
        server: Party,
        network: LocalNetwork,
        all_waiting: &Arc<AtomicUsize>,
    ) -> Arc<Self> {
        let flow = || Mutex::new(Flow::new(Arc::clone(all_waiting)));
        Arc::new(Self {
            client,
            server,
            established_ns: monotonic_ns(),
            network,
            to_server: flow(),
            to_client: flow(),
        })
    }

    /// Its two ends: the client's and the server's. Taken once.
    pub(super) fn ends(self: Arc<Self>) -> (End, End) {
        let client = End {
            pipe: Arc::clone(&self),
            is_server: false,
        };
        let server = End {
            pipe: self,
            is_server: true,
        };
        (client, server)
    }

    /// What went to the server, and what to the client.
    pub(super) fn passed(&self) -> (Passed, Passed) {
        (lock(&self.to_server).passed(), lock(&self.to_client).passed())
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
    is_server: bool,
}

impl End {
    fn incoming(&self) -> MutexGuard<'_, Flow> {
        lock(if self.is_server {
            &self.pipe.to_server
        } else {
            &self.pipe.to_client
        })
    }

    fn outgoing(&self) -> MutexGuard<'_, Flow> {
        lock(if self.is_server {
            &self.pipe.to_client
        } else {
            &self.pipe.to_server
        })
    }

    /// Reads what is there, at most `want` bytes; none at all is the end.
    pub(super) fn read(&self, want: usize) -> io::Result<Bytes> {
        self.incoming().read(want)
    }

    /// Writes what fits.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing().write(bytes)
    }

    /// Bytes that a write would take now; see [`Flow::permit`].
    pub(super) fn permit(&self) -> usize {
        self.outgoing().permit()
    }

    pub(super) fn is_readable(&self) -> bool {
        self.incoming().is_readable()
    }

    pub(super) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.incoming().poll_readable(cx)
    }

    pub(super) fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        self.outgoing().poll_writable(cx)
    }

    /// Tells the peer that no more will be written.
    pub(super) fn end_writing(&self) {
        self.outgoing().end();
    }

    pub(super) fn local_address(&self) -> SocketAddr {
        self.party(self.is_server).address
    }

    pub(super) fn remote_address(&self) -> SocketAddr {
        self.party(!self.is_server).address
    }

    fn party(&self, server: bool) -> &Party {
        if server {
            &self.pipe.server
        } else {
            &self.pipe.client
        }
    }

    /// Breaks the connection off, as a listener does with those that it never accepted.
    pub(super) fn reset(self) {
        self.incoming().break_off();
        self.outgoing().break_off();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let unread = self.incoming().abandon();
        if unread {
            self.incoming().break_off();
        }
        let mut outgoing = self.outgoing();
        if unread {
            outgoing.break_off();
        }
        outgoing.end();
    }
}

fn lock(flow: &Mutex<Flow>) -> MutexGuard<'_, Flow> {
    flow.lock().unwrap_or_else(PoisonError::into_inner)
}
