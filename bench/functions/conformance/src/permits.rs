//! What a stream may be written without blocking. What is not permitted ends the guest, so each has its case.

use crate::Case;
use crate::net::{BLOCKING_WRITE, Connection, Net, ready};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 9] = [
    ("permit-kept", kept),
    ("permit-many-small-writes", many_small_writes),
    ("permit-not-asked", not_asked),
    ("permit-not-asked-zeroes", not_asked_zeroes),
    ("permit-exceeded", exceeded),
    ("permit-exceeded-zeroes", exceeded_zeroes),
    ("permit-used-twice", used_twice),
    ("permit-blocking-write", blocking_write),
    ("permit-blocking-zeroes", blocking_zeroes),
];

/// A whole permit can be written at once, and what it was is there at the other end.
fn kept(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    t.tell("pollable", ready(&client.output.subscribe()));
    let permit = t
        .amount("check-write", client.output.check_write())
        .expect("a permit");
    let again = t.amount("check-write again", client.output.check_write());
    t.tell("the same", again.expect("a permit") == permit);
    let bytes: Vec<u8> = (0..permit).map(|at| (at % 251) as u8).collect();
    t.tell("write", client.output.write(&bytes));
    t.tell("flush", client.output.flush());
    let received = server.receive(bytes.len()).expect("received");
    t.tell("as sent", received == bytes);
    t.tell("pollable", ready(&client.output.subscribe()));
    let _ = t.amount("check-write", client.output.check_write());
}

/// An idle stream can always be written: each write is handed on at once.
fn many_small_writes(t: &Transcript, net: &Net) {
    const WRITES: usize = 1000;
    let Connection { client, server, .. } = net.connection();
    let mut written = 0;
    for _ in 0..WRITES {
        if client.output.check_write().expect("a permit") > 0 {
            client.output.write(b"x").expect("written");
            written += 1;
        }
    }
    t.tell("each was permitted", written == WRITES);
    t.tell(
        "read what was written",
        server.receive(written).map(|bytes| bytes.len() == written),
    );
}

fn not_asked(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    t.tell("write", client.output.write(b"x"));
    t.tell("read", server.receive(1));
}

fn not_asked_zeroes(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    t.tell("write-zeroes", client.output.write_zeroes(1));
    t.tell("read", server.receive(1));
}

fn exceeded(t: &Transcript, net: &Net) {
    let Connection { client, .. } = net.connection();
    let permit = t
        .amount("check-write", client.output.check_write())
        .expect("a permit");
    let bytes = vec![0; usize::try_from(permit).expect("an amount") + 1];
    t.tell("write", client.output.write(&bytes));
}

fn exceeded_zeroes(t: &Transcript, net: &Net) {
    let Connection { client, .. } = net.connection();
    let permit = t
        .amount("check-write", client.output.check_write())
        .expect("a permit");
    t.tell("write-zeroes", client.output.write_zeroes(permit + 1));
}

fn used_twice(t: &Transcript, net: &Net) {
    let Connection { client, .. } = net.connection();
    let permit = t
        .amount("check-write", client.output.check_write())
        .expect("a permit");
    let bytes = vec![0; usize::try_from(permit).expect("an amount")];
    t.tell("write", client.output.write(&bytes));
    t.tell("write again", client.output.write(&bytes));
}

fn blocking_write(t: &Transcript, net: &Net) {
    let Connection { client, .. } = net.connection();
    let bytes = vec![0; BLOCKING_WRITE + 1];
    t.tell("blocking-write", client.output.blocking_write_and_flush(&bytes));
}

fn blocking_zeroes(t: &Transcript, net: &Net) {
    let Connection { client, .. } = net.connection();
    let zeroes = BLOCKING_WRITE as u64 + 1;
    t.tell(
        "blocking-write-zeroes",
        client.output.blocking_write_zeroes_and_flush(zeroes),
    );
}
