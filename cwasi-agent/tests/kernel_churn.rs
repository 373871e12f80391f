//! Many connections, at once and one after the other: every map is empty after, and every sum is right.

mod support;

use std::net::SocketAddr;
use std::thread;

use cwasi_agent::plane::Plane;
use cwasi_ebpf_common::maps::{Destination, EventKind};
use cwasi_ebpf_common::reason::Reason;
use support::netns::{Bridged, NetNs, veth};
use support::node::{Node, mapped};
use support::pod::{Pod, accept, connect};
use support::stream::Line;
use support::tcp;

#[test]
fn a_thousand_connections_at_once() {
    needs!();
    const CONNECTIONS: usize = 1000;
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 0));
    let address = listener.local_addr().unwrap();
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|_| connect(&client, &listener, address))
        .collect();
    let mut lines: Vec<[Line; 2]> = (0..CONNECTIONS as u64)
        .map(|seed| [Line::new(seed), Line::new(!seed)])
        .collect();
    for len in [10, 3000, 500] {
        for ((one, other), [up, down]) in connections.iter().zip(&mut lines) {
            up.send(one, len);
            down.send(other, len);
        }
        for ((one, other), [up, down]) in connections.iter().zip(&mut lines) {
            up.drain(other);
            down.drain(one);
        }
    }
    let flows = node.flows();
    assert_eq!(flows.len(), 2 * CONNECTIONS);
    assert_eq!(node.entries("sockets"), 2 * CONNECTIONS as u64);
    assert!(
        flows
            .iter()
            .all(|flow| flow.sent.redirect_bytes == 3510 && flow.sent.tcp_bytes == 0)
    );
    drop(connections);
    node.settles();
    for (src, dst) in [(client.id, server.id), (server.id, client.id)] {
        let sums = node.traffic(src, dst);
        assert_eq!(sums.connections, CONNECTIONS as u64);
        assert_eq!(sums.sent.redirect_bytes, 3510 * CONNECTIONS as u64);
        assert_eq!(sums.sent.redirect_messages, 3 * CONNECTIONS as u64);
    }
}

/// Bytes of the question; the answer is as long.
const QUESTION: usize = 200;

/// Opens connections of one question and one answer each, one after the other, on several threads. Every other one is reset.
fn churn(client: &Pod, server: &Pod, addresses: &[SocketAddr], connections: u64) {
    let share = connections / addresses.len() as u64;
    thread::scope(|scope| {
        for address in addresses {
            scope.spawn(move || {
                let listener = server.listen(*address);
                for number in 0..share {
                    let (dialled, accepted) = connect(client, &listener, *address);
                    let (mut up, mut down) = (Line::new(number), Line::new(!number));
                    up.send(&dialled, QUESTION);
                    up.drain(&accepted);
                    down.send(&accepted, QUESTION);
                    down.drain(&dialled);
                    if number % 2 == 0 {
                        tcp::reset_on_close(&dialled);
                    }
                }
            });
        }
    });
}

/// Two addresses of the server, so that no port waits in TIME_WAIT when it is wanted again.
fn addresses(server: &NetNs) -> [SocketAddr; 2] {
    server.ip("addr add 10.1.0.77/24 dev eth0\n");
    [(Bridged::v4(1), 8080).into(), ([10, 1, 0, 77], 8081).into()]
}

#[test]
fn twenty_thousand_connections_with_learning() {
    needs!();
    let connections = 20_000 / 100 * u64::from(support::effort());
    let (node, [here, there]) = (Node::new(), veth());
    node.configure(|config| config.learn = 1);
    here.sysctl("ipv4/ip_local_port_range", "1024 65535");
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let addresses = addresses(&there);
    churn(&client, &server, &addresses, connections);
    node.settles();
    let enrolled = node.traffic(client.id, server.id).connections;
    let learned = node.left(client.id, Reason::Learned);
    assert_eq!(
        enrolled + learned,
        connections,
        "every connection is counted once"
    );
    assert_eq!(node.traffic(server.id, client.id).connections, enrolled);
    for (src, dst) in [(client.id, server.id), (server.id, client.id)] {
        let sums = node.traffic(src, dst);
        assert_eq!(
            sums.sent.redirect_bytes + sums.sent.tcp_bytes,
            enrolled * QUESTION as u64
        );
    }
    // Four to try for each destination, then one in 64.
    assert!(enrolled >= connections / 64, "{enrolled} enrolled");
    assert!(enrolled <= connections / 64 + 2 * 5, "{enrolled} enrolled");
    for address in addresses {
        let destination = Destination {
            addr: mapped(address.ip()),
            function: client.id,
            port: u32::from(address.port()),
        };
        let record = node
            .with_plane(|plane| plane.learned(&destination))
            .unwrap()
            .expect("something is known of the destination");
        assert!(record.balance < 0, "{record:?}");
    }
}

#[test]
fn two_thousand_connections_without_learning() {
    needs!();
    let connections = 2000 / 100 * u64::from(support::effort());
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    churn(&client, &server, &addresses(&there), connections);
    node.settles();
    for (src, dst) in [(client.id, server.id), (server.id, client.id)] {
        let sums = node.traffic(src, dst);
        assert_eq!(sums.connections, connections);
        assert_eq!(sums.sent.redirect_bytes, connections * QUESTION as u64);
        assert_eq!(sums.sent.tcp_bytes, 0);
    }
}

/// Connections that are never accepted, or closed before a byte was sent, from several threads.
#[test]
fn empty_connections_leave_nothing() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    thread::scope(|scope| {
        for thread in 0..4 {
            let (client, server) = (&client, &server);
            scope.spawn(move || {
                let listener = server.listen((Bridged::v4(1), 0));
                for number in 0..250 {
                    let dialled = client.dial(listener.local_addr().unwrap()).unwrap();
                    if (number + thread) % 3 == 0 {
                        tcp::reset_on_close(&dialled);
                        drop(dialled);
                        continue;
                    }
                    let accepted = accept(&listener);
                    if number % 2 == 0 {
                        tcp::reset_on_close(&accepted);
                    }
                }
            });
        }
    });
    node.settles();
}

/// Events tell of every connection, in order; the ring holds as many as it can, and counts the rest.
#[test]
fn events_tell_of_every_connection() {
    needs!();
    let (mut told, mut closed) = (0, 0);
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 0));
    for _ in 0..20 {
        let connection = connect(&client, &listener, listener.local_addr().unwrap());
        let mut line = Line::new(1);
        line.send(&connection.0, 300);
        line.drain(&connection.1);
    }
    node.settles();
    let events = node.with_plane(|plane| plane.events(1000)).unwrap();
    for event in events {
        match EventKind::from_value(event.kind) {
            Some(EventKind::Enrolled) => told += 1,
            Some(EventKind::Closed) => {
                closed += 1;
                let expected = if event.function == client.id { 300 } else { 0 };
                assert_eq!(event.sent.redirect_bytes, expected);
            }
            other => panic!("{other:?}: {event:?}"),
        }
    }
    assert_eq!((told, closed), (40, 40));
    assert_eq!(node.with_plane(|plane| plane.lost_events()).unwrap(), 0);
}
