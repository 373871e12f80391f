//! Readers that find bytes in both queues, redirected ones and TCP's behind them: a read returns the first alone, and comes
//! short. Who waits edge-triggered may take that for the last read, and is left to TCP.

mod support;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;

use cwasi_ebpf_common::maps::{Config, Flow, Sockets};
use cwasi_ebpf_common::reader::MOST_WAITERS;
use cwasi_ebpf_common::reason::Reason;
use nix::poll::PollFlags;
use support::epoll::Epoll;
use support::netns::{Bridged, veth};
use support::node::Node;
use support::pod::Pod;
use support::stream::{Line, wait_for};
use support::{patience, settle};
use tokio::io::AsyncReadExt;

/// Longer than any message but those that fill the budget, which are no divisors of it: a reader's last read comes short.
const BUFFER: usize = 64 << 10;

/// Least, usual and most bytes of TCP's send buffer: more than the tests send to a reader that does not read.
const SEND_BUFFER: &str = "4096 4194304 4194304";

/// A node with two functions, and a listener of the second.
struct Pods {
    node: Node,
    client: Pod,
    server: Pod,
    listener: TcpListener,
}

impl Pods {
    fn new(sockets: Sockets) -> Self {
        let (node, [here, there]) = (Node::new(), veth());
        node.configure(|config| config.budget = Config::MIN_BUDGET);
        // Else TCP would take as much from the start as it has learned to by then, which is a matter of the machine's speed.
        for end in [&here, &there] {
            end.sysctl("ipv4/tcp_wmem", SEND_BUFFER);
        }
        let client = Pod::enrolled_for(&node, &here, sockets);
        let server = Pod::enrolled_for(&node, &there, sockets);
        let listener = server.listen((Bridged::v4(1), 0));
        Self {
            node,
            client,
            server,
            listener,
        }
    }

    fn dial(&self) -> TcpStream {
        let address = self.listener.local_addr().expect("getsockname");
        self.client.dial(address).expect("connect")
    }

    /// Accepts a connection that nobody polls.
    fn accept(&self) -> TcpStream {
        wait_for(&self.listener, PollFlags::POLLIN).expect("a connection to accept");
        let (stream, _) = self.listener.accept().expect("accept");
        stream.set_nonblocking(true).expect("O_NONBLOCK");
        stream
    }

    /// A connection whose accepted end nobody polls.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = self.dial();
        (client, self.accept())
    }

    /// The flow of a sender whose last message went by TCP for a reason.
    #[track_caller]
    fn is_left(&self, from: &TcpStream, reason: Reason) -> Flow {
        let flow = self.node.flow(from);
        assert_eq!(Reason::from_index(flow.reason), Some(reason));
        assert_eq!(flow.sent.redirect_messages, 0);
        flow
    }

    /// Redirects some bytes and sends others by TCP behind them, to a reader that does not read.
    fn fill(&self, spill: Spill, from: &TcpStream, line: &mut Line) {
        self.node.configure(|config| config.enabled = 1);
        match spill {
            Spill::Budget => (0..5).for_each(|_| line.send(from, BUFFER - 100)),
            Spill::Switch => {
                line.send(from, 1000);
                self.node.configure(|config| config.enabled = 0);
            }
            Spill::SmallWrites => (0..20).for_each(|_| line.send(from, 200)),
        }
        line.send(from, 1000);
    }
}

/// What makes a direction go back to TCP while redirected bytes wait.
#[derive(Clone, Copy, Debug)]
enum Spill {
    Budget,
    Switch,
    SmallWrites,
}

const SPILLS: [Spill; 3] = [Spill::Budget, Spill::Switch, Spill::SmallWrites];

/// How a tokio program reads.
#[derive(Clone, Copy, Debug)]
enum Tokio {
    /// By `poll_read`, which takes a short read for the last one, as `AsyncReadExt`, hyper and most others do.
    PollRead,
    /// By `try_read` until it would block.
    TryRead,
}

impl Tokio {
    async fn read(self, stream: &mut tokio::net::TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::PollRead => stream.read(buffer).await,
            Self::TryRead => loop {
                stream.readable().await?;
                match stream.try_read(buffer) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
            },
        }
    }
}

/// A tokio program with one connection, which it watches from the beginning, edge-triggered, and reads when it is told to.
struct Program {
    runtime: tokio::runtime::Runtime,
    stream: tokio::net::TcpStream,
}

