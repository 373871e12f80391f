//! `start-listen`, `finish-listen`, `accept` and the backlog.

use wasip2::sockets::tcp::TcpSocket;

use crate::Case;
use crate::net::{End, Net, accept, finish, listen, ready, settle};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 9] = [
    ("listen-steps", steps),
    ("listen-backlog-values", backlog_values),
    ("accept-readiness", readiness),
    ("accept-order", order),
    ("accept-backlog", backlog),
    ("accept-client-gone", client_gone),
    ("accept-client-gone-with-data", client_gone_with_data),
    ("listener-gone", listener_gone),
    ("listener-gone-with-pending", listener_gone_with_pending),
];

fn steps(t: &Transcript, net: &Net) {
    let socket = net.socket();
    t.tell("start-listen unbound", socket.start_listen());
    t.tell("finish-listen before start-listen", socket.finish_listen());
    t.tell("accept", socket.accept());
    net.bind(&socket, net.loopback(0)).expect("bound");
    t.tell("accept bound", socket.accept());
    t.tell("start-listen", socket.start_listen());
    t.tell("start-listen again", socket.start_listen());
    t.tell(
        "start-bind meanwhile",
        socket.start_bind(&net.network, net.loopback(0)),
    );
    t.tell(
        "start-connect meanwhile",
        net.start_connect(&socket, net.loopback(9)),
    );
    t.tell("accept meanwhile", socket.accept());
    t.tell("is-listening meanwhile", socket.is_listening());
    t.tell("finish-listen", socket.finish_listen());
    t.tell("finish-listen again", socket.finish_listen());
    t.tell("is-listening", socket.is_listening());
    t.tell("start-listen again", socket.start_listen());
    t.tell("start-connect", net.start_connect(&socket, net.loopback(9)));
    t.tell("local-address", socket.local_address());
    t.tell("remote-address", socket.remote_address());
    t.section("connected sockets do not listen");
    let connection = net.connection();
    for end in [&connection.client, &connection.server] {
        t.tell("start-listen", end.socket.start_listen());
        t.tell("accept", end.socket.accept());
        t.tell("set-listen-backlog-size", end.socket.set_listen_backlog_size(1));
    }
}

fn backlog_values(t: &Transcript, net: &Net) {
    const VALUES: [u64; 6] = [0, 1, 128, 1 << 31, 1 << 32, u64::MAX];
    let socket = net.socket();
    for (name, step) in [
        ("unbound", None),
        ("bound", Some(bind as fn(&Net, &TcpSocket))),
        ("listening", Some(|_, socket| listen(socket).expect("listening"))),
    ] {
        t.section(name);
        if let Some(step) = step {
            step(net, &socket);
        }
        for value in VALUES {
            let set = socket.set_listen_backlog_size(value);
            t.tell(&format!("set-listen-backlog-size {value}"), set);
        }
    }
}

fn bind(net: &Net, socket: &TcpSocket) {
    net.bind(socket, net.loopback(0)).expect("bound");
}

fn readiness(t: &Transcript, net: &Net) {
    let (listener, address) = net.listener();
    let pollable = listener.subscribe();
    t.tell("accept", listener.accept());
    t.tell("pollable", ready(&pollable));
    let client = net.client(address).expect("connected");
    t.tell("pollable with a client", ready(&pollable));
    t.tell("another one", ready(&listener.subscribe()));
    let accepted = t.call("accept", listener.accept()).expect("accepted");
    t.tell("accept again", listener.accept());
    t.tell("pollable again", ready(&pollable));
    drop(pollable);
    drop((accepted.2, accepted.1, accepted.0));
    drop(client);
}

/// Connections are accepted in the order in which they were made.
fn order(t: &Transcript, net: &Net) {
    let (listener, address) = net.listener();
    let clients: Vec<_> = (0..8).map(|_| net.client(address).expect("connected")).collect();
    for client in &clients {
        let accepted = accept(&listener).expect("accepted");
        let remote = accepted.socket.remote_address().expect("its peer");
        let local = client.socket.local_address().expect("its address");
        t.tell("peer", accepted.socket.remote_address());
        t.tell("expected", client.socket.local_address());
        t.tell("same", format!("{remote:?}") == format!("{local:?}"));
    }
    t.tell("accept", listener.accept());
}

