//! Destinations that gain nothing are no longer enrolled; those that gain again are found again.

mod support;

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

use cwasi_agent::plane::Plane;
use cwasi_ebpf_common::learn::{PROBE_EVERY, Record, TRIAL, WINDOW};
use cwasi_ebpf_common::maps::{Config, Destination};
use cwasi_ebpf_common::reason::Reason;
use nix::poll::PollFlags;
use support::netns::{Bridged, veth};
use support::node::{Node, mapped};
use support::pod::{Pod, connect, pair};
use support::stream::{Line, Talk, wait_for};

/// A node that learns, with a client and a server.
struct School {
    node: Node,
    client: Pod,
    server: Pod,
    listener: TcpListener,
}

impl School {
    fn new() -> Self {
        let (node, [here, there]) = (Node::new(), veth());
        node.configure(|config| config.learn = 1);
        let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
        let listener = server.listen((Bridged::v4(1), 8080));
        Self {
            node,
            client,
            server,
            listener,
        }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// One connection, used as told. Returns whether it was enrolled, when all of it has been accounted for.
    fn connection(&self, use_it: impl FnOnce(&(TcpStream, TcpStream))) -> bool {
        let connection = connect(&self.client, &self.listener, self.address());
        let enrolled = self.node.flow_of(&connection.0).is_some();
        use_it(&connection);
        drop(connection);
        self.node.settles();
        enrolled
    }

    fn one_request(&self) -> bool {
        self.connection(|connection| Talk::new(connection, 1).round_trip(100))
    }

    fn chatty(&self) -> bool {
        self.connection(|connection| {
            let mut talk = Talk::new(connection, 1);
            for _ in 0..200 {
                talk.round_trip(100);
            }
        })
    }

    fn record(&self) -> Record {
        let destination = Destination {
            addr: mapped(self.address().ip()),
            function: self.client.id,
            port: 8080,
        };
        let record = self.node.with_plane(|plane| plane.learned(&destination)).unwrap();
        record.expect("something is known of the destination")
    }
}

#[test]
fn one_request_a_connection_is_learned_away_but_for_probes() {
    needs!();
    let school = School::new();
    let enrolled: Vec<bool> = (0..TRIAL + 3 * PROBE_EVERY)
        .map(|_| school.one_request())
        .collect();
    let (trial, after) = enrolled.split_at(TRIAL as usize);
    assert!(trial.iter().all(|enrolled| *enrolled), "{trial:?}");
    for round in after.chunks(PROBE_EVERY as usize) {
        let (probe, others) = round.split_last().unwrap();
        assert!(*probe, "one in {PROBE_EVERY} is a probe");
        assert!(!others.contains(&true), "the others are left to TCP");
    }
    let left = school.node.left(school.client.id, Reason::Learned);
    assert_eq!(left, u64::from(3 * (PROBE_EVERY - 1)));
    assert!(school.record().balance < 0);
}

#[test]
fn a_destination_that_becomes_chatty_is_enrolled_again() {
    needs!();
    let school = School::new();
    for _ in 0..TRIAL {
        school.one_request();
    }
    assert!(!school.one_request());
    let found = (0..PROBE_EVERY).take_while(|_| !school.chatty()).count();
    assert!(found < PROBE_EVERY as usize, "no probe among {found} connections");
    for _ in 0..10 {
        assert!(school.chatty(), "{:?}", school.record());
    }
    assert!(school.record().balance > 0);
}

#[test]
fn chatty_connections_are_never_left_to_tcp() {
    needs!();
    let school = School::new();
    for _ in 0..50 {
        assert!(school.chatty());
    }
    assert_eq!(school.node.left(school.client.id, Reason::Learned), 0);
}

#[test]
fn destinations_are_learned_apart() {
    needs!();
    let school = School::new();
    for _ in 0..=TRIAL {
        school.one_request();
    }
    assert!(!school.one_request());
    let other = pair(&school.client, &school.server, Bridged::v4(1));
    assert!(
        school.node.flow_of(&other.0).is_some(),
        "another port is another destination"
    );
    let stranger = Pod::enrolled(&school.node, &school.client.netns);
    let connection = connect(&stranger, &school.listener, school.address());
    assert!(
        school.node.flow_of(&connection.0).is_some(),
        "another function has its own gains"
    );
}

/// Answers with a file, as a web server does.
fn send_file(stream: &TcpStream, file: &File, len: usize) {
    let (mut offset, end) = (0, i64::try_from(len).unwrap());
    while offset < end {
        // SAFETY: both descriptors are open, and the offset outlives the call.
        let sent = unsafe { libc::sendfile64(stream.as_raw_fd(), file.as_raw_fd(), &raw mut offset, len) };
        if sent < 0 {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "sendfile: {error}");
            wait_for(stream, PollFlags::POLLOUT).unwrap();
        }
    }
}

