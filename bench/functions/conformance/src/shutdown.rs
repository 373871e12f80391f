//! `shutdown` of one direction or both, and what each end's streams do afterwards.

use wasip2::sockets::tcp::ShutdownType;

use crate::Case;
use crate::net::{Connection, End, Net, ready, settle};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 9] = [
    ("shutdown-send", send),
    ("shutdown-send-answered", send_answered),
    ("shutdown-receive", receive),
    ("shutdown-receive-unread", receive_unread),
    ("shutdown-receive-then-close", receive_then_close),
    ("shutdown-both", both),
    ("shutdown-both-unread", both_unread),
    ("shutdown-by-both-ends", by_both_ends),
    ("shutdown-repeated", repeated),
];

/// Tells all that an end's streams answer.
fn streams(t: &Transcript, who: &str, end: &End) {
    t.section(who);
    t.tell("input pollable", ready(&end.input.subscribe()));
    t.tell("read 0", end.input.read(0));
    t.tell("read", end.input.read(10));
    t.tell("skip", end.input.skip(10));
    t.tell("output pollable", ready(&end.output.subscribe()));
    let permit = t.amount("check-write", end.output.check_write());
    if permit.is_ok() {
        t.tell("write 0", end.output.write(&[]));
        t.tell("write", end.output.write(b"more"));
    }
    t.tell("flush", end.output.flush());
    t.tell("local-address", end.socket.local_address());
    t.tell("remote-address", end.socket.remote_address());
}

fn both_streams(t: &Transcript, connection: &Connection) {
    streams(t, "the end that was shut down", &connection.client);
    settle();
    streams(t, "the other end", &connection.server);
    settle();
    streams(t, "the end that was shut down, again", &connection.client);
    settle();
    streams(t, "the other end, again", &connection.server);
}

fn send(t: &Transcript, net: &Net) {
    let connection = net.connection();
    t.tell("write", connection.client.send(b"last words"));
    t.tell(
        "shutdown send",
        connection.client.socket.shutdown(ShutdownType::Send),
    );
    settle();
    let (bytes, end) = connection.server.receive_all();
    t.tell("read", bytes);
    t.tell("read", Err::<u64, _>(end));
    both_streams(t, &connection);
}

/// Half-close: an answer to what ended.
fn send_answered(t: &Transcript, net: &Net) {
    let connection = net.connection();
    t.tell("request", connection.client.send(b"request"));
    t.tell(
        "shutdown send",
        connection.client.socket.shutdown(ShutdownType::Send),
    );
    let (bytes, end) = connection.server.receive_all();
    t.tell("read", bytes);
    t.tell("read", Err::<u64, _>(end));
    settle();
    for part in ["first", "second"] {
        t.tell("answer", connection.server.send(part.as_bytes()));
        t.tell("read", connection.client.receive(part.len()));
    }
    t.tell(
        "client writes",
        connection.client.output.blocking_write_and_flush(b"x"),
    );
    drop(connection.server);
    t.tell("read", connection.client.input.blocking_read(10));
}

fn receive(t: &Transcript, net: &Net) {
    let connection = net.connection();
    t.tell(
        "shutdown receive",
        connection.client.socket.shutdown(ShutdownType::Receive),
    );
    both_streams(t, &connection);
}

/// What waits to be read is gone.
fn receive_unread(t: &Transcript, net: &Net) {
    let connection = net.connection();
    t.tell("write", connection.server.send(b"unread"));
    t.tell("input pollable", ready(&connection.client.input.subscribe()));
    t.tell(
        "shutdown receive",
        connection.client.socket.shutdown(ShutdownType::Receive),
    );
    both_streams(t, &connection);
}

fn receive_then_close(t: &Transcript, net: &Net) {
    let connection = net.connection();
    t.tell(
        "shutdown receive",
        connection.client.socket.shutdown(ShutdownType::Receive),
    );
    settle();
    t.tell("peer writes", connection.server.send(b"to nobody"));
    settle();
    drop(connection.client);
    settle();
    streams(t, "the other end", &connection.server);
    settle();
    streams(t, "the other end, again", &connection.server);
}

fn both(t: &Transcript, net: &Net) {
    let connection = net.connection();
    t.tell("write", connection.client.send(b"last words"));
    t.tell(
        "shutdown both",
        connection.client.socket.shutdown(ShutdownType::Both),
    );
    settle();
    t.tell("read", connection.server.receive(10));
    both_streams(t, &connection);
}

fn both_unread(t: &Transcript, net: &Net) {
    let connection = net.connection();
    t.tell("write", connection.server.send(b"unread"));
    t.tell("input pollable", ready(&connection.client.input.subscribe()));
    t.tell(
        "shutdown both",
        connection.client.socket.shutdown(ShutdownType::Both),
    );
    both_streams(t, &connection);
}

fn by_both_ends(t: &Transcript, net: &Net) {
    let connection = net.connection();
    t.tell("write", connection.client.send(b"ping"));
    t.tell("write", connection.server.send(b"pong"));
    t.tell(
        "shutdown send",
        connection.client.socket.shutdown(ShutdownType::Send),
    );
    t.tell(
        "shutdown send",
        connection.server.socket.shutdown(ShutdownType::Send),
    );
    for end in [&connection.client, &connection.server] {
        let (bytes, last) = end.receive_all();
        t.tell("read", bytes);
        t.tell("read", Err::<u64, _>(last));
    }
    both_streams(t, &connection);
}

fn repeated(t: &Transcript, net: &Net) {
    let connection = net.connection();
    for (name, direction) in [
        ("receive", ShutdownType::Receive),
        ("receive", ShutdownType::Receive),
        ("send", ShutdownType::Send),
        ("send", ShutdownType::Send),
        ("both", ShutdownType::Both),
        ("both", ShutdownType::Both),
    ] {
        let shut = connection.client.socket.shutdown(direction);
        t.tell(&format!("shutdown {name}"), shut);
    }
    t.tell("read", connection.server.input.blocking_read(1));
    t.section("of an end whose peer is gone");
    drop(connection.client);
    settle();
    for direction in [ShutdownType::Send, ShutdownType::Receive, ShutdownType::Both] {
        t.tell("shutdown", connection.server.socket.shutdown(direction));
    }
}
