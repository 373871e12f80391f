//! Connections between two functions are redirected, however their packets would have gone.

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use cwasi_ebpf_common::maps::Locality;
use cwasi_ebpf_common::reason::Reason;
use support::netns::{Bridged, NetNs, veth};
use support::node::{Node, mapped};
use support::pod::{Pod, connect, pair};
use support::probe::Need;
use support::stream::Talk;
use support::tcp;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Talks over a connection, and shows that TCP carried none of it; then closes it, and shows that nothing stays behind.
fn is_redirected(node: &Node, client: &Pod, server: &Pod, connection: (TcpStream, TcpStream)) {
    let mut talk = Talk::new(&connection, 7);
    let bytes = talk.converse();
    for (stream, own, other) in [(&connection.0, client, server), (&connection.1, server, client)] {
        let flow = node.flow(stream);
        assert_eq!((flow.function, flow.peer_function), (own.id, other.id));
        assert_eq!(flow.sent.redirect_bytes, bytes, "all is redirected: {flow:?}");
        assert_eq!((flow.sent.tcp_messages, flow.sent.tcp_bytes), (0, 0));
        assert_eq!((flow.sent.to_redirect, flow.sent.to_tcp), (1, 0));
        let address = stream.local_addr().unwrap();
        assert_eq!(flow.local_addr, mapped(address.ip()));
        assert_eq!(flow.local_port, u32::from(address.port()));
        let info = tcp::info(stream);
        assert_eq!((info.data_segs_out, info.bytes_sent), (0, 0), "TCP sent nothing");
    }
    let messages = node.flow(&connection.0).sent.redirect_messages;
    drop(connection);
    node.settles();
    for (src, dst) in [(client.id, server.id), (server.id, client.id)] {
        let sums = node.traffic(src, dst);
        assert_eq!(sums.connections, 1);
        assert_eq!(sums.sent.redirect_bytes, bytes);
        assert_eq!(sums.sent.redirect_messages, messages);
        assert_eq!(sums.fallbacks, [0; Reason::ALL.len()]);
    }
}

#[test]
fn on_loopback() {
    needs!();
    let (node, netns) = (Node::new(), NetNs::new());
    let (client, server) = (Pod::enrolled(&node, &netns), Pod::enrolled(&node, &netns));
    let connection = pair(&client, &server, LOOPBACK);
    is_redirected(&node, &client, &server, connection);
}

#[test]
fn from_a_function_to_itself() {
    needs!();
    let (node, netns) = (Node::new(), NetNs::new());
    let pod = Pod::enrolled(&node, &netns);
    let connection = pair(&pod, &pod, LOOPBACK);
    let bytes = Talk::new(&connection, 7).converse();
    drop(connection);
    node.settles();
    let sums = node.traffic(pod.id, pod.id);
    assert_eq!((sums.connections, sums.sent.redirect_bytes), (2, 2 * bytes));
}

#[test]
fn over_veth() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let connection = pair(&client, &server, Bridged::v4(1));
    is_redirected(&node, &client, &server, connection);
}

#[test]
fn over_a_bridge() {
    needs!();
    let (node, net) = (Node::new(), Bridged::new(2));
    let (client, server) = (
        Pod::enrolled(&node, &net.ends[0]),
        Pod::enrolled(&node, &net.ends[1]),
    );
    let connection = pair(&client, &server, Bridged::v4(1));
    is_redirected(&node, &client, &server, connection);
}

#[test]
fn over_ipv6() {
    needs!();
    let (node, net) = (Node::new(), Bridged::new(2));
    let (client, server) = (
        Pod::enrolled(&node, &net.ends[0]),
        Pod::enrolled(&node, &net.ends[1]),
    );
    let connection = pair(&client, &server, Bridged::v6(1));
    is_redirected(&node, &client, &server, connection);
}

