//! The program that tests run under `exec`: this test binary itself, as an echo server or a client of one.
//!
//! Its sockets are non-blocking. The client checks every byte that comes back.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};
use std::os::fd::AsFd;

use super::flood;
use crate::support::patience;
use crate::support::stream::{Position, receive, send, wait_for};

pub const ECHO: &str = "echo";
pub const CALL: &str = "call";
/// Like [`CALL`], on one connection that is there from the beginning, with the bytes and words of the Python programs.
pub const ASK: &str = "ask";
/// See [`flood::deaf`].
pub const DEAF: &str = "deaf";
/// See [`flood::flood`].
pub const FLOOD: &str = "flood";

const ROLE: &str = "PEER_ROLE";
const ADDRESS: &str = "PEER_ADDRESS";

/// Longest message on a stream.
const LONGEST: usize = 128 << 10;

/// Adds to an `exec` the command that makes this binary a peer.
pub fn become_one(exec: &mut Command, role: &str, address: &str) {
    exec.arg(std::env::current_exe().expect("this binary"))
        .args([
            "--ignored",
            "--exact",
            "support_agent::peer::process",
            "--nocapture",
        ])
        .env(ROLE, role)
        .env(ADDRESS, address)
        // An agent's commands are given nothing of the environment.
        .env("CWASI_TEST_PATIENCE", patience().as_secs().to_string());
}

#[test]
#[ignore = "a process that tests start, not a test"]
fn process() {
    let address = std::env::var(ADDRESS)
        .expect("an address")
        .parse()
        .expect("an address");
    match std::env::var(ROLE).expect("a role").as_str() {
        ECHO => echo(address),
        CALL => call(address),
        ASK => ask(address),
        DEAF => flood::deaf(address),
        FLOOD => flood::flood(address),
        other => panic!("no such role: {other}"),
    }
}

/// Tells the test something, on a line of its own whatever the test harness prints.
pub(super) fn answer(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n>{line}\n").as_bytes())
        .expect("write to the test");
    out.flush().expect("write to the test");
}

fn echo(address: SocketAddr) {
    let listener = TcpListener::bind(address).expect("listen");
    listener.set_nonblocking(true).expect("O_NONBLOCK");
    answer("listening");
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                std::thread::spawn(move || reflect(&stream));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut waited = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                poll(&mut waited, PollTimeout::NONE).expect("poll");
            }
            Err(error) => panic!("accept: {error}"),
        }
    }
}

/// Sends everything back. A connection may be silent for as long as it likes.
fn reflect(stream: &TcpStream) {
    stream.set_nonblocking(true).expect("O_NONBLOCK");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let mut buffer = vec![0; LONGEST];
    loop {
        match receive(stream, &mut buffer) {
            Ok(0) => {
                let _ = stream.shutdown(Shutdown::Write);
                return;
            }
            Ok(length) if send(stream, &buffer[..length]).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            // The client sees the connection break, and tells.
            _ => return,
        }
    }
}

pub(super) fn dial(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        done => done?,
    }
    wait_for(&socket, PollFlags::POLLOUT)?;
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(socket.into()),
    }
}

/// Sends and receives a pattern, as told.
fn ask(address: SocketAddr) {
    let stream = dial(address).expect("connect");
    answer("connected");
    for order in std::io::stdin().lines() {
        let order = order.expect("read an order");
        let (word, number) = order.split_once(' ').expect("a word and a number");
        let length: usize = number.parse().expect("a number");
        let pattern: Vec<u8> = b"0123456789abcdefg"
            .iter()
            .copied()
            .cycle()
            .take(length)
            .collect();
        let done = if word == "send" {
            send(&stream, &pattern).map(|()| "sent")
        } else {
            receive_all(&stream, length).map(|bytes| if bytes == pattern { "right" } else { "wrong" })
        };
        answer(&done.map_or_else(|error| error.to_string(), str::to_owned));
    }
}

