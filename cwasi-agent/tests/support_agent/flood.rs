//! Functions that mean ill: they open connections without end, or never read.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use super::peer::{answer, dial};
use crate::support::stream::wait_for;
use crate::support::tcp::reset_on_close;

/// Threads that open connections.
const THREADS: usize = 4;
/// How long a sender that is not taken anything waits before it gives up.
const STALLED: Duration = Duration::from_millis(300);

/// Accepts every connection, and never reads from any.
pub(super) fn deaf(address: SocketAddr) {
    let listener = TcpListener::bind(address).expect("listen");
    listener.set_nonblocking(true).expect("O_NONBLOCK");
    answer("listening");
    let mut accepted: Vec<TcpStream> = Vec::new();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true).expect("O_NONBLOCK");
                accepted.push(stream);
                if accepted.len().is_multiple_of(128) {
                    accepted.retain(is_open);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                accepted.retain(is_open);
                let _ = wait_for(&listener, PollFlags::POLLIN);
            }
            Err(error) => panic!("accept: {error}"),
        }
    }
}

/// Whether the other end is there; to look takes nothing out of the queue.
fn is_open(stream: &TcpStream) -> bool {
    let gone = PollFlags::from_bits_retain(libc::POLLRDHUP);
    let mut waited = [PollFd::new(stream.as_fd(), gone)];
    let looked = poll(&mut waited, PollTimeout::ZERO);
    looked.expect("poll") == 0
}

/// The address, or the next one of the 65536 beside it: of a destination that gains nothing, no further connections would be enrolled.
fn next(address: SocketAddr) -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let IpAddr::V4(v4) = address.ip() else {
        return address;
    };
    let [a, b, ..] = v4.octets();
    let [c, d] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    SocketAddr::from(([a, b, c, d], address.port()))
}

/// Opens connections to a `/16`, as it is told.
pub(super) fn flood(address: SocketAddr) {
    let mut kept: Vec<Socket> = Vec::new();
    answer("ready");
    for order in std::io::stdin().lines() {
        let order = order.expect("read an order");
        let (word, number) = order.split_once(' ').expect("a word and a number");
        let number: usize = number.parse().expect("a number");
        let done = match word {
            "churn" => churn(address, number),
            "hold" => {
                (0..number).try_for_each(|_| dial(next(address)).map(|stream| kept.push(stream.into())))
            }
            "half" => half_open(number, &mut kept),
            "self" => to_itself(number),
            "push" => {
                answer(&push(address, number, &mut kept));
                continue;
            }
            other => panic!("no such order: {other}"),
        };
        answer(&done.map_or_else(|error| error.to_string(), |()| "done".to_owned()));
    }
}

/// Opens connections and closes them at once, in every way, as fast as it can.
fn churn(address: SocketAddr, connections: usize) -> std::io::Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(move || {
                    (0..connections / THREADS).try_for_each(|number| {
                        let mut stream = dial(next(address))?;
                        match number % 3 {
                            0 => reset_on_close(&stream),
                            1 => stream.write_all(b"x")?,
                            _ => {}
                        }
                        Ok(())
                    })
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic"))
    })
}

/// Begins connections that are never made: to a listener of its own with a full backlog.
fn half_open(connections: usize, kept: &mut Vec<Socket>) -> std::io::Result<()> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(1)?;
    let address = listener.local_addr()?;
    kept.push(listener);
    for _ in 0..connections {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => kept.push(socket),
        }
    }
    Ok(())
}

/// Connections to a listener of its own, and sockets that dial themselves.
fn to_itself(connections: usize) -> std::io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    for number in 0..connections {
        if number % 2 == 0 {
            let mut dialled = dial(address)?;
            let (accepted, _) = listener.accept()?;
            dialled.write_all(b"to itself")?;
            drop(accepted);
            continue;
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let own = socket.local_addr()?;
        socket.connect(&own)?;
        socket.send(b"to itself")?;
        // TIME_WAIT would keep the port.
        reset_on_close(&socket.into());
    }
    Ok(())
}

/// Sends on each of some connections until nothing more is taken; tells the most bytes that one of them was taken.
fn push(address: SocketAddr, connections: usize, kept: &mut Vec<Socket>) -> String {
    let mut most = 0;
    for _ in 0..connections {
        let stream = match dial(next(address)) {
            Ok(stream) => stream,
            Err(error) => return format!("connect: {error}"),
        };
        match fill(&stream) {
            Ok(sent) => most = most.max(sent),
            Err(error) => return format!("send: {error}"),
        }
        kept.push(stream.into());
    }
    most.to_string()
}

fn fill(mut stream: &TcpStream) -> std::io::Result<usize> {
    let message = [7; 64 << 10];
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < STALLED {
        match stream.write(&message) {
            Ok(taken) => (sent, last) = (sent + taken, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
