//! `start-connect` and `finish-connect`: addresses, refusals, and what happens in between.

use wasip2::sockets::network::IpSocketAddress;
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

use crate::Case;
use crate::net::{End, Net, accept, finish, ipv4, ipv6, listen, loopback, port, ready, settle};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 11] = [
    ("connect-steps", steps),
    ("connect-wrong-addresses", wrong_addresses),
    ("connect-again-after-refused-address", again_after_refused_address),
    ("connect-refused", refused),
    ("connect-to-bound-socket", to_bound_socket),
    ("connect-unreachable", unreachable),
    ("connect-addresses", addresses),
    ("connect-other-family", other_family),
    ("connect-self", to_itself),
    ("connect-dropped", dropped),
    ("connect-same-ports", same_ports),
];

/// What a socket tells of itself.
fn told(t: &Transcript, socket: &TcpSocket) {
    t.tell("local-address", socket.local_address());
    t.tell("remote-address", socket.remote_address());
    t.tell("is-listening", socket.is_listening());
}

fn steps(t: &Transcript, net: &Net) {
    let (listener, address) = net.listener();
    t.tell("listener", listener.local_address());
    let socket = net.socket();
    t.tell("finish-connect before start-connect", socket.finish_connect());
    t.tell("start-connect", net.start_connect(&socket, address));
    t.tell("start-connect again", net.start_connect(&socket, address));
    t.tell(
        "start-bind meanwhile",
        socket.start_bind(&net.network, net.loopback(0)),
    );
    t.tell("finish-bind meanwhile", socket.finish_bind());
    t.tell("start-listen meanwhile", socket.start_listen());
    t.tell("accept meanwhile", socket.accept());
    let pollable = socket.subscribe();
    t.tell("pollable", ready(&pollable));
    t.tell("is-listening", socket.is_listening());
    let connected = t.call("finish-connect", socket.finish_connect());
    t.tell("pollable", ready(&pollable));
    t.tell("finish-connect again", socket.finish_connect());
    t.tell("start-connect again", net.start_connect(&socket, address));
    told(t, &socket);
    let (accepted, _input, _output) = finish(&listener, TcpSocket::accept).expect("accepted");
    t.section("the other end");
    told(t, &accepted);
    drop(pollable);
    drop(connected);
}

fn wrong_addresses(t: &Transcript, net: &Net) {
    let (_listener, address) = net.listener();
    let port = port(address);
    let mut wrong = vec![
        ("unspecified", net.unspecified(port)),
        ("port 0", net.loopback(0)),
        ("the other family", loopback(net.other_family(), port)),
    ];
    if net.is_ipv4() {
        wrong.extend([
            ("broadcast", ipv4([255, 255, 255, 255], port)),
            ("multicast", ipv4([224, 0, 0, 1], port)),
        ]);
    } else {
        wrong.extend([
            ("multicast", ipv6([0xff02, 0, 0, 0, 0, 0, 0, 1], port)),
            ("IPv4-mapped", ipv6([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], port)),
            (
                "IPv4-mapped unspecified",
                ipv6([0, 0, 0, 0, 0, 0xffff, 0, 0], port),
            ),
            ("IPv4-compatible", ipv6([0, 0, 0, 0, 0, 0, 0x7f00, 1], port)),
        ]);
    }
    for (name, address) in wrong {
        t.section(name);
        let socket = net.socket();
        t.tell("start-connect", net.start_connect(&socket, address));
        t.tell("finish-connect", socket.finish_connect());
        told(t, &socket);
    }
}

fn again_after_refused_address(t: &Transcript, net: &Net) {
    let (listener, address) = net.listener();
    let socket = net.socket();
    t.tell("port 0", net.start_connect(&socket, net.loopback(0)));
    t.tell("bind", net.bind(&socket, net.loopback(0)));
    let connected = t.call("a listener", net.connect(&socket, address));
    t.tell("accept", accept(&listener).map(drop));
    drop(connected);
}

fn refused(t: &Transcript, net: &Net) {
    let nobody = net.loopback(net.free_port());
    for bound in [false, true] {
        t.section(if bound { "bound" } else { "unbound" });
        let socket = if bound { net.bound(0) } else { net.socket() };
        t.tell("start-connect", net.start_connect(&socket, nobody));
        let pollable = socket.subscribe();
        t.tell("pollable", ready(&pollable));
        t.tell("pollable again", ready(&pollable));
        t.tell("finish-connect", socket.finish_connect());
        t.tell("pollable afterwards", ready(&pollable));
        t.tell("finish-connect again", socket.finish_connect());
        told(t, &socket);
        t.tell("start-connect again", net.start_connect(&socket, nobody));
        t.tell("start-listen", socket.start_listen());
        t.tell("start-bind", socket.start_bind(&net.network, net.loopback(0)));
        drop(pollable);
    }
    t.section("a listener that is gone");
    let (listener, address) = net.listener();
    drop(listener);
    t.tell("connect", net.client(address).map(drop));
}

/// A bound socket that does not listen is nobody to connect to.
fn to_bound_socket(t: &Transcript, net: &Net) {
    let bound = net.bound(0);
    let address = bound.local_address().expect("its address");
    t.tell("while it does not listen", net.client(address).map(drop));
    t.tell("start-listen", bound.start_listen());
    let client = net.client(address);
    t.tell(
        "while it starts to listen",
        client.as_ref().map(|_| ()).map_err(|code| *code),
    );
    t.tell("finish-listen", bound.finish_listen());
    t.tell("accept", accept(&bound).map(drop));
}

