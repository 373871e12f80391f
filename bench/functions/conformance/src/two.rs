//! Cases of two guests: what one of them sees of the other's ways to end, and of what it sends.

use std::process::exit;

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::sockets::network::ErrorCode;
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};

use crate::Role;
use crate::net::{End, Net, accept, listen, settle};
use crate::transcript::Transcript;

/// Each with what the serving guest and the connecting one do.
pub(crate) const CASES: [(&str, Role, Role); 9] = [
    ("two-echo", echo_serve, echo_connect),
    ("two-large", large_serve, large_connect),
    ("two-server-exits", server_exits_serve, server_exits_connect),
    (
        "two-server-exits-unread",
        server_exits_unread_serve,
        server_exits_unread_connect,
    ),
    ("two-server-traps", server_traps_serve, server_exits_connect),
    ("two-client-exits", client_exits_serve, client_exits_connect),
    ("two-client-exits-while-sending", large_serve, large_exits_connect),
    ("two-half-close", half_close_serve, half_close_connect),
    ("two-pending-when-server-exits", pending_serve, pending_connect),
];

/// More than any buffer between two guests takes.
const LARGE: u64 = 32 << 20;

/// Connects, waiting for the other guest to listen.
fn client(t: &Transcript, net: &Net, port: u16) -> End {
    let end = loop {
        match net.client(net.loopback(port)) {
            Err(ErrorCode::ConnectionRefused) => subscribe_duration(1_000_000).block(),
            connected => break connected.expect("connected"),
        }
    };
    t.tell("connected to", end.socket.remote_address());
    end
}

fn listener(t: &Transcript, net: &Net, port: u16) -> TcpSocket {
    let listener = net.bound(port);
    listen(&listener).expect("listening");
    t.tell("listening on", listener.local_address());
    listener
}

/// Accepts one connection and listens no more.
fn server(t: &Transcript, net: &Net, port: u16) -> End {
    accept(&listener(t, net, port)).expect("accepted")
}

fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

/// Reads to the end, and tells how it was.
fn read_all(t: &Transcript, end: &End, length_known: bool) {
    let (bytes, last) = end.receive_all();
    let intact = bytes.iter().zip(0..).all(|(found, at)| *found == byte(at));
    t.tell("as sent", intact);
    if length_known {
        t.tell("read", bytes.len());
    }
    t.tell("then", Err::<u64, _>(last));
}

fn echo_serve(t: &Transcript, net: &Net, port: u16) {
    let end = server(t, net, port);
    loop {
        match end.input.blocking_read(1 << 16) {
            Ok(bytes) => end.send(&bytes).expect("sent"),
            last => {
                t.tell("end", last);
                return;
            }
        }
    }
}

fn echo_connect(t: &Transcript, net: &Net, port: u16) {
    let end = client(t, net, port);
    for round in 0..1000_u32 {
        end.send(&round.to_le_bytes()).expect("sent");
        assert_eq!(end.receive(4).expect("read"), round.to_le_bytes());
    }
    t.tell("round trips", 1000_u32);
    for size in [1, 4096, 65_536, 200_000] {
        let bytes: Vec<u8> = (0..size).map(byte).collect();
        end.send(&bytes).expect("sent");
        let echo = end.receive(bytes.len()).expect("read");
        t.tell(&format!("{size} bytes came back as sent"), echo == bytes);
    }
}

fn large_serve(t: &Transcript, net: &Net, port: u16) {
    let end = server(t, net, port);
    read_all(t, &end, false);
}

/// Writes as fast as it may.
fn write(end: &End, length: u64) {
    let pollable = end.output.subscribe();
    let mut written = 0;
    while written < length {
        let permit = end.output.check_write().expect("a permit").min(length - written);
        if permit == 0 {
            pollable.block();
            continue;
        }
        let bytes: Vec<u8> = (written..written + permit).map(byte).collect();
        end.output.write(&bytes).expect("written");
        written += permit;
    }
}

fn large_connect(t: &Transcript, net: &Net, port: u16) {
    let end = client(t, net, port);
    write(&end, LARGE);
    t.tell("shutdown", end.socket.shutdown(ShutdownType::Send));
    t.tell("answer", end.input.blocking_read(1));
}

/// Ends while the last bytes may still be on their way: all that was taken arrives, or the peer is told that it did not.
fn large_exits_connect(t: &Transcript, net: &Net, port: u16) {
    let end = client(t, net, port);
    write(&end, 1 << 16);
    t.tell("flush", end.output.blocking_flush());
    t.line("exits");
    exit(0);
}

fn server_exits_serve(t: &Transcript, net: &Net, port: u16) {
    let end = server(t, net, port);
    end.send(b"last words").expect("sent");
    t.line("exits");
    exit(0);
}

fn server_traps_serve(t: &Transcript, net: &Net, port: u16) {
    let end = server(t, net, port);
    end.send(b"last words").expect("sent");
    t.line("traps");
    std::process::abort();
}

fn server_exits_connect(t: &Transcript, net: &Net, port: u16) {
    let end = client(t, net, port);
    t.tell("read", end.receive(10));
    t.tell("read", end.input.blocking_read(1));
    settle();
    t.tell("connect", net.client(net.loopback(port)).map(drop));
}

fn server_exits_unread_serve(t: &Transcript, net: &Net, port: u16) {
    let end = server(t, net, port);
    end.input.subscribe().block();
    t.line("exits");
    exit(0);
}

fn server_exits_unread_connect(t: &Transcript, net: &Net, port: u16) {
    let end = client(t, net, port);
    end.send(b"unread").expect("sent");
    t.tell("read", end.input.blocking_read(1));
    t.tell("read again", end.input.blocking_read(1));
}

fn client_exits_serve(t: &Transcript, net: &Net, port: u16) {
    let listener = listener(t, net, port);
    for _ in 0..2 {
        let end = accept(&listener).expect("accepted");
        read_all(t, &end, true);
    }
}

fn client_exits_connect(t: &Transcript, net: &Net, port: u16) {
    let one = client(t, net, port);
    let two = client(t, net, port);
    for (end, length) in [(&one, 10), (&two, 2000)] {
        let bytes: Vec<u8> = (0..length).map(byte).collect();
        end.send(&bytes).expect("sent");
    }
    t.line("exits");
    exit(0);
}

fn half_close_serve(t: &Transcript, net: &Net, port: u16) {
    let end = server(t, net, port);
    read_all(t, &end, true);
    end.send(b"answer").expect("sent");
    t.tell("shutdown", end.socket.shutdown(ShutdownType::Send));
    settle();
}

fn half_close_connect(t: &Transcript, net: &Net, port: u16) {
    let end = client(t, net, port);
    let bytes: Vec<u8> = (0..100_000).map(byte).collect();
    end.send(&bytes).expect("sent");
    t.tell("shutdown", end.socket.shutdown(ShutdownType::Send));
    let (answer, last) = end.receive_all();
    t.tell("read", answer);
    t.tell("then", Err::<u64, _>(last));
}

fn pending_serve(t: &Transcript, net: &Net, port: u16) {
    let listener = listener(t, net, port);
    listener.subscribe().block();
    settle();
    t.line("exits");
    exit(0);
}

fn pending_connect(t: &Transcript, net: &Net, port: u16) {
    let end = client(t, net, port);
    t.tell("read", end.input.blocking_read(1));
    settle();
    t.tell("connect", net.client(net.loopback(port)).map(drop));
}
