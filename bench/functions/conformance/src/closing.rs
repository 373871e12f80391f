//! Ends of connections: in order, with bytes that nobody read, and what is told of them afterwards.

use wasip2::sockets::tcp::ShutdownType;

use crate::Case;
use crate::net::{Connection, End, Net, ready, settle};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 8] = [
    ("close-in-order", in_order),
    ("close-with-data-on-its-way", with_data_on_its_way),
    ("close-with-unread-data", with_unread_data),
    ("close-with-unread-data-both-ways", with_unread_data_both_ways),
    ("close-then-written", then_written),
    ("close-then-written-then-read", then_written_then_read),
    ("close-after-shutdown", after_shutdown),
    ("close-output-only", output_only),
];

fn reads(t: &Transcript, end: &End) {
    t.tell("input pollable", ready(&end.input.subscribe()));
    t.tell("read", end.input.read(100));
    // A host may take a read that gave less than it was asked for as the last one, until it is waited for the next.
    t.tell("input pollable", ready(&end.input.subscribe()));
    t.tell("read again", end.input.read(100));
    t.tell("blocking-read", end.input.blocking_read(100));
}

fn writes(t: &Transcript, end: &End) {
    t.tell("output pollable", ready(&end.output.subscribe()));
    if t.amount("check-write", end.output.check_write()).is_ok() {
        t.tell("write", end.output.write(b"anybody?"));
    }
    settle();
}

fn addresses(t: &Transcript, end: &End) {
    t.tell("local-address", end.socket.local_address());
    t.tell("remote-address", end.socket.remote_address());
    t.tell("shutdown", end.socket.shutdown(ShutdownType::Both));
}

fn in_order(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    drop(client);
    settle();
    reads(t, &server);
    addresses(t, &server);
}

/// What was written before the end is read before the end.
fn with_data_on_its_way(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    let bytes = vec![b'x'; 100_000];
    t.tell("write", client.send(&bytes));
    drop(client);
    settle();
    let (received, end) = server.receive_all();
    t.tell("read", received);
    t.tell("then", Err::<u64, _>(end));
}

/// An end that goes without having read everything resets the connection.
fn with_unread_data(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    t.tell("write", client.send(b"unread"));
    t.tell("input pollable", ready(&server.input.subscribe()));
    drop(server);
    settle();
    reads(t, &client);
    writes(t, &client);
    writes(t, &client);
    addresses(t, &client);
}

/// The reset does not take what had arrived.
fn with_unread_data_both_ways(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    t.tell("write", client.send(b"unread"));
    t.tell("input pollable", ready(&server.input.subscribe()));
    t.tell("write", server.send(b"last words"));
    t.tell("input pollable", ready(&client.input.subscribe()));
    drop(server);
    settle();
    reads(t, &client);
    writes(t, &client);
    addresses(t, &client);
}

/// The first write after the peer went is taken, and only then it is known that nobody is there.
fn then_written(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    drop(server);
    settle();
    writes(t, &client);
    writes(t, &client);
    writes(t, &client);
    reads(t, &client);
    addresses(t, &client);
}

fn then_written_then_read(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    t.tell("write", server.send(b"last words"));
    drop(server);
    settle();
    writes(t, &client);
    reads(t, &client);
    writes(t, &client);
    writes(t, &client);
}

fn after_shutdown(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    t.tell("shutdown", client.socket.shutdown(ShutdownType::Send));
    settle();
    t.tell("read", server.input.read(1));
    t.tell("write", server.send(b"answer"));
    t.section("the end that was half closed goes without reading");
    drop(client);
    settle();
    writes(t, &server);
    writes(t, &server);
    reads(t, &server);
}

/// The end of a stream's handle is not the end of the stream.
fn output_only(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    let End {
        input,
        output,
        socket,
    } = client;
    t.tell("write", output.blocking_write_and_flush(b"last words"));
    drop(output);
    t.tell("read", server.receive(10));
    t.tell("input pollable", ready(&server.input.subscribe()));
    t.tell("read", server.input.read(1));
    t.tell("answer", server.send(b"answer"));
    t.tell("read", input.blocking_read(10));
    t.section("nor is that of the other one");
    drop(input);
    t.tell("write", server.send(b"more"));
    t.tell("input pollable", ready(&server.input.subscribe()));
    t.tell("read", server.input.read(1));
    t.tell("shutdown", socket.shutdown(ShutdownType::Send));
    t.tell("read", server.input.blocking_read(1));
    t.section("the socket's is");
    drop(socket);
    settle();
    writes(t, &server);
    writes(t, &server);
}