impl Program {
    fn new(stream: TcpStream) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let entered = runtime.enter();
        let stream = tokio::net::TcpStream::from_std(stream).expect("register the socket");
        drop(entered);
        Self { runtime, stream }
    }

    /// Reads what was sent and is still missing. Every event of the socket has come by now, as when the program was busy.
    fn drain(&mut self, how: Tokio, line: &mut Line) {
        let mut buffer = vec![0; BUFFER];
        while line.missing() > 0 {
            let read = how.read(&mut self.stream, &mut buffer);
            let read = self
                .runtime
                .block_on(async { tokio::time::timeout(patience(), read).await });
            let missing = line.missing();
            let read = read.unwrap_or_else(|_| panic!("{how:?} hangs beside {missing} bytes"));
            let read = read.expect("read");
            assert_ne!(read, 0, "the end before {missing} bytes");
            line.received.check(&buffer[..read]).expect("the right bytes");
        }
    }

    fn end(&mut self, how: Tokio) {
        let mut buffer = [0; 16];
        let read = how.read(&mut self.stream, &mut buffer);
        let read = self
            .runtime
            .block_on(async { tokio::time::timeout(patience(), read).await });
        assert_eq!(read.expect("the end comes").expect("read"), 0);
    }
}

/// A busy reader of a connection, in each direction, and with the end right behind the bytes.
fn busy_readers(how: Tokio, sockets: Sockets, mut check: impl FnMut(&Node, &TcpStream)) {
    let pods = Pods::new(sockets);
    for spill in SPILLS {
        for of_server in [true, false] {
            for ended in [false, true] {
                pods.node.configure(|config| config.enabled = 1);
                let (client, server) = pods.connect();
                let (from, to) = if of_server {
                    (client, server)
                } else {
                    (server, client)
                };
                let mut program = Program::new(to);
                let mut line = Line::new(1);
                line.send(&from, 1000);
                program.drain(how, &mut line);
                for _ in 0..2 {
                    pods.fill(spill, &from, &mut line);
                    if !ended {
                        // The reader looks when the bytes' events have come, too.
                        settle();
                        program.drain(how, &mut line);
                    }
                }
                from.shutdown(Shutdown::Write).expect("shutdown");
                settle();
                program.drain(how, &mut line);
                program.end(how);
                check(&pods.node, &from);
            }
        }
    }
}

/// The bug that would be: the program sleeps beside bytes of its own, for ever if its peer waits for an answer.
#[test]
fn a_reader_that_takes_a_short_read_for_the_last_is_left_to_tcp() {
    needs!();
    busy_readers(Tokio::PollRead, Sockets::NonBlocking, |node, from| {
        let flow = node.flow(from);
        assert_eq!(flow.sent.redirect_messages, 0);
        assert_eq!(
            flow.fallbacks[Reason::EdgeTriggered.index()],
            1,
            "counted once a direction"
        );
    });
}

#[test]
fn a_reader_that_is_vouched_for_reads_until_eagain() {
    needs!();
    busy_readers(Tokio::TryRead, Sockets::All, |node, from| {
        let flow = node.flow(from);
        assert_eq!(flow.fallbacks[Reason::EdgeTriggered.index()], 0);
        assert!(
            flow.sent.redirect_messages > 0 && flow.sent.to_tcp > 0,
            "{flow:?}"
        );
    });
}

#[test]
fn edge_triggered_readers_are_counted_when_they_are_gone() {
    needs!();
    let pods = Pods::new(Sockets::NonBlocking);
    let (from, to) = pods.connect();
    let epoll = Epoll::new();
    epoll.add(&to, libc::EPOLLIN | libc::EPOLLET);
    let mut line = Line::new(1);
    for _ in 0..5 {
        line.send(&from, 1000);
        line.drain(&to);
    }
    pods.is_left(&from, Reason::EdgeTriggered);
    drop((from, to));
    pods.node.settles();
    let traffic = pods.node.traffic(pods.client.id, pods.server.id);
    assert_eq!(traffic.fallbacks[Reason::EdgeTriggered.index()], 1);
    assert_eq!(traffic.sent.tcp_messages, 5);
}

/// Programs that are told as long as there are bytes.
#[test]
fn level_triggered_readers_are_redirected_to() {
    needs!();
    let pods = Pods::new(Sockets::NonBlocking);
    for events in [
        libc::EPOLLIN,
        libc::EPOLLIN | libc::EPOLLONESHOT,
        libc::EPOLLRDNORM,
    ] {
        let (from, to) = pods.connect();
        let epoll = Epoll::new();
        epoll.add(&to, events);
        let mut line = Line::new(1);
        line.send(&from, 1000);
        line.drain(&to);
        assert_eq!(pods.node.flow(&from).sent.redirect_bytes, 1000, "{events:x}");
    }
}