/// More clients than the backlog has room for wait, and all are served in the end.
fn backlog(t: &Transcript, net: &Net) {
    const CLIENTS: usize = 5;
    let listener = net.bound(0);
    let address = listener.local_address().expect("its address");
    t.tell("set-listen-backlog-size", listener.set_listen_backlog_size(1));
    listen(&listener).expect("listening");
    let clients: Vec<_> = (0..CLIENTS).map(|_| net.socket()).collect();
    let mut connected = Vec::new();
    for client in &clients {
        t.tell("start-connect", net.start_connect(client, address));
        let pollable = client.subscribe();
        t.tell("pollable", ready(&pollable));
        drop(pollable);
        if let Ok(streams) = t.call("finish-connect", client.finish_connect()) {
            connected.push(streams);
        }
    }
    let waiting = &clients[connected.len()..];
    let mut accepted: Vec<End> = Vec::new();
    for _ in 0..CLIENTS {
        accepted.push(accept(&listener).expect("accepted"));
    }
    for client in waiting {
        let finished = t.call("waited for", finish(client, TcpSocket::finish_connect));
        connected.push(finished.expect("connected"));
    }
    t.tell("accept", listener.accept());
    t.section("each is whom it was connected to");
    for ((_, output), client) in connected.iter().zip(&clients) {
        let local = format!("{:?}", client.local_address().expect("its address"));
        let peer = accepted.iter().find(|end| {
            let remote = end.socket.remote_address().expect("its peer");
            format!("{remote:?}") == local
        });
        output.blocking_write_and_flush(b"x").expect("written");
        t.tell("accepted", peer.is_some());
        t.tell("read", peer.expect("its other end").receive(1));
    }
}

fn client_gone(t: &Transcript, net: &Net) {
    let (listener, address) = net.listener();
    drop(net.client(address).expect("connected"));
    t.tell("pollable", ready(&listener.subscribe()));
    let accepted = accept(&listener).expect("accepted");
    t.tell("read", accepted.input.blocking_read(1));
    t.tell("is-listening", accepted.socket.is_listening());
    t.tell("local-address", accepted.socket.local_address());
}

fn client_gone_with_data(t: &Transcript, net: &Net) {
    let (listener, address) = net.listener();
    let client = net.client(address).expect("connected");
    t.tell("write", client.send(b"hello"));
    drop(client);
    let accepted = accept(&listener).expect("accepted");
    t.tell("read", accepted.receive(5));
    t.tell("read", accepted.input.blocking_read(1));
    t.tell("write", accepted.send(b"anybody?"));
}

fn listener_gone(t: &Transcript, net: &Net) {
    let connection = net.connection();
    drop(connection.listener);
    t.section("accepted connections go on");
    t.tell("write", connection.client.send(b"hello"));
    t.tell("read", connection.server.receive(5));
    t.tell("write", connection.server.send(b"hello"));
    t.tell("read", connection.client.receive(5));
    t.tell("local-address", connection.server.socket.local_address());
    t.section("new ones are refused");
    t.tell("connect", net.client(connection.address).map(drop));
}

fn listener_gone_with_pending(t: &Transcript, net: &Net) {
    let (listener, address) = net.listener();
    let reads = net.client(address).expect("connected");
    let writes = net.client(address).expect("connected");
    t.tell("write", writes.send(b"hello"));
    drop(listener);
    settle();
    t.tell("read", reads.input.blocking_read(1));
    t.tell("read again", reads.input.blocking_read(1));
    t.tell("write", writes.output.blocking_write_and_flush(b"hello"));
    t.tell("write again", writes.output.blocking_write_and_flush(b"hello"));
    t.tell("read", writes.input.blocking_read(1));
    let refused = net.client(address).map(drop);
    t.tell("connect", refused);
    t.tell(
        "shutdown",
        reads.socket.shutdown(wasip2::sockets::tcp::ShutdownType::Both),
    );
}
