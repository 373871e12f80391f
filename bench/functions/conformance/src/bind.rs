//! `start-bind` and `finish-bind`: addresses, ports, and who may have the same.

use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{IpSocketAddress, Ipv6SocketAddress};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

use crate::Case;
use crate::net::{Net, accept, ipv4, ipv6, listen, loopback, port};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 8] = [
    ("bind-steps", steps),
    ("bind-addresses", addresses),
    ("bind-wrong-addresses", wrong_addresses),
    ("bind-again-after-failure", again_after_failure),
    ("bind-taken-port", taken_port),
    ("bind-shared-port", shared_port),
    ("bind-port-in-time-wait", port_in_time_wait),
    ("bind-port-of-open-connections", port_of_open_connections),
];

fn bind(t: &Transcript, net: &Net, socket: &TcpSocket, address: IpSocketAddress) {
    let started = t.call("start-bind", socket.start_bind(&net.network, address));
    if started.is_ok() {
        t.tell("finish-bind", socket.finish_bind());
    }
    t.tell("local-address", socket.local_address());
}

fn steps(t: &Transcript, net: &Net) {
    t.section("each call in its place");
    let socket = net.socket();
    t.tell("local-address", socket.local_address());
    t.tell("finish-bind before start-bind", socket.finish_bind());
    t.tell("start-bind", socket.start_bind(&net.network, net.loopback(0)));
    t.tell(
        "start-bind again",
        socket.start_bind(&net.network, net.loopback(0)),
    );
    t.tell("start-listen meanwhile", socket.start_listen());
    t.tell("finish-listen meanwhile", socket.finish_listen());
    t.tell(
        "start-connect meanwhile",
        net.start_connect(&socket, net.loopback(9)),
    );
    t.tell("finish-bind", socket.finish_bind());
    t.tell("finish-bind again", socket.finish_bind());
    t.tell("local-address", socket.local_address());
    t.section("bound sockets are not bound again");
    bind(t, net, &socket, net.loopback(0));
    t.section("another handle of the network, dropped in between");
    let socket = net.socket();
    let network = instance_network();
    t.tell("start-bind", socket.start_bind(&network, net.loopback(0)));
    drop(network);
    t.tell("finish-bind", socket.finish_bind());
    t.section("connected to a network of another handle");
    let (_listener, address) = net.listener();
    t.tell("connect", net.connect(&socket, address));
}

fn addresses(t: &Transcript, net: &Net) {
    t.section("any port of loopback");
    bind(t, net, &net.socket(), net.loopback(0));
    t.section("any port of every address");
    bind(t, net, &net.socket(), net.unspecified(0));
    t.section("a certain port");
    let free = net.free_port();
    bind(t, net, &net.socket(), net.loopback(free));
    if net.is_ipv4() {
        t.section("another address of loopback");
        bind(t, net, &net.socket(), ipv4([127, 9, 8, 7], 0));
        t.section("the network's own address of loopback");
        bind(t, net, &net.socket(), ipv4([127, 0, 0, 0], 0));
        t.section("the broadcast address of loopback");
        bind(t, net, &net.socket(), ipv4([127, 255, 255, 255], 0));
    } else {
        t.section("a flow and a scope");
        let address = IpSocketAddress::Ipv6(Ipv6SocketAddress {
            port: 0,
            flow_info: 7,
            address: (0, 0, 0, 0, 0, 0, 0, 1),
            scope_id: 1,
        });
        bind(t, net, &net.socket(), address);
    }
}

fn wrong_addresses(t: &Transcript, net: &Net) {
    t.section("the other family");
    bind(t, net, &net.socket(), loopback(net.other_family(), 0));
    let wrong: &[(&str, IpSocketAddress)] = if net.is_ipv4() {
        &[
            ("broadcast", ipv4([255, 255, 255, 255], 0)),
            ("multicast", ipv4([224, 0, 0, 1], 0)),
            ("reserved", ipv4([240, 0, 0, 1], 0)),
            ("nobody's", ipv4([192, 0, 2, 1], 0)),
            ("nobody's, with a port", ipv4([192, 0, 2, 1], 4000)),
            ("this network's", ipv4([0, 0, 0, 1], 0)),
        ]
    } else {
        &[
            ("multicast", ipv6([0xff02, 0, 0, 0, 0, 0, 0, 1], 0)),
            ("nobody's", ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 0)),
            (
                "IPv4-mapped loopback",
                ipv6([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], 0),
            ),
            ("IPv4-mapped unspecified", ipv6([0, 0, 0, 0, 0, 0xffff, 0, 0], 0)),
            ("IPv4-compatible loopback", ipv6([0, 0, 0, 0, 0, 0, 0x7f00, 1], 0)),
            (
                "link-local without a scope",
                ipv6([0xfe80, 0, 0, 0, 0, 0, 0, 1], 0),
            ),
        ]
    };
    for (name, address) in wrong {
        t.section(name);
        bind(t, net, &net.socket(), *address);
    }
}

