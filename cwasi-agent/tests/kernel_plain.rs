//! Connections that are not between two functions of the node stay plain TCP, and are told apart.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use cwasi_agent::plane::Plane;
use cwasi_ebpf_common::maps::Locality;
use cwasi_ebpf_common::reason::Reason;
use support::duplex::{Duplex, Manner};
use support::netns::{Bridged, NetNs, veth};
use support::node::Node;
use support::pod::{Pod, accept, connect, pair};
use support::stream::Talk;
use support::tcp;

/// Talks over a connection, and shows that TCP carried all of it. Returns the bytes of one direction.
fn is_plain(connection: &(TcpStream, TcpStream)) -> u64 {
    let bytes = Talk::new(connection, 7).converse();
    for stream in [&connection.0, &connection.1] {
        let info = tcp::info(stream);
        assert!(info.bytes_sent >= bytes, "TCP sent it all: {info:?}");
        assert!(info.data_segs_out > 0);
    }
    bytes
}

#[test]
fn between_two_strangers() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::stranger(&here), Pod::stranger(&there));
    let connection = pair(&client, &server, Bridged::v4(1));
    is_plain(&connection);
    assert_eq!(node.flows(), []);
}

#[test]
fn from_a_stranger_to_a_function() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::stranger(&here), Pod::enrolled(&node, &there));
    let connection = pair(&client, &server, Bridged::v4(1));
    is_plain(&connection);
    assert_eq!(
        node.flows(),
        [],
        "there is no proof that the client is on this node"
    );
}

#[test]
fn from_a_function_to_a_stranger() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::stranger(&there));
    let connection = pair(&client, &server, Bridged::v4(1));
    let bytes = is_plain(&connection);
    // The address may be a function's: the client's end waits for another one, which never comes.
    let flow = node.flow(&connection.0);
    assert_eq!((flow.peer_cookie, flow.peer_function), (0, 0));
    assert_eq!(flow.reason, Reason::Unpaired as u32);
    assert_eq!((flow.sent.redirect_bytes, flow.sent.tcp_bytes), (0, bytes));
    assert_eq!(node.flow_of(&connection.1), None);
    drop(connection);
    node.settles();
    let sums = node.traffic(client.id, 0);
    assert_eq!(
        (sums.connections, sums.sent.tcp_bytes, sums.sent.redirect_bytes),
        (1, bytes, 0)
    );
}

#[test]
fn to_a_remote_destination() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    node.locality("10.1.0.0/24", Some(Locality::Remote));
    let connection = pair(&client, &server, Bridged::v4(1));
    is_plain(&connection);
    assert_eq!(node.flows(), []);
    assert_eq!(node.left(client.id, Reason::Remote), 1);
}

#[test]
fn to_a_destination_of_unknown_locality() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    node.locality("::/0", None);
    for address in [IpAddr::V4(Bridged::v4(1)), IpAddr::V6(Bridged::v6(1))] {
        is_plain(&pair(&client, &server, address));
    }
    assert_eq!(node.flows(), []);
    assert_eq!(node.left(client.id, Reason::Remote), 2);
}

#[test]
fn while_acceleration_is_off() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    node.configure(|config| config.enabled = 0);
    is_plain(&pair(&client, &server, Bridged::v4(1)));
    assert_eq!(node.flows(), []);
    assert_eq!(node.left(client.id, Reason::Disabled), 1);
}

#[test]
fn between_functions_of_two_nodes() {
    needs!();
    let (one, other, [here, there]) = (Node::new(), Node::new(), veth());
    let (client, server) = (Pod::enrolled(&one, &here), Pod::enrolled(&other, &there));
    let connection = pair(&client, &server, Bridged::v4(1));
    is_plain(&connection);
    assert_eq!(one.flow(&connection.0).reason, Reason::Unpaired as u32);
    assert_eq!(other.flows(), []);
}

#[test]
fn in_a_cgroup_that_is_no_longer_registered() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    node.with_plane(|plane| plane.detach(client.leaf().id())).unwrap();
    is_plain(&pair(&client, &server, Bridged::v4(1)));
    assert_eq!(node.flows(), []);
}

/// Two networks with the same addresses, and in each the same two connections between the same ports, at the same time.
#[test]
fn equal_tuples_in_two_networks_never_mix() {
    needs!();
    let node = Node::new();
    let networks = [veth(), veth()];
    let mut connections = Vec::new();
    let mut tuples = Vec::new();
    let pods: Vec<[Pod; 2]> = networks
        .iter()
        .map(|ends| std::array::from_fn(|end| Pod::enrolled(&node, &ends[end])))
        .collect();
    for [client, server] in &pods {
        let listener = server.listen((Bridged::v4(1), 8080));
        for port in [40_001, 40_002] {
            let local = (Bridged::v4(0), port);
            let dialled = client.dial_with((Bridged::v4(1), 8080), |socket| {
                socket.bind(&SocketAddr::from(local).into()).unwrap();
            });
            let connection = (dialled.unwrap(), accept(&listener));
            tuples.push((
                connection.0.local_addr().unwrap(),
                connection.0.peer_addr().unwrap(),
            ));
            connections.push(connection);
        }
    }
    assert_eq!(tuples[..2], tuples[2..], "the tuples are equal");
    let seed = support::seed("equal_tuples_in_two_networks_never_mix");
    let duplex = Duplex::start(connections, seed, Manner::RESTLESS);
    for _ in 0..4 {
        duplex.goes_on();
    }
    support::eventually("every end redirects", || {
        node.flows().iter().all(|flow| flow.sent.redirect_bytes > 0)
    });
    let flows = node.flows();
    assert_eq!(flows.len(), 8);
    for flow in &flows {
        let peer = flows
            .iter()
            .find(|other| other.cookie == flow.peer_cookie)
            .unwrap();
        assert_eq!(peer.peer_cookie, flow.cookie);
        let network = |function| {
            pods.iter()
                .position(|pair| pair.iter().any(|pod| pod.id == function))
        };
        assert_eq!(
            network(flow.function),
            network(flow.peer_function),
            "no flow leaves its network"
        );
    }
    duplex.finish();
    node.settles();
}

/// The same on the loopback of two namespaces, where even the interface is the same.
#[test]
fn equal_tuples_on_two_loopbacks_never_mix() {
    needs!();
    let node = Node::new();
    let localhost = Ipv4Addr::LOCALHOST;
    let namespaces = [NetNs::new(), NetNs::new()];
    let pods: Vec<Pod> = namespaces
        .iter()
        .map(|netns| Pod::enrolled(&node, netns))
        .collect();
    let connections: Vec<_> = pods
        .iter()
        .map(|pod| connect(pod, &pod.listen((localhost, 8080)), (localhost, 8080)))
        .collect();
    let mut talks: Vec<Talk> = (0..)
        .zip(&connections)
        .map(|(seed, connection)| Talk::new(connection, seed))
        .collect();
    for len in [1, 1000, 65_536] {
        for talk in &mut talks {
            talk.up.send(talk.client, len);
            talk.down.send(talk.server, len);
        }
        for talk in &mut talks {
            talk.up.expect(talk.server, len);
            talk.down.expect(talk.client, len);
        }
    }
    let redirected: u64 = node.flows().iter().map(|flow| flow.sent.redirect_bytes).sum();
    assert_eq!(redirected, 4 * (1 + 1000 + 65_536));
}
