//! Connections for the protocols that the host speaks for a guest, such as HTTP.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Transport;
use super::dial::dial;
use super::listener::Listener;
use super::options::KeepAlive;
use super::{Network, kernel};

/// A connection of a guest's, over either transport.
#[derive(Debug)]
pub(crate) struct Stream(Transport);

impl Stream {
    /// Connects to `to`, inside the process where a function of it listens there.
    ///
    /// # Errors
    /// As connect(2) gives them; whether the peer is permitted is the caller's to know.
    pub(crate) async fn connect(network: Arc<Network>, to: SocketAddr) -> io::Result<Self> {
        let socket = kernel::socket(to.is_ipv4())?;
        Ok(Self(dial(network, socket, false, to).await?.transport))
    }

    #[cfg(test)]
    pub(crate) fn peer_address(&self) -> io::Result<SocketAddr> {
        self.0.remote_address()
    }

    #[cfg(test)]
    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.local_address()
    }

    #[cfg(test)]
    pub(super) const fn is_inside(&self) -> bool {
        matches!(self.0, Transport::Pipe(_))
    }

    #[cfg(test)]
    pub(super) fn into_transport(self) -> Transport {
        self.0
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.0.read(buffer.remaining()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.0.poll_readable(cx)),
                read => return Poll::Ready(read.map(|bytes| buffer.put_slice(&bytes))),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.0.poll_writable(cx)),
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.end_writing();
        Poll::Ready(Ok(()))
    }
}

/// Where connections to a guest come in.
pub(crate) struct Acceptor(Listener);

impl Acceptor {
    /// Listens on `address`: in the kernel, and for the functions of the same process.
    ///
    /// # Errors
    /// The name of the system call that failed, and its error.
    pub(crate) fn begin(
        network: Arc<Network>,
        address: SocketAddr,
        backlog: u32,
    ) -> Result<Self, (&'static str, io::Error)> {
        let failed = |call| move |error| (call, error);
        let socket = kernel::socket(address.is_ipv4()).map_err(failed("socket"))?;
        kernel::bind(&socket, address).map_err(failed("bind"))?;
        let bound = kernel::local_address(&socket).map_err(failed("getsockname"))?;
        let listener = Listener::begin(network, socket, bound, backlog, KeepAlive::default())
            .map_err(failed("listen"))?;
        Ok(Self(listener))
    }

    /// The next connection.
    ///
    /// # Errors
    /// As accept(2) gives them.
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        loop {
            match self.0.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|cx| self.0.poll_acceptable(cx)).await;
                }
                accepted => return accepted.map(Stream),
            }
        }
    }

    pub(crate) const fn local_address(&self) -> SocketAddr {
        self.0.local_address()
    }
}
