//! Unusual handshakes: whatever becomes of the pair, every byte arrives where it was sent to.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use cwasi_ebpf_common::reason::Reason;
use nix::poll::PollFlags;
use socket2::Socket;
use support::netns::{Bridged, NetNs, veth};
use support::node::Node;
use support::pod::{Pod, accept, connect, pair};
use support::probe::Need;
use support::stream::{Line, Talk, receive, send, wait_for};
use support::tcp;

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The client sends as soon as connect returns, the server as soon as accept does: from several threads, many times.
#[test]
fn first_messages_arrive_in_order() {
    needs!();
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 250;
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let seed = support::seed("first_messages_arrive_in_order");
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, server) = (&client, &server);
            scope.spawn(move || {
                let listener = server.listen((Bridged::v4(1), 0));
                let address = listener.local_addr().unwrap();
                let mut random = fastrand::Rng::with_seed(seed + thread);
                for _ in 0..ROUNDS {
                    let dialled = client.dial(address).unwrap();
                    let lens = [
                        random.usize(1..4000),
                        random.usize(1..100_000),
                        random.usize(1..4000),
                    ];
                    let mut up = Line::new(random.u64(..));
                    // The accepting end exists only when these are under way, or arrived.
                    up.send(&dialled, lens[0]);
                    up.send(&dialled, lens[1]);
                    let connection = (dialled, accept(&listener));
                    let mut talk = Talk::new(&connection, random.u64(..));
                    talk.up = up;
                    talk.down.send(talk.server, lens[2]);
                    talk.up.send(talk.client, lens[2]);
                    talk.up.drain(talk.server);
                    talk.down.drain(talk.client);
                    talk.round_trip(100);
                }
            });
        }
    });
    node.settles();
    for (src, dst) in [(client.id, server.id), (server.id, client.id)] {
        let sums = node.traffic(src, dst);
        assert_eq!(
            sums.connections,
            THREADS * ROUNDS,
            "every connection became a pair"
        );
        assert!(sums.sent.redirect_bytes > 0);
    }
}

/// The server's socket is made when the first bytes arrive: they go by TCP, what comes after does not.
#[test]
fn deferred_accept_pairs_with_the_first_bytes() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen_with((Bridged::v4(1), 0), |socket| {
        tcp::set(socket, libc::TCP_DEFER_ACCEPT, 5);
    });
    for round in 0..20 {
        let dialled = client.dial(listener.local_addr().unwrap()).unwrap();
        thread::sleep(Duration::from_millis(2));
        let mut up = Line::new(round);
        up.send(&dialled, 1000);
        let connection = (dialled, accept(&listener));
        let mut talk = Talk::new(&connection, round);
        talk.up = up;
        talk.up.drain(talk.server);
        talk.converse();
        let sent = node.flow(talk.client).sent;
        assert_eq!(
            (sent.tcp_bytes, sent.tcp_messages),
            (1000, 1),
            "the first message, by TCP"
        );
        assert_eq!(sent.redirect_bytes, talk.up.sent.at - 1000);
        assert_eq!(node.flow(talk.server).sent.tcp_bytes, 0);
    }
}

/// Dials with the bytes in the SYN.
fn dial_with_data(client: &Pod, address: SocketAddr, bytes: &[u8]) -> Socket {
    let socket = client.socket(address.ip());
    match socket.send_to_with_flags(bytes, &address.into(), libc::MSG_FASTOPEN) {
        // Without a cookie of the server the SYN goes alone, and the bytes are not taken.
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            wait_for(&socket, PollFlags::POLLOUT).unwrap();
            assert_eq!(socket.send(bytes).unwrap(), bytes.len());
        }
        sent => assert_eq!(sent.unwrap(), bytes.len()),
    }
    socket
}

/// Data in the SYN makes the server's socket before the client's is established: no pair, plain TCP, and nothing lost.
#[test]
fn fast_open_is_left_to_tcp() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    here.sysctl("ipv4/tcp_fastopen", "3");
    there.sysctl("ipv4/tcp_fastopen", "3");
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen_with((Bridged::v4(1), 0), |socket| {
        tcp::set(socket, libc::TCP_FASTOPEN, 16);
    });
    let mut with_data = 0;
    for round in 0..10 {
        let mut up = Line::new(round);
        let dialled = dial_with_data(&client, listener.local_addr().unwrap(), up.sent.next(500));
        let connection = (dialled.into(), accept(&listener));
        let mut talk = Talk::new(&connection, round);
        talk.up = up;
        talk.up.drain(talk.server);
        talk.converse();
        if tcp::info(talk.client).options & tcp::SYN_DATA != 0 {
            with_data += 1;
            let flow = node.flow(talk.client);
            assert_eq!(flow.reason, Reason::Unpaired as u32);
            assert_eq!(flow.sent.redirect_bytes, 0);
            assert_eq!(node.flow_of(talk.server), None);
        }
    }
    assert!(
        with_data >= 8,
        "{with_data} of 10 connections carried data in their SYN"
    );
}

/// TCP_FASTOPEN_CONNECT: connect does nothing, and the first write is the SYN's data.
#[test]
fn fast_open_by_connect_is_left_to_tcp() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    here.sysctl("ipv4/tcp_fastopen", "3");
    there.sysctl("ipv4/tcp_fastopen", "3");
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen_with((Bridged::v4(1), 0), |socket| {
        tcp::set(socket, libc::TCP_FASTOPEN, 16);
    });
    for round in 0..10 {
        let dialled = client
            .dial_with(listener.local_addr().unwrap(), |socket| {
                tcp::set(socket, libc::TCP_FASTOPEN_CONNECT, 1);
            })
            .unwrap();
        let mut up = Line::new(round);
        up.send(&dialled, 500);
        let connection = (dialled, accept(&listener));
        let mut talk = Talk::new(&connection, round);
        talk.up = up;
        talk.up.drain(talk.server);
        talk.converse();
    }
    node.settles();
}