fn again_after_failure(t: &Transcript, net: &Net) {
    let (listener, taken) = net.listener();
    let socket = net.socket();
    t.section("refused at once");
    bind(t, net, &socket, loopback(net.other_family(), 0));
    t.section("refused by the system");
    bind(t, net, &socket, taken);
    drop(listener);
    t.section("possible now");
    bind(t, net, &socket, taken);
}

fn taken_port(t: &Transcript, net: &Net) {
    t.section("while another socket listens on it");
    let (listener, address) = net.listener();
    t.tell("its address", listener.local_address());
    bind(t, net, &net.socket(), address);
    t.section("on every address");
    bind(t, net, &net.socket(), net.unspecified(port(address)));
    if net.is_ipv4() {
        t.section("on another address");
        bind(t, net, &net.socket(), ipv4([127, 0, 0, 2], port(address)));
    }
    t.section("of the other family");
    let other = create_tcp_socket(net.other_family()).expect("a socket");
    bind(t, net, &other, loopback(net.other_family(), port(address)));
    drop(other);
    t.section("by a client that is connected elsewhere");
    let (_elsewhere, elsewhere) = net.listener();
    t.tell("elsewhere", net.client(elsewhere).map(drop));
    let client = net.socket();
    bind(t, net, &client, address);
    drop(client);
    t.section("on every address, while another socket listens on every address");
    let listener = net.socket();
    net.bind(&listener, net.unspecified(0)).expect("bound");
    listen(&listener).expect("listening");
    let port = port(listener.local_address().expect("its address"));
    bind(t, net, &net.socket(), net.unspecified(port));
    t.section("on loopback, while another socket listens on every address");
    bind(t, net, &net.socket(), net.loopback(port));
}

fn shared_port(t: &Transcript, net: &Net) {
    t.section("two sockets bound to a port; the first one listens");
    let first = net.bound(0);
    let address = first.local_address().expect("its address");
    let second = net.socket();
    bind(t, net, &second, address);
    t.tell("first listens", listen(&first));
    t.tell("second start-listen", second.start_listen());
    t.tell("second finish-listen", second.finish_listen());
    t.tell("second is-listening", second.is_listening());
    t.tell("second local-address", second.local_address());
    t.section("and is gone");
    drop(first);
    t.tell("second start-listen", second.start_listen());
    t.tell("second finish-listen", second.finish_listen());
}

/// The end that closes first keeps its port for a minute.
fn port_in_time_wait(t: &Transcript, net: &Net) {
    let connection = net.connection();
    let address = connection.address;
    connection.server.send(b"bye").expect("sent");
    drop(connection.server);
    drop(connection.listener);
    t.tell("client reads", connection.client.receive(3));
    t.tell("and again", connection.client.input.blocking_read(1));
    drop(connection.client);
    let again = net.socket();
    bind(t, net, &again, address);
    t.tell("listen", listen(&again));
    let client = net.client(address);
    t.tell("connect", client.as_ref().map(|_| ()).map_err(|code| *code));
    t.tell("accept", accept(&again).map(drop));
}

fn port_of_open_connections(t: &Transcript, net: &Net) {
    let connection = net.connection();
    let address = connection.address;
    drop(connection.listener);
    t.section("a listener takes the place of the one that went");
    let again = net.socket();
    bind(t, net, &again, address);
    t.tell("listen", listen(&again));
    let second = net.client(address).expect("connected");
    let accepted = accept(&again).expect("accepted");
    t.section("both connections work");
    for (name, client, server) in [
        ("first", &connection.client, &connection.server),
        ("second", &second, &accepted),
    ] {
        t.tell(name, client.send(name.as_bytes()));
        t.tell(name, server.receive(name.len()));
    }
    t.section("the port of a client");
    let taken = second.socket.local_address().expect("its address");
    bind(t, net, &net.socket(), taken);
}