/// Only asked in a network namespace without a route there.
fn unreachable(t: &Transcript, net: &Net) {
    let nowhere = if net.is_ipv4() {
        ipv4([192, 0, 2, 1], 9)
    } else {
        ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9)
    };
    let socket = net.socket();
    t.tell("connect", net.connect(&socket, nowhere));
    told(t, &socket);
}

/// Which addresses both ends have, by what each was bound to.
fn addresses(t: &Transcript, net: &Net) {
    let mut locals = vec![net.loopback(0), net.unspecified(0)];
    let mut dialled = vec![net.loopback(0)];
    if net.is_ipv4() {
        locals.push(ipv4([127, 0, 0, 2], 0));
        dialled.push(ipv4([127, 0, 0, 2], 0));
    }
    for listening in &locals {
        let listener = net.socket();
        net.bind(&listener, *listening).expect("bound");
        listen(&listener).expect("listening");
        t.section("a listener");
        let address = listener.local_address().expect("its address");
        t.tell("local-address", listener.local_address());
        for dialled in &dialled {
            let to = with_port(*dialled, port(address));
            for bound in [None].into_iter().chain(locals.iter().map(Some)) {
                let client = net.socket();
                if let Some(bound) = bound {
                    t.tell("bind", net.bind(&client, *bound));
                }
                t.tell("to", Ok::<_, wasip2::sockets::network::ErrorCode>(to));
                let connected = t.call("connect", net.connect(&client, to));
                told(t, &client);
                if connected.is_ok() {
                    let accepted = accept(&listener).expect("accepted");
                    told(t, &accepted.socket);
                }
                drop(connected);
            }
        }
    }
}

fn with_port(address: IpSocketAddress, port: u16) -> IpSocketAddress {
    match address {
        IpSocketAddress::Ipv4(mut address) => {
            address.port = port;
            IpSocketAddress::Ipv4(address)
        }
        IpSocketAddress::Ipv6(mut address) => {
            address.port = port;
            IpSocketAddress::Ipv6(address)
        }
    }
}

/// A socket of IPv6 is only that, also where it listens on every address.
fn other_family(t: &Transcript, net: &Net) {
    let listener = net.socket();
    net.bind(&listener, net.unspecified(0)).expect("bound");
    listen(&listener).expect("listening");
    let port = port(listener.local_address().expect("its address"));
    let client = create_tcp_socket(net.other_family()).expect("a socket");
    let other = loopback(net.other_family(), port);
    t.tell("connect of the other family", net.connect(&client, other));
    let second = create_tcp_socket(net.other_family()).expect("a socket");
    t.tell("bind of the other family", net.bind(&second, other));
    t.tell("listen", listen(&second));
    let client = create_tcp_socket(net.other_family()).expect("a socket");
    let connected = t.call("connect of the other family", net.connect(&client, other));
    t.tell("accept of the first", listener.accept().map(drop));
    t.tell("accept of the second", accept(&second).map(drop));
    drop(connected);
}

/// TCP's simultaneous open, of a socket with itself.
fn to_itself(t: &Transcript, net: &Net) {
    let socket = net.bound(0);
    let address = socket.local_address().expect("its address");
    let connected = t.call("connect", net.connect(&socket, address));
    told(t, &socket);
    if let Ok((input, output)) = connected {
        t.tell("write", output.blocking_write_and_flush(b"me"));
        t.tell("read", input.blocking_read(10));
    }
}

fn dropped(t: &Transcript, net: &Net) {
    let (listener, address) = net.listener();
    t.section("before anybody waited for it");
    let socket = net.socket();
    t.tell("start-connect", net.start_connect(&socket, address));
    drop(socket);
    settle();
    t.tell(
        "accept",
        listener.accept().map(|(socket, input, output)| {
            drop(End {
                input,
                output,
                socket,
            })
        }),
    );
    t.section("after it was waited for");
    let socket = net.socket();
    t.tell("start-connect", net.start_connect(&socket, address));
    t.tell("pollable", ready(&socket.subscribe()));
    drop(socket);
    let accepted = accept(&listener);
    t.tell("accept", accepted.as_ref().map(|_| ()).map_err(|code| *code));
    let accepted = accepted.expect("accepted");
    t.tell("read", accepted.input.blocking_read(1));
    t.section("and the listener is still well");
    let client = net.client(address).expect("connected");
    let accepted = accept(&listener).expect("accepted");
    t.tell("write", client.send(b"x"));
    t.tell("read", accepted.receive(1));
}

/// A client may use the same local port for different peers, but not twice for one.
fn same_ports(t: &Transcript, net: &Net) {
    let (first, first_address) = net.listener();
    let (second, second_address) = net.listener();
    let client = net.bound(0);
    let local = client.local_address().expect("its address");
    let one = t.call("to the first listener", net.connect(&client, first_address));
    let same = net.socket();
    t.tell("bind to the same port", net.bind(&same, local));
    let two = t.call("to the second listener", net.connect(&same, second_address));
    let third = net.socket();
    t.tell("bind to the same port", net.bind(&third, local));
    let three = t.call("to the first listener again", net.connect(&third, first_address));
    t.tell("accept", accept(&first).map(drop));
    t.tell("accept", accept(&second).map(drop));
    drop((one, two, three));
}