fn receive_all(stream: &TcpStream, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match receive(stream, &mut bytes[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Streams of bytes to an echo and back.
///
/// The first one waits for its bytes to come back before it sends more. On a busy machine the others may never be read to the end, and
/// stay on TCP; this one always can be redirected.
#[derive(Default)]
struct Streams {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    /// What the first stream alone has received.
    answered: Arc<AtomicU64>,
    threads: Vec<[JoinHandle<Result<u64, String>>; 2]>,
}

fn call(address: SocketAddr) {
    let mut streams = Streams::default();
    let mut kept = Vec::new();
    answer("ready");
    for order in std::io::stdin().lines() {
        let order = order.expect("read an order");
        let (word, number) = order.split_once(' ').unwrap_or((&order, "0"));
        let number: usize = number.parse().expect("a number");
        let done = match word {
            "stream" => (0..number)
                .try_for_each(|_| streams.add(address))
                .map(|()| "streaming".to_owned()),
            "received" => Ok(format!(
                "{} {}",
                streams.received.load(Ordering::Relaxed),
                streams.answered.load(Ordering::Relaxed)
            )),
            "talk" => talk(address, number).map(|(stream, bytes)| {
                let local = stream.local_addr().expect("getsockname");
                kept.push(stream);
                format!("{local} {bytes}")
            }),
            "finish" => std::mem::take(&mut streams)
                .finish()
                .map(|bytes| format!("finished {bytes}")),
            other => Err(format!("no such order: {other}")),
        };
        answer(&done.unwrap_or_else(|error| error));
    }
}

fn said<E: std::fmt::Display>(call: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{call}: {error}")
}

/// Questions of many sizes, each of them sent back.
fn talk(address: SocketAddr, rounds: usize) -> Result<(TcpStream, u64), String> {
    let stream = dial(address).map_err(said("connect"))?;
    let seed = fastrand::u64(..);
    let (mut sent, mut back) = (Position::new(seed), Position::new(seed));
    let mut buffer = vec![0; LONGEST];
    for length in [1, 64, 1000, 4096, 20_000].into_iter().cycle().take(rounds) {
        send(&stream, sent.next(length)).map_err(said("send"))?;
        while back.at < sent.at {
            match receive(&stream, &mut buffer).map_err(said("receive"))? {
                0 => return Err("the end of the connection".to_owned()),
                length => back.check(&buffer[..length])?,
            }
        }
    }
    Ok((stream, sent.at))
}

impl Streams {
    fn add(&mut self, address: SocketAddr) -> Result<(), String> {
        let stream = dial(address).map_err(said("connect"))?;
        let seed = fastrand::u64(..);
        let (stop, received) = (Arc::clone(&self.stop), Arc::clone(&self.received));
        let answered = self.threads.is_empty().then(|| Arc::clone(&self.answered));
        let awaited = answered.clone();
        let writing = stream.try_clone().map_err(said("dup"))?;
        self.threads.push([
            std::thread::spawn(move || write(&writing, seed, &stop, awaited.as_deref())),
            std::thread::spawn(move || read(&stream, seed, &received, answered.as_deref())),
        ]);
        Ok(())
    }

    /// The bytes sent on all streams, which have all come back.
    fn finish(self) -> Result<u64, String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = 0;
        for (number, threads) in self.threads.into_iter().enumerate() {
            let [sent, back] = threads.map(|thread| thread.join().expect("no panic"));
            let tell = |error| format!("stream {number}: {error}");
            let (sent, back) = (sent.map_err(tell)?, back.map_err(tell)?);
            if sent != back {
                return Err(format!("stream {number}: {sent} bytes sent, {back} came back"));
            }
            total += sent;
        }
        Ok(total)
    }
}

fn stall() {
    if fastrand::u32(..8) == 0 {
        std::thread::sleep(Duration::from_micros(fastrand::u64(..4000)));
    }
}

fn write(
    stream: &TcpStream,
    seed: u64,
    stop: &AtomicBool,
    answered: Option<&AtomicU64>,
) -> Result<u64, String> {
    let mut position = Position::new(seed);
    while !stop.load(Ordering::Relaxed) {
        // Small ones are as frequent as large ones.
        let bits = fastrand::u32(..=LONGEST.ilog2());
        let length = fastrand::usize((1 << bits)..=(2_usize << bits).min(LONGEST));
        send(stream, position.next(length))
            .map_err(|error| format!("send near byte {}: {error}", position.at))?;
        stall();
        while answered.is_some_and(|answered| answered.load(Ordering::Relaxed) < position.at)
            && !stop.load(Ordering::Relaxed)
        {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    stream.shutdown(Shutdown::Write).map_err(said("shutdown"))?;
    Ok(position.at)
}

fn read(
    stream: &TcpStream,
    seed: u64,
    received: &AtomicU64,
    answered: Option<&AtomicU64>,
) -> Result<u64, String> {
    let mut position = Position::new(seed);
    let mut buffer = vec![0; LONGEST];
    loop {
        match receive(stream, &mut buffer) {
            Ok(0) => return Ok(position.at),
            Ok(length) => {
                position.check(&buffer[..length])?;
                received.fetch_add(length as u64, Ordering::Relaxed);
                if let Some(answered) = answered {
                    answered.store(position.at, Ordering::Relaxed);
                }
            }
            Err(error) => return Err(format!("receive after byte {}: {error}", position.at)),
        }
        stall();
    }
}
