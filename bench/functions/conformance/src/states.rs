//! Every method in every state, each on a socket of its own, and what the socket tells of itself afterwards.

use wasip2::io::streams::{InputStream, OutputStream};
use wasip2::sockets::network::IpSocketAddress;
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};

use crate::Case;
use crate::net::{End, Net, accept, listen, ready, settle};
use crate::transcript::Transcript;

pub(crate) const CASES: [(&str, Case); 15] = [
    ("state-unbound", |t, net| every_method(t, net, unbound)),
    ("state-bind-in-progress", |t, net| {
        every_method(t, net, bind_in_progress)
    }),
    ("state-bound", |t, net| every_method(t, net, bound)),
    ("state-listen-in-progress", |t, net| {
        every_method(t, net, listen_in_progress)
    }),
    ("state-listening", |t, net| every_method(t, net, listening)),
    ("state-listening-with-client", |t, net| {
        every_method(t, net, listening_with_client)
    }),
    ("state-connect-in-progress", |t, net| {
        every_method(t, net, connect_in_progress)
    }),
    ("state-connect-waited-for", |t, net| {
        every_method(t, net, connect_waited_for)
    }),
    ("state-connect-refused", |t, net| {
        every_method(t, net, connect_refused)
    }),
    ("state-connected", |t, net| every_method(t, net, connected)),
    ("state-accepted", |t, net| every_method(t, net, accepted)),
    ("state-closed", |t, net| every_method(t, net, closed)),
    ("state-shut-down", |t, net| every_method(t, net, shut_down)),
    ("state-peer-gone", |t, net| every_method(t, net, peer_gone)),
    ("state-reset", |t, net| every_method(t, net, reset)),
];

/// A socket in a state, and what keeps it there.
struct Subject {
    streams: Option<(InputStream, OutputStream)>,
    socket: TcpSocket,
    _peer: Option<End>,
    _listener: Option<TcpSocket>,
    /// Where somebody listens.
    somewhere: IpSocketAddress,
}

type Make = fn(&Net) -> Subject;
type Method = fn(&Transcript, &Net, &mut Subject);

const METHODS: [(&str, Method); 34] = [
    ("start-bind", |t, net, it| {
        t.tell("start-bind", it.socket.start_bind(&net.network, net.loopback(0)));
    }),
    ("finish-bind", |t, _, it| {
        t.tell("finish-bind", it.socket.finish_bind())
    }),
    ("start-connect", |t, net, it| {
        t.tell("start-connect", net.start_connect(&it.socket, it.somewhere));
    }),
    ("finish-connect", |t, _, it| {
        if let Ok(streams) = t.call("finish-connect", it.socket.finish_connect()) {
            it.streams = Some(streams);
        }
    }),
    ("start-listen", |t, _, it| {
        t.tell("start-listen", it.socket.start_listen())
    }),
    ("finish-listen", |t, _, it| {
        t.tell("finish-listen", it.socket.finish_listen())
    }),
    ("accept", |t, _, it| {
        if let Ok((socket, input, output)) = t.call("accept", it.socket.accept()) {
            drop(End {
                input,
                output,
                socket,
            });
        }
    }),
    ("local-address", |t, _, it| {
        t.tell("local-address", it.socket.local_address())
    }),
    ("remote-address", |t, _, it| {
        t.tell("remote-address", it.socket.remote_address())
    }),
    ("is-listening", |t, _, it| {
        t.tell("is-listening", it.socket.is_listening())
    }),
    ("address-family", |t, _, it| {
        t.call("address-family", it.socket.address_family());
    }),
    ("set-listen-backlog-size 0", |t, _, it| {
        t.tell("set", it.socket.set_listen_backlog_size(0));
    }),
    ("set-listen-backlog-size", |t, _, it| {
        t.tell("set", it.socket.set_listen_backlog_size(5));
    }),
    ("keep-alive-enabled", |t, _, it| {
        t.tell("get", it.socket.keep_alive_enabled())
    }),
    ("set-keep-alive-enabled", |t, _, it| {
        t.tell("set", it.socket.set_keep_alive_enabled(true));
        t.tell("get", it.socket.keep_alive_enabled());
    }),
    ("keep-alive-idle-time", |t, _, it| {
        t.tell("get", it.socket.keep_alive_idle_time())
    }),
    ("set-keep-alive-idle-time 0", |t, _, it| {
        t.tell("set", it.socket.set_keep_alive_idle_time(0));
    }),
    ("set-keep-alive-idle-time", |t, _, it| {
        t.tell("set", it.socket.set_keep_alive_idle_time(42_000_000_001));
        t.tell("get", it.socket.keep_alive_idle_time());
    }),
    ("keep-alive-interval", |t, _, it| {
        t.tell("get", it.socket.keep_alive_interval())
    }),
    ("set-keep-alive-interval 0", |t, _, it| {
        t.tell("set", it.socket.set_keep_alive_interval(0));
    }),
    ("set-keep-alive-interval", |t, _, it| {
        t.tell("set", it.socket.set_keep_alive_interval(42_000_000_001));
        t.tell("get", it.socket.keep_alive_interval());
    }),
    ("keep-alive-count", |t, _, it| {
        t.tell("get", it.socket.keep_alive_count())
    }),
    ("set-keep-alive-count 0", |t, _, it| {
        t.tell("set", it.socket.set_keep_alive_count(0))
    }),
    ("set-keep-alive-count", |t, _, it| {
        t.tell("set", it.socket.set_keep_alive_count(42));
        t.tell("get", it.socket.keep_alive_count());
    }),
    ("hop-limit", |t, _, it| t.tell("get", it.socket.hop_limit())),
    ("set-hop-limit 0", |t, _, it| {
        t.tell("set", it.socket.set_hop_limit(0))
    }),
    ("set-hop-limit", |t, _, it| {
        t.tell("set", it.socket.set_hop_limit(42));
        t.tell("get", it.socket.hop_limit());
    }),
    ("receive-buffer-size", |t, _, it| {
        let _ = t.amount("get", it.socket.receive_buffer_size());
        t.tell("set 0", it.socket.set_receive_buffer_size(0));
        t.tell("set", it.socket.set_receive_buffer_size(0x1_0000));
        t.tell("get", it.socket.receive_buffer_size());
    }),
    ("send-buffer-size", |t, _, it| {
        let _ = t.amount("get", it.socket.send_buffer_size());
        t.tell("set 0", it.socket.set_send_buffer_size(0));
        t.tell("set", it.socket.set_send_buffer_size(0x1_0000));
        t.tell("get", it.socket.send_buffer_size());
    }),
    ("subscribe", |t, _, it| {
        t.call("pollable", ready(&it.socket.subscribe()));
    }),
    ("shutdown receive", |t, _, it| {
        t.tell("shutdown", it.socket.shutdown(ShutdownType::Receive));
    }),
    ("shutdown send", |t, _, it| {
        t.tell("shutdown", it.socket.shutdown(ShutdownType::Send));
    }),
    ("shutdown both", |t, _, it| {
        t.tell("shutdown", it.socket.shutdown(ShutdownType::Both));
    }),
    ("drop", |_, _, it| it.streams = None),
];

