//! Every option: what it takes, what it tells, and who inherits it.

use wasip2::sockets::network::ErrorCode;
use wasip2::sockets::tcp::TcpSocket;

use crate::Case;
use crate::net::{Net, accept, listen};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 5] = [
    ("options-defaults", defaults),
    ("options-values", values),
    ("options-inherited", inherited),
    ("options-set-while-listening", set_while_listening),
    ("options-of-connections", of_connections),
];

const SECOND: u64 = 1_000_000_000;

type Get = fn(&TcpSocket) -> Result<u64, ErrorCode>;
type Set = fn(&TcpSocket, u64) -> Result<(), ErrorCode>;

/// Every option that is a number, with values at and beyond its limits.
const NUMBERS: [(&str, Get, Set, &[u64]); 6] = [
    (
        "keep-alive-idle-time",
        TcpSocket::keep_alive_idle_time,
        TcpSocket::set_keep_alive_idle_time,
        TIMES,
    ),
    (
        "keep-alive-interval",
        TcpSocket::keep_alive_interval,
        TcpSocket::set_keep_alive_interval,
        TIMES,
    ),
    (
        "keep-alive-count",
        |socket| socket.keep_alive_count().map(u64::from),
        |socket, value| socket.set_keep_alive_count(u32::try_from(value).unwrap_or(u32::MAX)),
        &[0, 1, 2, 126, 127, 128, 1 << 16, u32::MAX as u64],
    ),
    (
        "hop-limit",
        |socket| socket.hop_limit().map(u64::from),
        |socket, value| socket.set_hop_limit(u8::try_from(value).unwrap_or(u8::MAX)),
        &[0, 1, 2, 63, 127, 254, 255],
    ),
    (
        "receive-buffer-size",
        TcpSocket::receive_buffer_size,
        TcpSocket::set_receive_buffer_size,
        SIZES,
    ),
    (
        "send-buffer-size",
        TcpSocket::send_buffer_size,
        TcpSocket::set_send_buffer_size,
        SIZES,
    ),
];

const TIMES: &[u64] = &[
    0,
    1,
    SECOND - 1,
    SECOND,
    SECOND + 1,
    42 * SECOND + 7,
    32_767 * SECOND,
    32_768 * SECOND,
    u64::MAX,
];
const SIZES: &[u64] = &[
    0,
    1,
    2,
    1023,
    1024,
    4607,
    4608,
    65_535,
    65_536,
    1 << 20,
    1 << 31,
    1 << 32,
    u64::MAX,
];

/// Tells every option but the buffers' sizes, which the kernel changes while it works.
fn tell(t: &Transcript, socket: &TcpSocket) {
    t.tell("keep-alive-enabled", socket.keep_alive_enabled());
    for (name, get, _, _) in &NUMBERS[..4] {
        t.tell(name, get(socket));
    }
}

fn tell_all(t: &Transcript, socket: &TcpSocket) {
    tell(t, socket);
    for (name, get, _, _) in &NUMBERS[4..] {
        t.tell(name, get(socket));
    }
}

/// Sets every option: what follows from `seed` is within every option's range.
fn set_all(t: &Transcript, socket: &TcpSocket, seed: u64) {
    let enabled = seed.is_multiple_of(2);
    t.tell("set-keep-alive-enabled", socket.set_keep_alive_enabled(enabled));
    let values = [
        seed * SECOND,
        (seed + 1) * SECOND,
        seed + 2,
        seed + 3,
        seed * 1024,
        (seed + 1) * 1024,
    ];
    for ((name, _, set, _), value) in NUMBERS.iter().zip(values) {
        t.tell(&format!("set-{name} {value}"), set(socket, value));
    }
}

fn defaults(t: &Transcript, net: &Net) {
    t.section("unbound");
    let socket = net.socket();
    tell_all(t, &socket);
    t.section("bound");
    net.bind(&socket, net.loopback(0)).expect("bound");
    tell_all(t, &socket);
    t.section("listening");
    listen(&socket).expect("listening");
    tell_all(t, &socket);
    let connection = net.connection();
    t.section("connected");
    tell(t, &connection.client.socket);
    t.section("accepted");
    tell(t, &connection.server.socket);
}

fn values(t: &Transcript, net: &Net) {
    let socket = net.socket();
    for enabled in [true, true, false, false] {
        let set = socket.set_keep_alive_enabled(enabled);
        t.tell(&format!("set-keep-alive-enabled {enabled}"), set);
        t.tell("keep-alive-enabled", socket.keep_alive_enabled());
    }
    for (name, get, set, values) in NUMBERS {
        t.section(name);
        for value in values {
            t.tell(&format!("set-{name} {value}"), set(&socket, *value));
            t.tell(name, get(&socket));
        }
    }
}

fn inherited(t: &Transcript, net: &Net) {
    let listener = net.bound(0);
    set_all(t, &listener, 42);
    listen(&listener).expect("listening");
    let address = listener.local_address().expect("its address");
    let client = net.client(address).expect("connected");
    t.section("by what is accepted");
    let accepted = accept(&listener).expect("accepted");
    tell_all(t, &accepted.socket);
    t.section("not by the other end");
    tell(t, &client.socket);
    t.section("no more when they change");
    set_all(t, &listener, 43);
    tell_all(t, &accepted.socket);
    t.section("nor the other way");
    set_all(t, &accepted.socket, 44);
    tell_all(t, &listener);
    t.section("by what is accepted then");
    let _client = net.client(address).expect("connected");
    tell_all(t, &accept(&listener).expect("accepted").socket);
}

fn set_while_listening(t: &Transcript, net: &Net) {
    let (listener, address) = net.listener();
    set_all(t, &listener, 42);
    tell_all(t, &listener);
    let _client = net.client(address).expect("connected");
    t.section("of a connection made afterwards");
    tell_all(t, &accept(&listener).expect("accepted").socket);
    t.section("of a connection that waited meanwhile");
    let _client = net.client(address).expect("connected");
    set_all(t, &listener, 43);
    tell_all(t, &accept(&listener).expect("accepted").socket);
}

fn of_connections(t: &Transcript, net: &Net) {
    let (listener, address) = net.listener();
    let socket = net.socket();
    set_all(t, &socket, 42);
    t.section("kept when it connects");
    let streams = net.connect(&socket, address).expect("connected");
    let accepted = accept(&listener).expect("accepted");
    tell_all(t, &socket);
    t.section("and changed afterwards");
    set_all(t, &socket, 43);
    tell_all(t, &socket);
    set_all(t, &accepted.socket, 44);
    tell_all(t, &accepted.socket);
    t.section("of an end whose peer is gone");
    drop(accepted);
    t.tell("read", streams.0.blocking_read(1));
    tell_all(t, &socket);
    drop(streams);
}
