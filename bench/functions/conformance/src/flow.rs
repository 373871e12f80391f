//! Back-pressure, large amounts, and many connections at once.

use wasip2::io::poll::poll;
use wasip2::sockets::tcp::ShutdownType;

use crate::Case;
use crate::net::{Connection, End, Net, accept, ready};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 6] = [
    ("flow-back-pressure", back_pressure),
    ("flow-back-pressure-small-buffers", back_pressure_small_buffers),
    ("flow-shut-down-while-full", shut_down_while_full),
    ("flow-peer-gone-while-full", peer_gone_while_full),
    ("flow-both-directions", both_directions),
    ("flow-many-connections", many_connections),
];

/// The byte at a place of a stream.
fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

/// Writes as long as it is permitted, also after a pause; tells how much.
fn fill(end: &End, written: &mut u64) {
    loop {
        let permit = match end.output.check_write().expect("a permit") {
            0 => {
                // Acknowledgements that come late make room.
                ready(&end.output.subscribe());
                ready(&end.output.subscribe());
                end.output.check_write().expect("a permit")
            }
            permit => permit,
        };
        if permit == 0 {
            return;
        }
        let bytes: Vec<u8> = (*written..*written + permit).map(byte).collect();
        end.output.write(&bytes).expect("written");
        *written += permit;
    }
}

/// Reads all that was written; tells whether it was as sent.
fn drain(end: &End, read: &mut u64, written: u64) -> bool {
    let mut intact = true;
    while *read < written {
        let bytes = end.input.blocking_read(1 << 20).expect("read");
        intact &= bytes.iter().zip(*read..).all(|(found, at)| *found == byte(at));
        *read += bytes.len() as u64;
    }
    intact
}

fn fill_and_drain(t: &Transcript, sender: &End, receiver: &End) {
    let (mut written, mut read) = (0, 0);
    for _ in 0..2 {
        fill(sender, &mut written);
        t.tell("full: pollable", ready(&sender.output.subscribe()));
        let _ = t.amount("full: check-write", sender.output.check_write());
        t.tell("full: flush", sender.output.flush());
        t.tell("written something", written > read);
        t.tell("read as sent", drain(receiver, &mut read, written));
        t.tell("drained: pollable", ready(&sender.output.subscribe()));
        let _ = t.amount("drained: check-write", sender.output.check_write());
        t.tell("read all that was written", read == written);
        t.tell("and no more", receiver.input.read(1));
    }
}

/// A reader that does not read stops its writer, and lets it go on when it reads.
fn back_pressure(t: &Transcript, net: &Net) {
    let connection = net.connection();
    fill_and_drain(t, &connection.client, &connection.server);
    t.section("the other way");
    fill_and_drain(t, &connection.server, &connection.client);
}

fn back_pressure_small_buffers(t: &Transcript, net: &Net) {
    let connection = net.connection();
    let (client, server) = (&connection.client, &connection.server);
    t.tell("set-send-buffer-size", client.socket.set_send_buffer_size(4096));
    t.tell(
        "set-receive-buffer-size",
        server.socket.set_receive_buffer_size(4096),
    );
    fill_and_drain(t, client, server);
}

/// What was written before a shutdown arrives, and the end after it.
fn shut_down_while_full(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    let mut written = 0;
    fill(&client, &mut written);
    t.tell("shutdown", client.socket.shutdown(ShutdownType::Send));
    // How it is told that nothing more can be written while the rest is on its way is not compared: see `polling`.
    let (bytes, end) = server.receive_all();
    let intact = bytes.iter().zip(0..).all(|(found, at)| *found == byte(at));
    t.tell("as sent", intact);
    t.tell("all of it", bytes.len() as u64 == written);
    t.tell("then", Err::<u64, _>(end));
    t.tell("the writer", client.output.check_write());
    t.tell("pollable", ready(&client.output.subscribe()));
}

/// A writer that waits for a reader that goes is woken.
fn peer_gone_while_full(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    let mut written = 0;
    fill(&client, &mut written);
    let pollable = client.output.subscribe();
    t.tell("full: pollable", ready(&pollable));
    drop(server);
    t.tell("gone: pollable", ready(&pollable));
    drop(pollable);
    t.tell("gone: check-write", client.output.check_write());
    t.tell("gone: check-write again", client.output.check_write());
    t.tell("gone: input pollable", ready(&client.input.subscribe()));
    t.tell("gone: read", client.input.read(1));
    t.tell("gone: read again", client.input.read(1));
}

/// Both ends write and read at once, more than any buffer takes.
fn both_directions(t: &Transcript, net: &Net) {
    const BYTES: u64 = 16 << 20;
    let Connection { client, server, .. } = net.connection();
    let mut ends = [(&client, 0, 0, true), (&server, 0, 0, true)];
    while ends.iter().any(|(_, _, read, _)| *read < BYTES) {
        let mut moved = false;
        for (end, written, read, intact) in &mut ends {
            let permit = end.output.check_write().expect("a permit").min(BYTES - *written);
            if permit > 0 {
                let bytes: Vec<u8> = (*written..*written + permit).map(byte).collect();
                end.output.write(&bytes).expect("written");
                *written += permit;
                moved = true;
            }
            let bytes = end.input.read(1 << 20).expect("read");
            *intact &= bytes.iter().zip(*read..).all(|(found, at)| *found == byte(at));
            *read += bytes.len() as u64;
            moved |= !bytes.is_empty();
        }
        if !moved {
            let waiting: Vec<_> = ends
                .iter()
                .flat_map(|(end, written, ..)| {
                    let output = (*written < BYTES).then(|| end.output.subscribe());
                    [Some(end.input.subscribe()), output]
                })
                .flatten()
                .collect();
            poll(&waiting.iter().collect::<Vec<_>>());
        }
    }
    for (_, written, read, intact) in ends {
        t.tell("written", written);
        t.tell("read", read);
        t.tell("as sent", intact);
    }
}

/// Many connections to one listener, of which each has its own bytes.
fn many_connections(t: &Transcript, net: &Net) {
    const CLIENTS: usize = 64;
    let (listener, address) = net.listener();
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        let client = net.client(address).expect("connected");
        connections.push((client, accept(&listener).expect("accepted")));
    }
    // The last ones write first.
    for (at, (client, _)) in connections.iter().enumerate().rev() {
        client.send(&at.to_le_bytes()).expect("sent");
    }
    let mut served = 0;
    while served < CLIENTS {
        let pollables: Vec<_> = connections
            .iter()
            .map(|(_, server)| server.input.subscribe())
            .collect();
        let ready = poll(&pollables.iter().collect::<Vec<_>>());
        drop(pollables);
        for at in ready {
            let (_, server) = &connections[at as usize];
            // A pollable may be ready too early.
            let request = server.input.read(size_of::<usize>() as u64).expect("read");
            if request.is_empty() {
                continue;
            }
            assert_eq!(request, (at as usize).to_le_bytes());
            server.send(&request).expect("answered");
            served += 1;
        }
    }
    for (at, (client, _)) in connections.iter().enumerate() {
        let answer = client.receive(size_of::<usize>()).expect("read");
        assert_eq!(answer, at.to_le_bytes());
    }
    t.tell("served", served);
    t.section("every second one goes");
    let mut at = 0;
    connections.retain(|_| {
        at += 1;
        at % 2 == 0
    });
    for (client, server) in &connections {
        client.send(b"x").expect("sent");
        assert_eq!(server.receive(1).expect("read"), b"x");
    }
    t.tell("served", connections.len());
}