/// Destination and source NAT on the node, as kube-proxy does for a Service whose endpoint is on the client's own bridge.
fn through_a_service(service: IpAddr, endpoint: IpAddr) {
    let (node, net) = (Node::new(), Bridged::new(2));
    let (client, server) = (
        Pod::enrolled(&node, &net.ends[0]),
        Pod::enrolled(&node, &net.ends[1]),
    );
    node.locality("::/0", None);
    node.locality("10.96.0.0/12", Some(Locality::Maybe));
    node.locality("fd96::/64", Some(Locality::Maybe));
    let listener = server.listen((endpoint, 8080));
    let (family, to) = match endpoint {
        IpAddr::V4(v4) => ("ip", format!("{v4}:8080")),
        IpAddr::V6(v6) => ("ip6", format!("[{v6}]:8080")),
    };
    net.router.nft(&format!(
        "table {family} services {{
            chain to_endpoint {{
                type nat hook prerouting priority dstnat;
                {family} daddr {service} tcp dport 80 dnat to {to}
            }}
            chain from_node {{
                type nat hook postrouting priority srcnat;
                ct status dnat masquerade
            }}
        }}"
    ));
    let connection = connect(&client, &listener, (service, 80));
    let (dialled, accepted) = (&connection.0, &connection.1);
    assert_ne!(
        dialled.local_addr().unwrap(),
        accepted.peer_addr().unwrap(),
        "the source is translated"
    );
    assert_ne!(
        dialled.peer_addr().unwrap(),
        accepted.local_addr().unwrap(),
        "so is the destination"
    );
    is_redirected(&node, &client, &server, connection);
}

#[test]
fn through_a_service_address() {
    needs!(Need::Nft);
    through_a_service(Ipv4Addr::new(10, 96, 0, 1).into(), Bridged::v4(1).into());
}

#[test]
fn through_an_ipv6_service_address() {
    needs!(Need::Nft);
    through_a_service("fd96::1".parse().unwrap(), Bridged::v6(1).into());
}

#[test]
fn through_dnat_in_the_client_s_own_namespace() {
    needs!(Need::Nft);
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 8080));
    here.ip("route add default via 10.1.0.11\n");
    here.nft(
        "table ip services {
            chain to_endpoint {
                type nat hook output priority -100;
                ip daddr 10.96.0.1 tcp dport 80 dnat to 10.1.0.11:8080
            }
        }",
    );
    let connection = connect(&client, &listener, (Ipv4Addr::new(10, 96, 0, 1), 80));
    is_redirected(&node, &client, &server, connection);
}

#[test]
fn from_an_ipv4_client_to_an_ipv6_wildcard_listener() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Ipv6Addr::UNSPECIFIED, 8080));
    let connection = connect(&client, &listener, (Bridged::v4(1), 8080));
    assert!(connection.1.local_addr().unwrap().is_ipv6());
    is_redirected(&node, &client, &server, connection);
}

#[test]
fn from_an_ipv6_socket_that_dials_a_mapped_ipv4_address() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    // The prefix is an IPv4 one: a mapped address must be found by it.
    node.locality("::/0", None);
    node.locality("10.1.0.0/24", Some(Locality::Local));
    let listener = server.listen((Bridged::v4(1), 8080));
    let connection = connect(&client, &listener, (Bridged::v4(1).to_ipv6_mapped(), 8080));
    assert!(connection.0.local_addr().unwrap().is_ipv6());
    is_redirected(&node, &client, &server, connection);
}

#[test]
fn to_an_address_that_may_be_local() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    node.locality("::/0", None);
    node.locality("10.1.0.0/24", Some(Locality::Remote));
    node.locality("10.1.0.11/32", Some(Locality::Maybe));
    let connection = pair(&client, &server, Bridged::v4(1));
    is_redirected(&node, &client, &server, connection);
}

#[test]
fn among_many_functions_each_with_its_own_counters() {
    needs!();
    let (node, net) = (Node::new(), Bridged::new(3));
    let pods: Vec<Pod> = net.ends.iter().map(|end| Pod::enrolled(&node, end)).collect();
    let listeners: Vec<_> = (0_u8..3)
        .map(|end| pods[usize::from(end)].listen((Bridged::v4(end), 8080)))
        .collect();
    let mut sent = [[0; 3]; 3];
    for client in 0..3 {
        for server in 0..3 {
            let address: SocketAddr = listeners[server].local_addr().unwrap();
            let connection = connect(&pods[client], &listeners[server], address);
            let mut talk = Talk::new(&connection, 11);
            for _ in 0..=client * 3 + server {
                talk.round_trip(1000);
            }
            sent[client][server] += talk.up.sent.at;
            sent[server][client] += talk.down.sent.at;
        }
    }
    node.settles();
    for (client, row) in sent.iter().enumerate() {
        for (server, bytes) in row.iter().enumerate() {
            let sums = node.traffic(pods[client].id, pods[server].id);
            assert_eq!(sums.sent.redirect_bytes, *bytes, "from {client} to {server}");
            assert_eq!(sums.sent.tcp_bytes, 0);
        }
    }
}