#[test]
fn sendfile_is_redirected_and_stays_so() {
    needs!();
    const LENGTH: usize = 1 << 20;
    let school = School::new();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(Line::new(3).sent.next(LENGTH)).unwrap();
    for number in 0..WINDOW + 2 * TRIAL {
        let enrolled = school.connection(|connection| {
            let (client, server) = connection;
            let (mut question, mut answer) = (Line::new(4), Line::new(3));
            question.send(client, 100);
            question.drain(server);
            thread::scope(|scope| {
                scope.spawn(|| send_file(server, &file, LENGTH));
                answer.expect(client, LENGTH);
            });
            let sent = school.node.flow(server).sent;
            assert_eq!(
                (sent.redirect_bytes, sent.tcp_bytes),
                (LENGTH as u64, 0),
                "{number}: {sent:?}"
            );
        });
        assert!(enrolled, "{number}: {:?}", school.record());
    }
    assert!(school.record().balance > 0);
}

/// Many writes of one length without an answer, with Nagle or without.
fn stream_of_writes(len: usize, nagle: bool, redirected: bool) {
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let streak = Config::default().small_streak;
    let (from, to) = pair(&client, &server, Bridged::v4(1));
    from.set_nodelay(!nagle).unwrap();
    let mut line = Line::new(1);
    for _ in 0..4 * streak {
        line.send(&from, len);
    }
    line.drain(&to);
    let flow = node.flow(&from);
    if redirected {
        assert_eq!(flow.sent.redirect_messages, u64::from(4 * streak));
        assert_eq!(flow.small_messages, 0);
    } else {
        assert_eq!(flow.sent.redirect_messages, u64::from(streak));
        assert_eq!(flow.reason, Reason::SmallWrites as u32);
        assert_eq!(flow.fallbacks[Reason::SmallWrites.index()], 1);
        assert_eq!(flow.small_messages, u64::from(3 * streak));
    }
    // A large message ends the stream of small ones.
    line.send(&from, 100_000);
    line.drain(&to);
    assert!(node.flow(&from).sent.redirect_bytes >= 100_000);
}

#[test]
fn streams_of_small_writes_go_by_tcp() {
    needs!();
    let config = Config::default();
    let (tiny, small) = (config.tiny_write as usize, config.small_write as usize);
    for nagle in [true, false] {
        stream_of_writes(tiny, nagle, false);
        stream_of_writes(small - 1, nagle, false);
        stream_of_writes(small, nagle, true);
    }
}

#[test]
fn streams_of_tiny_writes_go_by_tcp_only_with_nagle() {
    needs!();
    let tiny = Config::default().tiny_write as usize;
    stream_of_writes(tiny - 1, true, false);
    stream_of_writes(tiny - 1, false, true);
}

#[test]
fn questions_and_answers_are_no_stream_of_small_writes() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let connection = pair(&client, &server, Bridged::v4(1));
    connection.0.set_nodelay(false).unwrap();
    connection.1.set_nodelay(false).unwrap();
    let mut talk = Talk::new(&connection, 1);
    for _ in 0..200 {
        talk.round_trip(100);
    }
    for stream in [&connection.0, &connection.1] {
        let flow = node.flow(stream);
        assert_eq!((flow.sent.redirect_messages, flow.small_messages), (200, 0));
    }
}