fn every_method(t: &Transcript, net: &Net, make: Make) {
    for (name, method) in METHODS {
        t.section(name);
        let mut subject = make(net);
        method(t, net, &mut subject);
        t.tell("then local-address", subject.socket.local_address());
        t.tell("then remote-address", subject.socket.remote_address());
        t.tell("then is-listening", subject.socket.is_listening());
        t.tell("then finish-bind", subject.socket.finish_bind());
        t.tell("then finish-listen", subject.socket.finish_listen());
    }
}

fn subject(net: &Net, socket: TcpSocket) -> Subject {
    let (listener, somewhere) = net.listener();
    Subject {
        streams: None,
        socket,
        _peer: None,
        _listener: Some(listener),
        somewhere,
    }
}

fn unbound(net: &Net) -> Subject {
    subject(net, net.socket())
}

fn bind_in_progress(net: &Net) -> Subject {
    let subject = unbound(net);
    let started = subject.socket.start_bind(&net.network, net.loopback(0));
    started.expect("started");
    subject
}

fn bound(net: &Net) -> Subject {
    subject(net, net.bound(0))
}

fn listen_in_progress(net: &Net) -> Subject {
    let subject = bound(net);
    subject.socket.start_listen().expect("started");
    subject
}

fn listening(net: &Net) -> Subject {
    let subject = bound(net);
    listen(&subject.socket).expect("listening");
    subject
}

fn listening_with_client(net: &Net) -> Subject {
    let mut subject = listening(net);
    let address = subject.socket.local_address().expect("its address");
    subject._peer = Some(net.client(address).expect("connected"));
    subject.socket.subscribe().block();
    subject
}

fn connect_in_progress(net: &Net) -> Subject {
    let subject = unbound(net);
    let started = net.start_connect(&subject.socket, subject.somewhere);
    started.expect("started");
    subject
}

fn connect_waited_for(net: &Net) -> Subject {
    let subject = connect_in_progress(net);
    subject.socket.subscribe().block();
    subject
}

fn connect_refused(net: &Net) -> Subject {
    let subject = unbound(net);
    let nobody = net.loopback(net.free_port());
    net.start_connect(&subject.socket, nobody).expect("started");
    subject.socket.subscribe().block();
    subject
}

fn connected(net: &Net) -> Subject {
    let connection = net.connection();
    let End {
        input,
        output,
        socket,
    } = connection.client;
    Subject {
        streams: Some((input, output)),
        socket,
        _peer: Some(connection.server),
        _listener: Some(connection.listener),
        somewhere: connection.address,
    }
}

fn accepted(net: &Net) -> Subject {
    let (listener, somewhere) = net.listener();
    let client = net.client(somewhere).expect("connected");
    let End {
        input,
        output,
        socket,
    } = accept(&listener).expect("accepted");
    Subject {
        streams: Some((input, output)),
        socket,
        _peer: Some(client),
        _listener: Some(listener),
        somewhere,
    }
}

fn closed(net: &Net) -> Subject {
    let subject = connect_refused(net);
    assert!(subject.socket.finish_connect().is_err());
    subject
}

fn shut_down(net: &Net) -> Subject {
    let subject = connected(net);
    let shut = subject.socket.shutdown(ShutdownType::Both);
    shut.expect("shut down");
    subject
}

fn peer_gone(net: &Net) -> Subject {
    let mut subject = connected(net);
    subject._peer = None;
    subject
}

fn reset(net: &Net) -> Subject {
    let mut subject = connected(net);
    if let Some((_, output)) = &subject.streams {
        output.blocking_write_and_flush(b"unread").expect("sent");
    }
    if let Some(peer) = &subject._peer {
        peer.input.subscribe().block();
    }
    subject._peer = None;
    settle();
    subject
}
