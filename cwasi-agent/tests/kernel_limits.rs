//! What happens where the kernel refuses: full maps, other owners of a socket, upper layer protocols.

mod support;

use std::ffi::CString;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use cwasi_ebpf_common::maps::Sockets;
use cwasi_ebpf_common::reason::Reason;
use support::netns::{Bridged, veth};
use support::node::Node;
use support::pod::{Pod, connect, pair};
use support::stream::{Line, Talk};

#[test]
fn connections_that_do_not_fit_the_sockhash_are_left_to_tcp() {
    needs!();
    const FIT: u8 = 8;
    let node = Node::with(|options| options.max_sockets = Some(2 * u32::from(FIT)));
    let [here, there] = veth();
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 0));
    let address = listener.local_addr().unwrap();
    let mut connections: Vec<(TcpStream, TcpStream)> = (0..2 * FIT)
        .map(|_| connect(&client, &listener, address))
        .collect();
    for connection in &connections {
        Talk::new(connection, 1).converse();
    }
    assert_eq!(node.flows().len(), 2 * usize::from(FIT));
    assert!(node.flows().iter().all(|flow| flow.sent.redirect_bytes > 0));
    assert_eq!(node.left(client.id, Reason::SockhashFull), u64::from(FIT));
    assert_eq!(
        node.entries("pairs"),
        0,
        "nobody waits for an end that was left to TCP"
    );
    // Room is room again.
    connections.drain(..usize::from(FIT));
    support::eventually("the closed ones leave", || node.entries("sockets") == 0);
    let later = connect(&client, &listener, address);
    let bytes = Talk::new(&later, 2).converse();
    assert_eq!(node.flow(&later.0).sent.redirect_bytes, bytes);
    drop((connections, later));
    node.settles();
}

/// The sockhash is full for one end only: the other goes on alone, by TCP.
#[test]
fn an_end_without_its_other_end_stays_on_tcp() {
    needs!();
    let node = Node::with(|options| options.max_sockets = Some(3));
    let [here, there] = veth();
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 0));
    let address = listener.local_addr().unwrap();
    let connections = [(); 2].map(|()| connect(&client, &listener, address));
    for connection in &connections {
        Talk::new(connection, 1).converse();
    }
    let flow = node.flow(&connections[1].0);
    assert_eq!(
        (flow.reason, flow.sent.redirect_bytes),
        (Reason::Unpaired as u32, 0)
    );
    assert_eq!(node.flow_of(&connections[1].1), None);
    assert_eq!(node.left(server.id, Reason::SockhashFull), 1);
    drop(connections);
    node.settles();
}

/// Another program has the sockets' sk_msg hook first: here another node's, on the same cgroups.
#[test]
fn sockets_that_another_program_owns_are_left_to_it() {
    needs!();
    let (other, node, [here, there]) = (Node::new(), Node::new(), veth());
    let (client, server) = (Pod::enrolled(&other, &here), Pod::enrolled(&other, &there));
    let ids = [&client, &server].map(|pod| node.function(pod.leaf().path(), Sockets::NonBlocking));
    let connection = pair(&client, &server, Bridged::v4(1));
    let bytes = Talk::new(&connection, 1).converse();
    assert_eq!(
        other.flow(&connection.0).sent.redirect_bytes,
        bytes,
        "the owner does what it does"
    );
    assert_eq!(node.flows(), []);
    assert_eq!(node.left(ids[0], Reason::SocketBusy), 1);
    assert_eq!(node.entries("pairs"), 0);
    drop(connection);
    other.settles();
    node.settles();
}

/// Puts an upper layer protocol on a socket.
fn set_upper_layer(stream: &TcpStream, name: &str) -> std::io::Result<()> {
    let name = CString::new(name).unwrap();
    // SAFETY: the name outlives the call, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_ULP,
            name.as_ptr().cast(),
            u32::try_from(name.as_bytes().len()).unwrap(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// kTLS on either end sends both directions back to TCP, where its records are made.
#[test]
fn an_upper_layer_protocol_goes_by_tcp() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    for of_client in [true, false] {
        let connection = pair(&client, &server, Bridged::v4(1));
        let (mut up, mut down) = (Line::new(1), Line::new(2));
        up.send(&connection.0, 1000);
        up.drain(&connection.1);
        down.send(&connection.1, 1000);
        down.drain(&connection.0);
        let end = if of_client { &connection.0 } else { &connection.1 };
        match set_upper_layer(end, "tls") {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                return support::probe::skipped(
                    "the kernel has no upper layer protocol tls (CONFIG_TLS, modprobe tls)",
                );
            }
            done => done.expect("TCP_ULP tls"),
        }
        // Without keys the bytes stay what they are.
        up.send(&connection.0, 1000);
        up.drain(&connection.1);
        down.send(&connection.1, 1000);
        down.drain(&connection.0);
        for stream in [&connection.0, &connection.1] {
            let flow = node.flow(stream);
            assert_eq!(flow.reason, Reason::UpperLayer as u32);
            assert_eq!((flow.sent.redirect_bytes, flow.sent.tcp_bytes), (1000, 1000));
        }
    }
}
