//! Sockets that block are left to TCP, unless their function's launcher promises that it knows how to read them.

mod support;

use std::net::{IpAddr, TcpListener, TcpStream};

use cwasi_ebpf_common::maps::Sockets;
use cwasi_ebpf_common::reason::Reason;
use support::netns::{Bridged, veth};
use support::node::Node;
use support::pod::{Pod, accept, connect, pair};
use support::stream::Talk;

/// Connects with a socket that blocks, which is made non-blocking for the test's own reads after.
fn dial_blocking(client: &Pod, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let dialled = client.dial_with(listener.local_addr().unwrap(), |socket| {
        socket.set_nonblocking(false).unwrap();
    });
    let connection = (dialled.unwrap(), accept(listener));
    connection.0.set_nonblocking(true).unwrap();
    connection
}

/// Redirected and other bytes of a conversation on the connection.
fn redirected(node: &Node, connection: &(TcpStream, TcpStream)) -> [bool; 2] {
    let bytes = Talk::new(connection, 1).converse();
    [&connection.0, &connection.1].map(|stream| {
        let sent = node.flow_of(stream).map(|flow| flow.sent.redirect_bytes);
        assert!(
            sent.is_none_or(|sent| sent == 0 || sent == bytes),
            "{sent:?} of {bytes} bytes"
        );
        sent == Some(bytes)
    })
}

#[test]
fn a_blocking_client_is_left_to_tcp() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 0));
    assert_eq!(redirected(&node, &dial_blocking(&client, &listener)), [false; 2]);
    assert_eq!(node.left(client.id, Reason::Blocking), 1);
    assert_eq!(
        redirected(
            &node,
            &connect(&client, &listener, listener.local_addr().unwrap())
        ),
        [true; 2]
    );
}

#[test]
fn a_blocking_listener_is_left_to_tcp() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen_with((Bridged::v4(1), 0), |socket| {
        socket.set_nonblocking(false).unwrap();
    });
    let address = listener.local_addr().unwrap();
    assert_eq!(
        redirected(&node, &connect(&client, &listener, address)),
        [false; 2]
    );
    assert_eq!(node.left(server.id, Reason::Blocking), 1);
    // A listener may be given to a poll loop after it began to listen.
    listener.set_nonblocking(true).unwrap();
    assert_eq!(
        redirected(&node, &connect(&client, &listener, address)),
        [true; 2]
    );
}

#[test]
fn accepted_sockets_that_block_teach_about_their_listener() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 0));
    let connection = connect(&client, &listener, listener.local_addr().unwrap());
    connection.1.set_nonblocking(false).unwrap();
    Talk::new(&connection, 1).converse();
    let later = connect(&client, &listener, listener.local_addr().unwrap());
    assert_eq!(redirected(&node, &later), [false; 2]);
    assert_eq!(node.left(server.id, Reason::Blocking), 1);
}

#[test]
fn a_launcher_s_promise_enrols_them_all() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let client = Pod::enrolled_for(&node, &here, Sockets::All);
    let server = Pod::enrolled_for(&node, &there, Sockets::All);
    let listener = server.listen_with((Bridged::v4(1), 0), |socket| {
        socket.set_nonblocking(false).unwrap();
    });
    assert_eq!(redirected(&node, &dial_blocking(&client, &listener)), [true; 2]);
}

#[test]
fn one_end_s_promise_is_not_the_other_s() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let client = Pod::enrolled_for(&node, &here, Sockets::All);
    let server = Pod::enrolled(&node, &there);
    let listener = server.listen((Bridged::v4(1), 0));
    assert_eq!(redirected(&node, &dial_blocking(&client, &listener)), [true; 2]);
    listener.set_nonblocking(false).unwrap();
    assert_eq!(redirected(&node, &dial_blocking(&client, &listener)), [false; 2]);
}

/// Of two listeners of a function on one port, one goes: the other's connections are redirected as before.
#[test]
fn a_second_listener_on_the_port_may_go() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let stays = server.listen((Bridged::v4(1), 8080));
    let goes = server.listen((Bridged::v6(1), 8080));
    assert_eq!(
        redirected(&node, &connect(&client, &stays, (Bridged::v4(1), 8080))),
        [true; 2]
    );
    drop(goes);
    assert_eq!(
        redirected(&node, &connect(&client, &stays, (Bridged::v4(1), 8080))),
        [true; 2]
    );
    drop(pair(&client, &server, IpAddr::from(Bridged::v6(1))));
}
