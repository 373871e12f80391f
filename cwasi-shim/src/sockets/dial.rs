//! Making a connection: inside the process where a function of it listens, else by the kernel.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::backlog::Entering;
use super::connection::Transport;
use super::pipe::{End, Party};
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
        let (client, apart) = begin(&network, socket, is_bound, to)?;
        let (local, server) = (local.clone(), listening.party(to));
        let entering = listening
            .backlog
            .enter(move || local.connect(client, server).ends());
        // Whoever waits does not keep the listener from closing.
        drop(listening);
        return Ok(Dialled {
            transport: Transport::Pipe(inside(&entering).await?),
            apart: Some(apart),
        });
    }
    let connecting = kernel::Connecting::begin(socket, to)?;
    poll_fn(|cx| connecting.poll(cx)).await;
    Ok(Dialled {
        transport: Transport::Kernel(connecting.finish()?),
        apart: None,
    })
}

/// The client's end of a connection to `to`, which is an address of this host, and the socket whose address it has.
fn begin(network: &Network, socket: OwnedFd, is_bound: bool, to: SocketAddr) -> io::Result<(Party, OwnedFd)> {
    // The source that the kernel would choose: the same address, or the first one of all that are loopback.
    let source = match to.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    if !is_bound {
        kernel::bind_for_connection(&socket, SocketAddr::new(source, 0))?;
    }
    let mut address = kernel::local_address(&socket)?;
    if address.ip().is_unspecified() {
        address.set_ip(source);
    }
    let client = Party {
        function: Arc::clone(&network.function),
        address,
    };
    Ok((client, socket))
}

async fn inside(entering: &Entering) -> io::Result<End> {
    match timeout(TIMEOUT, poll_fn(|cx| entering.poll(cx))).await {
        Ok(Ok(end)) => Ok(end),
        Ok(Err(_closed)) => Err(io::ErrorKind::ConnectionRefused.into()),
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}
