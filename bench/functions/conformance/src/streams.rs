//! Bytes: every call that moves them, none of them, all of them.

use wasip2::sockets::tcp::ShutdownType;

use crate::Case;
use crate::net::{BLOCKING_WRITE, Connection, Net, ready, settle};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 10] = [
    ("streams-echo", echo),
    ("streams-nothing", nothing),
    ("streams-zeroes", zeroes),
    ("streams-skip", skip),
    ("streams-splice", splice),
    ("streams-splice-ends", splice_ends),
    ("streams-blocking-calls-at-the-end", blocking_calls_at_the_end),
    ("streams-small-reads", small_reads),
    ("streams-huge-requests", huge_requests),
    ("streams-both-ways", both_ways),
];

fn echo(t: &Transcript, net: &Net) {
    let connection = net.connection();
    for size in [1, 2, 64, 1000, BLOCKING_WRITE] {
        let bytes = vec![b'a'; size];
        t.tell("write", connection.client.output.blocking_write_and_flush(&bytes));
        let received = connection.server.receive(size);
        let received = t.call("read", received).expect("read");
        t.tell(
            "write",
            connection.server.output.blocking_write_and_flush(&received),
        );
        t.tell("read", connection.client.receive(size));
    }
}

fn nothing(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    t.section("where nothing is");
    t.tell("read 0", client.input.read(0));
    t.tell("read", client.input.read(1));
    t.tell("skip 0", client.input.skip(0));
    t.tell("skip", client.input.skip(1));
    t.tell("write 0", client.output.write(&[]));
    t.tell("write-zeroes 0", client.output.write_zeroes(0));
    t.tell("blocking-write 0", client.output.blocking_write_and_flush(&[]));
    t.tell(
        "blocking-write-zeroes 0",
        client.output.blocking_write_zeroes_and_flush(0),
    );
    t.tell("flush", client.output.flush());
    t.tell("blocking-flush", client.output.blocking_flush());
    t.tell("splice 0", client.output.splice(&client.input, 0));
    t.tell("splice", client.output.splice(&client.input, 1));
    t.tell("the peer has", server.input.read(10));
    t.section("where something is");
    t.tell("write", client.send(b"something"));
    t.tell("pollable", ready(&server.input.subscribe()));
    t.tell("read 0", server.input.read(0));
    t.tell("blocking-read 0", server.input.blocking_read(0));
    t.tell("skip 0", server.input.skip(0));
    t.tell("read", server.receive(9));
    t.section("at the end");
    t.tell("shutdown", client.socket.shutdown(ShutdownType::Send));
    t.tell("pollable", ready(&server.input.subscribe()));
    t.tell("read 0", server.input.read(0));
    t.tell("skip 0", server.input.skip(0));
    t.tell("blocking-read 0", server.input.blocking_read(0));
    t.tell("read", server.input.read(1));
    t.section("after the end");
    t.tell("read 0", server.input.read(0));
    t.tell("blocking-read 0", server.input.blocking_read(0));
    t.tell("skip 0", server.input.skip(0));
}

fn zeroes(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    let _ = t.amount("check-write", client.output.check_write());
    t.tell("write-zeroes", client.output.write_zeroes(3));
    t.tell(
        "blocking-write-zeroes",
        client.output.blocking_write_zeroes_and_flush(4096),
    );
    let bytes = t.call("read", server.receive(4099)).expect("read");
    t.tell("all are zero", bytes.iter().all(|byte| *byte == 0));
}

fn skip(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    t.tell("write", client.send(b"0123456789"));
    t.tell("pollable", ready(&server.input.subscribe()));
    t.tell("skip", server.input.skip(3));
    t.tell("blocking-skip", server.input.blocking_skip(2));
    t.tell("read", server.input.read(2));
    t.tell("skip more than there is", server.input.skip(100));
    t.tell("skip where nothing is", server.input.skip(100));
    drop(client);
    t.tell("blocking-skip at the end", server.input.blocking_skip(1));
    t.tell("skip after the end", server.input.skip(1));
}

