//! Sockets of the peers.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::Result;
use crate::error::IoContext;

/// Listens, and gives each accepted connection to `handle`, one after the other, until `connections` are over.
pub(super) fn serve(
    address: SocketAddr,
    connections: Option<u64>,
    nodelay: bool,
    mut handle: impl FnMut(TcpStream) -> Result<()>,
) -> Result<()> {
    let listener = TcpListener::bind(address).action(|| format!("listen on {address}"))?;
    accept(&listener, connections, nodelay, &mut handle)
}

/// [`serve`] for a listener that is there already.
pub(super) fn accept(
    listener: &TcpListener,
    connections: Option<u64>,
    nodelay: bool,
    handle: &mut impl FnMut(TcpStream) -> Result<()>,
) -> Result<()> {
    let mut left = connections;
    while left != Some(0) {
        let (stream, _) = listener.accept().action(|| "accept a connection")?;
        left = left.map(|left| left - 1);
        set_nodelay(&stream, nodelay)?;
        if let Err(error) = handle(stream) {
            // The next client is not to blame for this one.
            eprintln!("cwasi-native: {error}");
        }
    }
    Ok(())
}

pub(super) fn connect(address: SocketAddr, nodelay: bool) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).action(|| format!("connect to {address}"))?;
    set_nodelay(&stream, nodelay)?;
    Ok(stream)
}

fn set_nodelay(stream: &TcpStream, nodelay: bool) -> Result<()> {
    // Off is the default; not asking spares a system call in connect-rate.
    if !nodelay {
        return Ok(());
    }
    stream.set_nodelay(true).action(|| "set TCP_NODELAY")
}

/// Fills the buffer; `false` when the stream ends before its first byte.
pub(super) fn read_message(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Runs `handle` on a thread of its own, so that one connection never waits for another.
pub(super) fn in_background(handle: impl FnOnce() -> Result<()> + Send + 'static) {
    thread::spawn(move || {
        if let Err(error) = handle() {
            eprintln!("cwasi-native: {error}");
        }
    });
}
