//! In a component: the standard library's sockets.

use std::io;
use std::net::{TcpListener, TcpStream};

use super::Address;

pub(super) type Listener = TcpListener;
pub(super) type Stream = TcpStream;

pub(super) fn listen(Address::Tcp(text): &Address) -> io::Result<(Listener, Address)> {
    let listener = TcpListener::bind(text)?;
    listener.set_nonblocking(true)?;
    let local = Address::Tcp(listener.local_addr()?.to_string());
    Ok((listener, local))
}

pub(super) fn accept(listener: &Listener) -> io::Result<Stream> {
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

pub(super) fn connect(Address::Tcp(text): &Address) -> io::Result<Stream> {
    let stream = TcpStream::connect(text)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

pub(super) fn set_nodelay(stream: &Stream) -> io::Result<()> {
    stream.set_nodelay(true)
}
