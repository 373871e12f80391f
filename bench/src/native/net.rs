//! Sockets of the peers: non-blocking, as those of event loops and Wasm runtimes are, with waits in poll.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Result;
use crate::error::IoContext;

/// A connected socket.
#[derive(Debug)]
pub(super) struct Stream(TcpStream);

impl Stream {
    pub(super) fn shutdown_write(&self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    /// Tries `operation`, and waits for `event` whenever it would block.
    pub(super) fn until_done<T>(
        &self,
        event: PollFlags,
        operation: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        until_done(self.0.as_fd(), event, operation)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.until_done(PollFlags::POLLIN, || (&self.0).read(buffer))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until_done(PollFlags::POLLOUT, || (&self.0).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn until_done<T>(
    socket: BorrowedFd<'_>,
    event: PollFlags,
    mut operation: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match operation() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(socket, event)?,
            done => return done,
        }
    }
}

fn wait(socket: BorrowedFd<'_>, event: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(socket, event)], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A listening socket.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).action(|| format!("listen on {address}"))?;
    listener
        .set_nonblocking(true)
        .action(|| "make a socket non-blocking")?;
    Ok(listener)
}

/// Gives each accepted connection to `handle`, one after the other, until `connections` are over.
pub(super) fn serve(
    listener: &TcpListener,
    connections: Option<u64>,
    nodelay: bool,
    mut handle: impl FnMut(Stream) -> Result<()>,
) -> Result<()> {
    let mut left = connections;
    while left != Some(0) {
        let accepted = until_done(listener.as_fd(), PollFlags::POLLIN, || listener.accept());
        let (stream, _) = accepted.action(|| "accept a connection")?;
        left = left.map(|left| left - 1);
        stream
            .set_nonblocking(true)
            .action(|| "make a socket non-blocking")?;
        set_nodelay(&stream, nodelay)?;
        if let Err(error) = handle(Stream(stream)) {
            // The next client is not to blame for this one.
            eprintln!("cwasi-native: {error}");
        }
    }
    Ok(())
}

/// Connects a socket that is non-blocking from the start.
pub(super) fn connect(address: SocketAddr, nodelay: bool) -> Result<Stream> {
    let connected = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )
    .and_then(|socket| {
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {
                wait(socket.as_fd(), PollFlags::POLLOUT)?;
                socket.take_error()?.map_or(Ok(()), Err)?;
            }
            done => done?,
        }
        Ok(TcpStream::from(socket))
    });
    let stream = connected.action(|| format!("connect to {address}"))?;
    set_nodelay(&stream, nodelay)?;
    Ok(Stream(stream))
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
