//! A listening socket: in the kernel, and for the functions of its own process.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use wasmtime_wasi::p2::bindings::sockets::network::IpAddressFamily;
use wasmtime_wasi::sockets::SocketAddrUse;

use super::connection::Transport;
use super::local::Listening;
use super::options::{Inherited, KeepAlive};
use super::{Network, kernel};

/// A listening socket.
pub(super) struct Listener {
    network: Arc<Network>,
    kernel: kernel::Listener,
    local: Option<Arc<Listening>>,
    address: SocketAddr,
    /// The keepalive that the guest sees at what is accepted.
    keep_alive: Mutex<KeepAlive>,
    /// Whose turn it is when both have a connection.
    kernel_first: AtomicBool,
}

impl Listener {
    /// Listens on `socket`, which is bound to `address`.
    pub(super) fn begin(
        network: Arc<Network>,
        socket: OwnedFd,
        address: SocketAddr,
        backlog: u32,
        keep_alive: KeepAlive,
    ) -> io::Result<Self> {
        let kernel = kernel::Listener::begin(socket, backlog)?;
        let local = network
            .local
            .as_ref()
            .map(|local| local.listen(&network.function, address, backlog));
        Ok(Self {
            network,
            kernel,
            local,
            address,
            keep_alive: Mutex::new(keep_alive),
            kernel_first: AtomicBool::new(false),
        })
    }

    /// The next connection; `WouldBlock` when there is none.
    pub(super) fn accept(&self) -> io::Result<Transport> {
        let kernel_first = self.kernel_first.fetch_xor(true, Ordering::Relaxed);
        if kernel_first {
            match self.accept_kernel() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                accepted => return accepted,
            }
        }
        if let Some(end) = self.local.as_ref().and_then(|local| local.backlog.accept()) {
            return Ok(Transport::Pipe(end));
        }
        if kernel_first {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.accept_kernel()
    }

    fn accept_kernel(&self) -> io::Result<Transport> {
        loop {
            let stream = self.kernel.accept()?;
            let permitted = stream
                .remote_address()
                .map(|peer| self.network.check(peer, SocketAddrUse::TcpAccept).is_ok());
            match permitted {
                Ok(true) => return Ok(Transport::Kernel(stream)),
                Ok(false) => stream.reset(),
                // It has gone already.
                Err(_) => {}
            }
        }
    }

    pub(super) fn poll_acceptable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(local) = &self.local
            && local.backlog.poll_acceptable(cx).is_ready()
        {
            return Poll::Ready(());
        }
        self.kernel.poll_acceptable(cx)
    }

    pub(super) fn set_backlog(&self, backlog: u32) -> io::Result<()> {
        self.kernel.set_backlog(backlog)?;
        if let Some(local) = &self.local {
            local.backlog.set_limit(backlog);
        }
        Ok(())
    }

    pub(super) const fn local_address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn network(&self) -> Arc<Network> {
        Arc::clone(&self.network)
    }

    pub(super) const fn family(&self) -> IpAddressFamily {
        match self.address {
            SocketAddr::V4(_) => IpAddressFamily::Ipv4,
            SocketAddr::V6(_) => IpAddressFamily::Ipv6,
        }
    }

    pub(super) fn keep_alive(&self) -> KeepAlive {
        *self.lock_keep_alive()
    }

    pub(super) fn set_keep_alive(&self, keep_alive: KeepAlive) {
        *self.lock_keep_alive() = keep_alive;
    }

    fn lock_keep_alive(&self) -> MutexGuard<'_, KeepAlive> {
        self.keep_alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The options of what is accepted here.
    pub(super) fn inherited(&self) -> io::Result<Inherited> {
        Inherited::of(self, self.address.is_ipv4())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(local) = &self.local {
            local.close();
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }
}
