//! Making a connection: inside the process where a function of it listens, else by the kernel.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::connection::Transport;
use super::local::{Listening, LocalNetwork};
use super::pipe::Party;
use super::{Network, kernel};

/// How long a connection inside the process waits for room in the listener's backlog: as long as Linux repeats a SYN by default.
const TIMEOUT: Duration = Duration::from_secs(127);

/// A connection, and the socket that began it where it is not what carries it.
pub(super) struct Dialled {
    pub(super) transport: Transport,
    pub(super) apart: Option<OwnedFd>,
}

/// Connects `socket`, which may be bound, to `to`.
pub(super) async fn dial(
    network: Arc<Network>,
    socket: OwnedFd,
    is_bound: bool,
    to: SocketAddr,
) -> io::Result<Dialled> {
    let found = network
        .local
        .as_ref()
        .and_then(|local| Some((local, local.find(to)?)));
    if let Some((local, listening)) = found {
        return inside(&network, local, &listening, socket, is_bound, to).await;
    }
    let connecting = kernel::Connecting::begin(socket, to)?;
    poll_fn(|cx| connecting.poll(cx)).await;
    Ok(Dialled {
        transport: Transport::Kernel(connecting.finish()?),
        apart: None,
    })
}

async fn inside(
    network: &Network,
    local: &LocalNetwork,
    listening: &Listening,
    socket: OwnedFd,
    is_bound: bool,
    to: SocketAddr,
) -> io::Result<Dialled> {
    if !is_bound {
        // As the kernel does: the address that was dialled, which is one of this host, with a free port.
        kernel::bind_for_connection(&socket, SocketAddr::new(to.ip(), 0))?;
    }
    let mut address = kernel::local_address(&socket)?;
    if address.ip().is_unspecified() {
        address.set_ip(to.ip());
    }
    let connected = poll_fn(|cx| {
        listening.backlog.poll_connect(cx, || {
            let client = Party {
                function: Arc::clone(&network.function),
                address,
            };
            local.connect(client, listening, to).ends()
        })
    });
    match timeout(TIMEOUT, connected).await {
        Ok(Ok(end)) => Ok(Dialled {
            transport: Transport::Pipe(end),
            apart: Some(socket),
        }),
        Ok(Err(_closed)) => Err(io::ErrorKind::ConnectionRefused.into()),
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}