fn splice(t: &Transcript, net: &Net) {
    let (one, two) = (net.connection(), net.connection());
    t.tell("write", one.client.send(b"through two connections"));
    t.tell("pollable", ready(&one.server.input.subscribe()));
    t.tell("splice a part", two.client.output.splice(&one.server.input, 7));
    t.tell(
        "splice the rest",
        two.client.output.splice(&one.server.input, 100),
    );
    t.tell("splice nothing", two.client.output.splice(&one.server.input, 100));
    t.tell("read", two.server.receive(23));
    t.section("back through the connection that it came by");
    t.tell("write", one.client.send(b"echo"));
    t.tell(
        "blocking-splice",
        one.server.output.blocking_splice(&one.server.input, 100),
    );
    t.tell("read", one.client.receive(4));
    t.section("with a length that no host can take");
    t.tell("write", one.client.send(b"echo"));
    t.tell("pollable", ready(&one.server.input.subscribe()));
    t.tell("splice", one.server.output.splice(&one.server.input, u64::MAX));
    t.tell("read", one.client.receive(4));
}

fn splice_ends(t: &Transcript, net: &Net) {
    let (one, two) = (net.connection(), net.connection());
    t.section("the source ends");
    t.tell("write", one.client.send(b"last"));
    t.tell("shutdown", one.client.socket.shutdown(ShutdownType::Send));
    settle();
    t.tell("splice", two.client.output.splice(&one.server.input, 100));
    t.tell("pollable", ready(&one.server.input.subscribe()));
    t.tell("splice", two.client.output.splice(&one.server.input, 100));
    t.tell("splice 0", two.client.output.splice(&one.server.input, 0));
    t.tell(
        "blocking-splice",
        two.client.output.blocking_splice(&one.server.input, 100),
    );
    t.tell("read", two.server.receive(4));
    t.section("the destination ends");
    t.tell("write", two.client.send(b"kept"));
    t.tell("shutdown", one.server.socket.shutdown(ShutdownType::Send));
    t.tell("splice", one.server.output.splice(&two.server.input, 100));
    t.tell(
        "blocking-splice",
        one.server.output.blocking_splice(&two.server.input, 100),
    );
    t.tell("read", two.server.receive(4));
}

fn blocking_calls_at_the_end(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    t.tell("shutdown", client.socket.shutdown(ShutdownType::Send));
    t.tell("blocking-write", client.output.blocking_write_and_flush(b"x"));
    t.tell("blocking-write 0", client.output.blocking_write_and_flush(&[]));
    t.tell(
        "blocking-write-zeroes",
        client.output.blocking_write_zeroes_and_flush(1),
    );
    t.tell("write-zeroes", client.output.write_zeroes(1));
    t.tell("blocking-flush", client.output.blocking_flush());
    t.tell("blocking-read", server.input.blocking_read(1));
    t.tell("blocking-read", server.input.blocking_read(1));
    t.tell("blocking-skip", server.input.blocking_skip(1));
}

/// Bytes keep their order, however they are taken.
fn small_reads(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    let sent: Vec<u8> = (0..=255).collect();
    for piece in sent.chunks(100) {
        t.tell("write", client.output.blocking_write_and_flush(piece));
    }
    let mut received = Vec::new();
    for length in (1..).take_while(|length| length * (length - 1) / 2 < sent.len()) {
        let missing = sent.len() - received.len();
        received.extend(server.receive(length.min(missing)).expect("read"));
    }
    t.tell("read", received.len());
    t.tell("as sent", received == sent);
}

fn huge_requests(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    t.tell("read where nothing is", server.input.read(u64::MAX));
    t.tell("write", client.send(b"hello"));
    t.tell("blocking-read", server.input.blocking_read(u64::MAX));
    t.tell("write", client.send(b"hello"));
    t.tell("pollable", ready(&server.input.subscribe()));
    t.tell("read", server.input.read(u64::MAX));
    t.tell("write", client.send(b"hello"));
    t.tell("blocking-skip", server.input.blocking_skip(u64::MAX));
    drop(client);
    t.tell("read at the end", server.input.blocking_read(u64::MAX));
}

/// A round trip needs nothing but its two messages.
fn both_ways(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    for round in 0..100_u32 {
        client.send(&round.to_le_bytes()).expect("sent");
        let request = server.receive(4).expect("received");
        server.send(&request).expect("answered");
        assert_eq!(client.receive(4).expect("received"), round.to_le_bytes());
    }
    t.tell("round trips", 100_u32);
    t.section("messages that cross");
    for _ in 0..10 {
        client.send(b"to the server").expect("sent");
        server.send(b"to the client").expect("sent");
    }
    t.tell(
        "read",
        server
            .receive(130)
            .map(|bytes| bytes == b"to the server".repeat(10)),
    );
    t.tell(
        "read",
        client
            .receive(130)
            .map(|bytes| bytes == b"to the client".repeat(10)),
    );
}
