//! Handles that are dropped in another order than they were made. Most of it ends the guest, so each has its case.

use wasip2::io::poll::poll;
use wasip2::sockets::tcp::TcpSocket;

use crate::Case;
use crate::net::{Connection, End, Net, finish, ready};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 10] = [
    ("drop-streams-first", streams_first),
    ("drop-socket-first", socket_first),
    ("drop-accepted-socket-first", accepted_socket_first),
    ("drop-socket-before-input", socket_before_input),
    ("drop-socket-before-output", socket_before_output),
    ("drop-socket-before-pollable", socket_before_pollable),
    ("drop-input-before-pollable", input_before_pollable),
    ("drop-output-before-pollable", output_before_pollable),
    ("drop-listener-first", listener_first),
    ("poll-nothing", poll_nothing),
];

fn streams_first(t: &Transcript, net: &Net) {
    let Connection { client, server, .. } = net.connection();
    let End {
        input,
        output,
        socket,
    } = client;
    drop(input);
    t.tell("without input: write", output.blocking_write_and_flush(b"x"));
    t.tell("without input: read", server.receive(1));
    drop(output);
    t.tell("without streams: local-address", socket.local_address());
    t.tell("without streams: finish-connect", socket.finish_connect());
    drop(socket);
    t.tell("without the socket: read", server.input.blocking_read(1));
}

fn socket_first(t: &Transcript, net: &Net) {
    let Connection { client, .. } = net.connection();
    let End {
        input,
        output,
        socket,
    } = client;
    drop(socket);
    t.tell("write", output.blocking_write_and_flush(b"x"));
    drop((input, output));
}

fn accepted_socket_first(t: &Transcript, net: &Net) {
    let Connection { server, .. } = net.connection();
    let End {
        input,
        output,
        socket,
    } = server;
    drop(socket);
    t.tell("write", output.blocking_write_and_flush(b"x"));
    drop((input, output));
}

fn socket_before_input(t: &Transcript, net: &Net) {
    let Connection { client, .. } = net.connection();
    let End {
        input,
        output,
        socket,
    } = client;
    drop(output);
    drop(socket);
    t.tell("read", input.read(1));
}

fn socket_before_output(t: &Transcript, net: &Net) {
    let Connection { client, .. } = net.connection();
    let End {
        input,
        output,
        socket,
    } = client;
    drop(input);
    drop(socket);
    t.tell("write", output.blocking_write_and_flush(b"x"));
}

fn socket_before_pollable(t: &Transcript, net: &Net) {
    let socket = net.socket();
    let pollable = socket.subscribe();
    drop(socket);
    t.tell("pollable", ready(&pollable));
}

fn input_before_pollable(t: &Transcript, net: &Net) {
    let Connection { client, .. } = net.connection();
    let pollable = client.input.subscribe();
    drop(client.input);
    t.tell("pollable", ready(&pollable));
}

fn output_before_pollable(t: &Transcript, net: &Net) {
    let Connection { client, .. } = net.connection();
    let pollable = client.output.subscribe();
    drop(client.output);
    t.tell("pollable", ready(&pollable));
}

fn listener_first(t: &Transcript, net: &Net) {
    let (listener, address) = net.listener();
    let client = net.client(address).expect("connected");
    let (socket, input, output) = finish(&listener, TcpSocket::accept).expect("accepted");
    drop(listener);
    t.tell("write", output.blocking_write_and_flush(b"x"));
    t.tell("read", client.receive(1));
    drop((input, output));
    drop(socket);
    t.tell("read", client.input.blocking_read(1));
}

fn poll_nothing(t: &Transcript, _: &Net) {
    t.tell("poll", format!("{:?}", poll(&[])));
}
