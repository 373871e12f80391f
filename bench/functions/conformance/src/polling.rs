//! Pollables of sockets and streams: when they are ready, in every order of asking.

use wasip2::io::poll::poll;
use wasip2::sockets::tcp::ShutdownType;

use crate::Case;
use crate::net::{Connection, Net, finish, ready, settle};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 5] = [
    ("poll-sockets", sockets),
    ("poll-streams", streams),
    ("poll-made-before", made_before),
    ("poll-several", several),
    ("poll-reset", reset),
];

fn sockets(t: &Transcript, net: &Net) {
    let socket = net.socket();
    let pollable = socket.subscribe();
    let tell = |state: &str| {
        t.tell(&format!("{state}: the first pollable"), ready(&pollable));
        t.tell(&format!("{state}: a new pollable"), ready(&socket.subscribe()));
    };
    tell("unbound");
    t.tell("start-bind", socket.start_bind(&net.network, net.loopback(0)));
    tell("while it is bound");
    t.tell("finish-bind", socket.finish_bind());
    tell("bound");
    t.tell("start-listen", socket.start_listen());
    tell("while it starts to listen");
    t.tell("finish-listen", socket.finish_listen());
    tell("listening");
    let address = socket.local_address().expect("its address");
    let client = net.client(address).expect("connected");
    tell("with a client");
    t.tell("client: pollable", ready(&client.socket.subscribe()));
    let (accepted, input, output) =
        finish(&socket, wasip2::sockets::tcp::TcpSocket::accept).expect("accepted");
    tell("without a client");
    t.tell("accepted: pollable", ready(&accepted.subscribe()));
    drop((input, output));
    drop(accepted);
    t.tell("client, left alone: pollable", ready(&client.socket.subscribe()));
    t.tell("client, shut down", client.socket.shutdown(ShutdownType::Both));
    t.tell("client, shut down: pollable", ready(&client.socket.subscribe()));
    drop(pollable);
}

fn streams(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    let tell = |state: &str| {
        for (who, end) in [("client", &client), ("server", &server)] {
            t.tell(
                &format!("{state}: input of the {who}"),
                ready(&end.input.subscribe()),
            );
            t.tell(
                &format!("{state}: output of the {who}"),
                ready(&end.output.subscribe()),
            );
        }
    };
    tell("idle");
    t.tell("write", client.send(b"hello"));
    settle();
    tell("written");
    t.tell("read", server.input.read(3));
    tell("half read");
    t.tell("read", server.input.read(3));
    t.tell("read", server.input.read(3));
    tell("read");
    t.tell("shutdown send", client.socket.shutdown(ShutdownType::Send));
    settle();
    tell("ended by the client");
    t.tell("read", server.input.read(3));
    tell("the end was read");
    t.tell("shutdown both", server.socket.shutdown(ShutdownType::Both));
    settle();
    tell("ended by the server, too");
    t.tell("read", client.input.read(3));
    tell("both ends were read");
}

/// One pollable serves a stream's whole life.
fn made_before(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    let (input, output) = (server.input.subscribe(), client.output.subscribe());
    let tell = |state: &str| {
        t.tell(&format!("{state}: input"), ready(&input));
        t.tell(&format!("{state}: output"), ready(&output));
    };
    for _ in 0..2 {
        tell("idle");
        t.tell("write", client.send(b"hello"));
        tell("written");
        t.tell("read", server.receive(5));
    }
    tell("read");
    t.tell("shutdown", client.socket.shutdown(ShutdownType::Send));
    tell("ended");
    t.tell("read", server.input.read(1));
    tell("the end was read");
    drop((input, output));
}

fn several(t: &Transcript, net: &Net) {
    let (one, two) = (net.connection(), net.connection());
    let pollables = [
        one.server.input.subscribe(),
        one.server.input.subscribe(),
        two.server.input.subscribe(),
        two.client.output.subscribe(),
        two.listener.subscribe(),
    ];
    let among = |chosen: &[usize]| {
        let chosen: Vec<_> = chosen.iter().map(|at| &pollables[*at]).collect();
        format!("{:?}", poll(&chosen))
    };
    t.tell("only the output", among(&[0, 1, 2, 3, 4]));
    t.tell("write", one.client.send(b"x"));
    settle();
    t.tell("one of three inputs, twice", among(&[2, 0, 1, 4]));
    t.tell("the same pollable twice", among(&[0, 0]));
    t.tell("write", two.client.send(b"x"));
    settle();
    t.tell("all inputs", among(&[0, 1, 2]));
    let client = net.client(two.address).expect("connected");
    settle();
    t.tell("all", among(&[4, 3, 2, 1, 0]));
    t.tell("read", one.server.receive(1));
    t.tell("all but one connection's", among(&[0, 1, 2, 4]));
    drop(pollables);
    drop(client);
}

fn reset(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    let (input, output) = (client.input.subscribe(), client.output.subscribe());
    t.tell("write", client.send(b"unread"));
    t.tell("input of the peer", ready(&server.input.subscribe()));
    t.tell("before: input", ready(&input));
    drop(server);
    t.tell("reset: input", ready(&input));
    t.tell("reset: output", ready(&output));
    t.tell("read", client.input.read(1));
    t.tell("read: input", ready(&input));
    t.tell("read: output", ready(&output));
    drop((input, output));
}
