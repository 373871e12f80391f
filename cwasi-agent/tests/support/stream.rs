//! Bytes that tell where in which stream they belong, over non-blocking sockets.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::patience;

/// Length of the table of random bytes: a prime, so that no page, message or segment boundary repeats in it.
const PERIOD: usize = 1_048_583;
/// The longest slice that [`Position::next`] gives.
pub const LONGEST: usize = 1 << 20;

/// The random bytes, long enough that every slice of [`LONGEST`] bytes is in one piece.
fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = vec![0; PERIOD];
        fastrand::Rng::with_seed(1).fill(&mut table);
        table.extend_from_within(..);
        table
    })
}

/// Waits for an event of a socket; an error or an end is one too. Fails with `TimedOut` after [`patience`].
pub fn wait_for(socket: &impl AsFd, events: PollFlags) -> io::Result<()> {
    let timeout = PollTimeout::try_from(patience()).expect("a short time");
    match poll(&mut [PollFd::new(socket.as_fd(), events)], timeout)? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Sends all of the bytes.
pub fn send(mut stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_for(stream, PollFlags::POLLOUT)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Receives what there is, at least one byte unless the stream ends.
pub fn receive(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_for(stream, PollFlags::POLLIN)?,
            done => return done,
        }
    }
}

/// A place in an endless stream of bytes, which its seed chooses.
#[derive(Clone, Debug)]
pub struct Position {
    start: u64,
    /// Bytes before this place.
    pub at: u64,
}

impl Position {
    /// The beginning of a stream.
    pub fn new(seed: u64) -> Self {
        Self {
            start: fastrand::Rng::with_seed(seed).u64(..1 << 40),
            at: 0,
        }
    }

    /// The bytes that follow, without moving on.
    pub fn peek(&self, len: usize) -> &'static [u8] {
        let from = usize::try_from((self.start + self.at) % PERIOD as u64).expect("less than the table");
        &table()[from..][..len]
    }

    /// The bytes that follow.
    pub fn next(&mut self, len: usize) -> &'static [u8] {
        let bytes = self.peek(len);
        self.at += len as u64;
        bytes
    }

    /// Whether these bytes follow, and where not if not.
    pub fn check(&mut self, bytes: &[u8]) -> Result<(), String> {
        for chunk in bytes.chunks(LONGEST) {
            let expected = self.peek(chunk.len());
            if chunk != expected {
                let wrong = chunk
                    .iter()
                    .zip(expected)
                    .position(|(found, expected)| found != expected);
                return Err(format!(
                    "byte {} is not the one that was sent",
                    self.at + wrong.unwrap_or(0) as u64
                ));
            }
            self.at += chunk.len() as u64;
        }
        Ok(())
    }
}

/// One direction of a connection, sent and checked by the test.
pub struct Line {
    /// What is sent next.
    pub sent: Position,
    /// What must be received next.
    pub received: Position,
}

impl Line {
    /// An unused direction.
    pub fn new(seed: u64) -> Self {
        Self {
            sent: Position::new(seed),
            received: Position::new(seed),
        }
    }

    /// Sends the next bytes, all of them.
    pub fn send(&mut self, stream: &TcpStream, len: usize) {
        send(stream, self.sent.next(len))
            .unwrap_or_else(|error| panic!("send at byte {}: {error}", self.sent.at));
    }

    /// Sends as many of the next bytes as one call takes.
    pub fn send_some(&mut self, mut stream: &TcpStream, len: usize) -> io::Result<usize> {
        let sent = stream.write(self.sent.peek(len))?;
        self.sent.at += sent as u64;
        Ok(sent)
    }

    /// Receives exactly so many bytes, which must be the next ones.
    pub fn expect(&mut self, stream: &TcpStream, len: usize) {
        let goal = self.received.at + len as u64;
        while self.received.at < goal {
            let received = self.receive_some(stream, len.min(LONGEST).min(to_usize(goal - self.received.at)));
            let received =
                received.unwrap_or_else(|error| panic!("receive after byte {}: {error}", self.received.at));
            assert_ne!(received, 0, "the end after byte {}", self.received.at);
        }
    }

    /// Receives what there is, up to so many bytes, which must be the next ones; 0 at the end.
    pub fn receive_some(&mut self, stream: &TcpStream, most: usize) -> io::Result<usize> {
        let mut buffer = vec![0; most];
        let received = receive(stream, &mut buffer)?;
        self.received
            .check(&buffer[..received])
            .unwrap_or_else(|wrong| panic!("{wrong}"));
        Ok(received)
    }

    /// Bytes sent and not received.
    pub fn missing(&self) -> usize {
        to_usize(self.sent.at - self.received.at)
    }

    /// Receives all that was sent and is still missing.
    pub fn drain(&mut self, stream: &TcpStream) {
        self.expect(stream, self.missing());
    }

    /// Receives the end, after all that was sent.
    pub fn end(&mut self, stream: &TcpStream) {
        self.drain(stream);
        let end = receive(stream, &mut [0; 16]).expect("read the end");
        assert_eq!(end, 0, "bytes after the last one");
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("64 bits")
}

/// Both directions of a connection.
pub struct Talk<'a> {
    /// The end that dialled.
    pub client: &'a TcpStream,
    /// The end that accepted.
    pub server: &'a TcpStream,
    /// Client to server.
    pub up: Line,
    /// Server to client.
    pub down: Line,
}

impl<'a> Talk<'a> {
    /// A connection on which nothing was sent.
    pub fn new((client, server): &'a (TcpStream, TcpStream), seed: u64) -> Self {
        Self {
            client,
            server,
            up: Line::new(seed),
            down: Line::new(!seed),
        }
    }

    /// A question and an answer.
    pub fn round_trip(&mut self, len: usize) {
        self.up.send(self.client, len);
        self.up.expect(self.server, len);
        self.down.send(self.server, len);
        self.down.expect(self.client, len);
    }

    /// Questions and answers of many sizes. Returns the bytes of one direction.
    pub fn converse(&mut self) -> u64 {
        let before = self.up.sent.at;
        for len in [1, 64, 1000, 1, 4096, 20_000, 65_536] {
            self.round_trip(len);
        }
        self.up.sent.at - before
    }
}
