//! Where there is a kernel below: TCP and AF_UNIX by socket2.

use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Address, wait};

pub(super) type Listener = Socket;
pub(super) type Stream = Socket;

pub(super) fn listen(address: &Address) -> io::Result<(Listener, Address)> {
    let (socket, local) = match address {
        Address::Tcp(text) => {
            let listener = TcpListener::bind(text)?;
            let local = Address::Tcp(listener.local_addr()?.to_string());
            (Socket::from(listener), local)
        }
        Address::Unix(path) => (Socket::from(UnixListener::bind(path)?), address.clone()),
    };
    socket.set_nonblocking(true)?;
    Ok((socket, local))
}

pub(super) fn accept(listener: &Listener) -> io::Result<Stream> {
    let (socket, _) = listener.accept()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

pub(super) fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Tcp(text) => {
            let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for candidate in text.to_socket_addrs()? {
                let domain = Domain::for_address(candidate);
                match connect_one(domain, Some(Protocol::TCP), &candidate.into()) {
                    Ok(socket) => return Ok(socket),
                    Err(error) => failure = error,
                }
            }
            Err(failure)
        }
        Address::Unix(path) => connect_one(Domain::UNIX, None, &SockAddr::unix(Path::new(path))?),
    }
}

/// Connects a socket that is non-blocking from the start.
fn connect_one(domain: Domain, protocol: Option<Protocol>, address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), protocol)?;
    match socket.connect(address) {
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {
            wait(&mut [PollFd::new(&socket, PollFlags::OUT)])?;
            socket.take_error()?.map_or(Ok(()), Err)?;
        }
        done => done?,
    }
    Ok(socket)
}

pub(super) fn set_nodelay(stream: &Stream) -> io::Result<()> {
    if stream.domain()? == Domain::UNIX {
        return Ok(());
    }
    stream.set_tcp_nodelay(true)
}