#[test]
fn a_reader_that_sleeps_in_poll_is_redirected_to() {
    needs!();
    let pods = Pods::new(Sockets::NonBlocking);
    let (from, to) = pods.connect();
    let (read, progress) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut line = Line::new(1);
        // 0 at the end.
        while line.receive_some(&to, BUFFER).expect("receive") > 0 {
            read.send(line.received.at).expect("the test waits");
        }
        line.received.at
    });
    let mut line = Line::new(1);
    // A message may find the reader between two polls.
    support::eventually("the reader is seen", || {
        line.send(&from, 1000);
        while progress.recv_timeout(patience()).expect("progress") < line.sent.at {}
        settle();
        pods.node.flow(&from).sent.redirect_messages > 0
    });
    from.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(reader.join().expect("no panic"), line.sent.at);
}

/// Nothing tells yet how the connection will be read.
#[test]
fn what_comes_before_anyone_polls_goes_by_tcp() {
    needs!();
    let pods = Pods::new(Sockets::NonBlocking);
    let from = pods.dial();
    let mut line = Line::new(1);
    line.send(&from, 1000);
    pods.is_left(&from, Reason::Unpolled);
    let to = pods.accept();
    line.drain(&to);
    line.send(&from, 1000);
    pods.is_left(&from, Reason::Unpolled);
    line.drain(&to);
    // As a program that connects, or has something to send, may do whatever it does later.
    let epoll = Epoll::new();
    epoll.add(&to, libc::EPOLLOUT);
    line.send(&from, 1000);
    let flow = pods.is_left(&from, Reason::Unpolled);
    assert_eq!(flow.fallbacks, [0; Reason::ALL.len()], "it is only a beginning");
    line.drain(&to);
    support::epoll::watch(&to);
    line.send(&from, 1000);
    line.drain(&to);
    assert_eq!(pods.node.flow(&from).sent.redirect_messages, 1);
}

/// A launcher that vouches for a function vouches for connections that it has not accepted.
#[test]
fn a_function_that_is_vouched_for_need_not_be_seen() {
    needs!();
    let pods = Pods::new(Sockets::All);
    let from = pods.dial();
    let mut line = Line::new(1);
    line.send(&from, 1000);
    line.drain(&pods.accept());
    assert_eq!(pods.node.flow(&from).sent.redirect_messages, 1);
}

#[test]
fn of_several_that_poll_one_edge_triggered_is_enough() {
    needs!();
    let pods = Pods::new(Sockets::NonBlocking);
    let waiters = usize::try_from(MOST_WAITERS).expect("a few");
    for at in 0..waiters {
        let (from, to) = pods.connect();
        let epolls: Vec<_> = (0..waiters).map(|_| Epoll::new()).collect();
        for (number, epoll) in epolls.iter().enumerate() {
            let edge = if number == at { libc::EPOLLET } else { 0 };
            epoll.add(&to, libc::EPOLLIN | edge);
        }
        Line::new(1).send(&from, 1000);
        pods.is_left(&from, Reason::EdgeTriggered);
    }
    for (more, reason) in [(0, None), (1, Some(Reason::Unpolled))] {
        let (from, to) = pods.connect();
        let epolls: Vec<_> = (0..waiters + more).map(|_| Epoll::new()).collect();
        epolls.iter().for_each(|epoll| epoll.add(&to, libc::EPOLLIN));
        Line::new(1).send(&from, 1000);
        match reason {
            None => assert_eq!(pods.node.flow(&from).sent.redirect_messages, 1),
            Some(reason) => drop(pods.is_left(&from, reason)),
        }
    }
}

/// The other way round: what came by TCP is unread, and nothing is redirected before it was read.
#[test]
fn bytes_of_tcp_are_read_before_redirection_begins() {
    needs!();
    for sockets in [Sockets::NonBlocking, Sockets::All] {
        let pods = Pods::new(sockets);
        let (from, to) = pods.connect();
        support::epoll::watch(&to);
        pods.node.configure(|config| config.enabled = 0);
        let mut line = Line::new(1);
        line.send(&from, 1000);
        pods.node.configure(|config| config.enabled = 1);
        for _ in 0..3 {
            line.send(&from, 1000);
            pods.is_left(&from, Reason::Undrained);
        }
        line.expect(&to, 3999);
        line.send(&from, 1000);
        pods.is_left(&from, Reason::Undrained);
        line.drain(&to);
        line.send(&from, 1000);
        assert_eq!(pods.node.flow(&from).sent.redirect_bytes, 1000);
        line.drain(&to);
    }
}