/// With a cookie the server's socket is made of the last packet of the handshake, and its sequence number is the cookie.
#[test]
fn syn_cookies_pair_like_any_handshake() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    there.sysctl("ipv4/tcp_syncookies", "2");
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 0));
    for round in 0..20 {
        let connection = connect(&client, &listener, listener.local_addr().unwrap());
        let mut talk = Talk::new(&connection, round);
        let bytes = talk.converse();
        for stream in [talk.client, talk.server] {
            let sent = node.flow(stream).sent;
            assert_eq!((sent.redirect_bytes, sent.tcp_bytes), (bytes, 0));
        }
    }
}

/// Both ends dial: neither listens, and each gets the other's SYN after its own.
#[test]
fn simultaneous_open_loses_nothing() {
    needs!(Need::Nft);
    let (node, [here, there]) = (Node::new(), veth());
    let pods = [Pod::enrolled(&node, &here), Pod::enrolled(&node, &there)];
    // The first SYN finds nobody: without the reset that answers it, its sender waits for the other's.
    for netns in [&here, &there] {
        netns.nft(
            "table ip quiet {
                chain output {
                    type filter hook output priority 0;
                    tcp flags & rst == rst drop
                }
            }",
        );
    }
    for round in 0..10 {
        let ends: [SocketAddr; 2] =
            [0, 1].map(|end| (Bridged::v4(end), 41_000 + u16::try_from(round).unwrap()).into());
        let sockets: Vec<Socket> = (0..2)
            .map(|end| {
                let socket = pods[end].socket(ends[end].ip());
                socket.bind(&ends[end].into()).unwrap();
                let dialled = socket.connect(&ends[1 - end].into());
                assert_eq!(dialled.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
                socket
            })
            .collect();
        let streams = sockets.into_iter().map(|socket| {
            wait_for(&socket, PollFlags::POLLOUT).unwrap();
            assert!(socket.take_error().unwrap().is_none());
            TcpStream::from(socket)
        });
        let streams: Vec<TcpStream> = streams.collect();
        let connection = <(TcpStream, TcpStream)>::from(<[TcpStream; 2]>::try_from(streams).unwrap());
        let mut talk = Talk::new(&connection, round);
        talk.converse();
        talk.round_trip(100_000);
    }
    node.settles();
}

/// A socket that dials its own address is both ends of its connection.
#[test]
fn self_connect_gets_its_own_bytes() {
    needs!();
    let (node, netns) = (Node::new(), NetNs::new());
    let pod = Pod::enrolled(&node, &netns);
    for round in 0..10_u16 {
        let own = SocketAddr::from((LOCALHOST, 42_000 + round));
        let stream = pod
            .dial_with(own, |socket| socket.bind(&own.into()).unwrap())
            .unwrap();
        assert_eq!(stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let mut line = Line::new(u64::from(round));
        for len in [1, 1000, 50_000] {
            line.send(&stream, len);
            line.drain(&stream);
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        line.end(&stream);
    }
    node.settles();
}

/// A connection that nobody accepts: its client's bytes wait in the listener's backlog, and come out of the accepted socket.
#[test]
fn bytes_sent_before_accept_wait_for_it() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 0));
    let mut waiting = Vec::new();
    for seed in 0..20 {
        let dialled = client.dial(listener.local_addr().unwrap()).unwrap();
        let mut line = Line::new(seed);
        line.send(&dialled, 10_000);
        waiting.push((dialled, line));
    }
    thread::sleep(Duration::from_millis(50));
    for (dialled, mut line) in waiting {
        let accepted = accept(&listener);
        dialled.shutdown(std::net::Shutdown::Write).unwrap();
        line.end(&accepted);
    }
}

/// A refused connection is refused as ever, and leaves nothing behind.
#[test]
fn a_refused_connection_leaves_nothing() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let client = Pod::enrolled(&node, &here);
    let server = Pod::enrolled(&node, &there);
    let closed = server.listen((Bridged::v4(1), 0)).local_addr().unwrap();
    for _ in 0..10 {
        let refused = client.dial(closed).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    node.settles();
}

/// A listener that is closed with connections in its backlog resets them.
#[test]
fn a_listener_closed_over_its_backlog_resets_it() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 0));
    let dialled = client.dial(listener.local_addr().unwrap()).unwrap();
    send(&dialled, &[1; 1000]).unwrap();
    drop(listener);
    let ended = receive(&dialled, &mut [0; 16]).unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    drop(dialled);
    node.settles();
}

/// One end in IPv4 on a `::` listener, the other in IPv6, at the same port at the same time: two pairs.
#[test]
fn both_families_of_one_listener_pair() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen(("::".parse::<IpAddr>().unwrap(), 8080));
    let connections = [IpAddr::V4(Bridged::v4(1)), IpAddr::V6(Bridged::v6(1))]
        .map(|address| connect(&client, &listener, (address, 8080)));
    for connection in &connections {
        let bytes = Talk::new(connection, 3).converse();
        assert_eq!(node.flow(&connection.0).sent.redirect_bytes, bytes);
    }
    drop(pair(&client, &server, Bridged::v4(1)));
}
