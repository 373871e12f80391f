//! The ends of connections: what an application sees is what plain TCP shows it.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use support::netns::{Bridged, veth};
use support::node::Node;
use support::pod::{Pod, pair};
use support::stream::{Line, Talk, receive, send};
use support::tcp;
use support::{eventually, settle};

/// Plays a scene on a plain connection and on a redirected one, and compares what the scene says it saw.
fn same_as_plain<T: PartialEq + std::fmt::Debug>(scene: impl Fn(TcpStream, TcpStream) -> T) -> Seen<T> {
    let [plain, redirected] = both(scene);
    assert_eq!(redirected, plain, "redirected (left), plain TCP (right)");
    Seen(redirected)
}

/// What a scene saw, which need not be looked at.
struct Seen<T>(T);

/// Plays a scene on a plain connection and on a redirected one.
fn both<T>(scene: impl Fn(TcpStream, TcpStream) -> T) -> [T; 2] {
    let (node, [here, there]) = (Node::new(), veth());
    [true, false].map(|plain| {
        let (client, server) = if plain {
            (Pod::stranger(&here), Pod::stranger(&there))
        } else {
            (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there))
        };
        let connection = pair(&client, &server, Bridged::v4(1));
        Talk::new(&connection, 1).round_trip(10);
        assert_eq!(node.flow_of(&connection.0).is_none(), plain);
        let seen = scene(connection.0, connection.1);
        node.settles();
        seen
    })
}

/// What a read says: so many bytes, or the error.
fn read(stream: &TcpStream) -> Result<usize, ErrorKind> {
    receive(stream, &mut [0; 1 << 16]).map_err(|error| error.kind())
}

/// The error of the first write that fails, if one of many does.
fn write_until_refused(mut stream: &TcpStream) -> Option<ErrorKind> {
    for _ in 0..100 {
        match stream.write(&[0; 100]) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Some(error.kind()),
            _ => thread::sleep(Duration::from_millis(2)),
        }
    }
    None
}

#[test]
fn the_end_comes_after_the_data() {
    needs!();
    for len in [0, 1, 1000, 100_000, 1 << 20] {
        same_as_plain(|from, to| {
            let mut line = Line::new(9);
            thread::scope(|scope| {
                let mut sent = Line::new(9);
                scope.spawn(move || {
                    sent.send(&from, len);
                    drop(from);
                });
                line.expect(&to, len);
                (read(&to), read(&to))
            })
        });
    }
}

#[test]
fn the_client_s_half_close_leaves_the_other_half() {
    needs!();
    half_close(|client, server| (client, server));
}

#[test]
fn the_server_s_half_close_leaves_the_other_half() {
    needs!();
    half_close(|client, server| (server, client));
}

fn half_close(order: impl Fn(TcpStream, TcpStream) -> (TcpStream, TcpStream)) {
    same_as_plain(|client, server| {
        let (closing, open) = order(client, server);
        let (mut first, mut second) = (Line::new(1), Line::new(2));
        first.send(&closing, 50_000);
        closing.shutdown(Shutdown::Write).unwrap();
        let refused = (&closing).write(b"x").map_err(|error| error.kind());
        first.end(&open);
        for len in [1, 1000, 100_000] {
            second.send(&open, len);
            second.expect(&closing, len);
        }
        drop(open);
        second.end(&closing);
        (refused, write_until_refused(&closing))
    });
}

/// Both ends shut down their writing before either has read: TCP is done with both, their readers are not.
#[test]
fn both_ends_shut_down_over_unread_data() {
    needs!();
    for len in [1, 10_000, 200_000] {
        same_as_plain(|client, server| {
            let connection = (client, server);
            let mut talk = Talk::new(&connection, 3);
            talk.up.send(talk.client, len);
            talk.down.send(talk.server, len);
            talk.client.shutdown(Shutdown::Write).unwrap();
            talk.server.shutdown(Shutdown::Write).unwrap();
            settle();
            talk.up.end(talk.server);
            talk.down.end(talk.client);
        });
    }
}

/// The reader has shut down its writing, then its peer sends a last answer and closes: the common end of a request.
#[test]
fn an_answer_after_the_reader_s_half_close_arrives() {
    needs!();
    for len in [1, 10_000, 200_000] {
        same_as_plain(|client, server| {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read(&server), Ok(0));
            let mut line = Line::new(4);
            line.send(&server, len);
            drop(server);
            settle();
            line.end(&client);
        });
    }
}

/// As above, with the half-close on its way while the answer is sent.
#[test]
fn an_answer_that_crosses_the_reader_s_half_close_arrives() {
    needs!();
    same_as_plain(|client, server| {
        let mut line = Line::new(4);
        line.send(&server, 20_000);
        client.shutdown(Shutdown::Write).unwrap();
        line.send(&server, 20_000);
        drop(server);
        settle();
        line.end(&client);
    });
}

#[test]
fn a_reset_is_seen_by_reader_and_writer() {
    needs!();
    let Seen(seen) = same_as_plain(|client, server| {
        tcp::reset_on_close(&client);
        drop(client);
        settle();
        (read(&server), read(&server), write_until_refused(&server))
    });
    assert_eq!(
        seen,
        (
            Err(ErrorKind::ConnectionReset),
            Ok(0),
            Some(ErrorKind::BrokenPipe)
        )
    );
}

#[test]
fn a_reset_refuses_the_next_write() {
    needs!();
    let Seen(seen) = same_as_plain(|client, server| {
        tcp::reset_on_close(&client);
        drop(client);
        settle();
        write_until_refused(&server)
    });
    assert_eq!(seen, Some(ErrorKind::ConnectionReset));
}

/// A reset throws away what its receiver has not read, more or less of it: never anything else than a beginning of the stream.
#[test]
fn a_reset_over_unread_data_leaves_a_beginning() {
    needs!();
    for end in both(|client, server| {
        let mut line = Line::new(6);
        line.send(&client, 50_000);
        tcp::reset_on_close(&client);
        drop(client);
        settle();
        loop {
            match line.receive_some(&server, 1 << 16) {
                Ok(0) => break None,
                Ok(_) => {}
                Err(error) => break Some(error.kind()),
            }
        }
    }) {
        assert_eq!(end, Some(ErrorKind::ConnectionReset));
    }
}

/// Closing over unread data: the peer's writes fail, by whatever error (plain TCP resets at once, a redirected reader later).
#[test]
fn closing_over_unread_data_refuses_the_peer() {
    needs!();
    for refused in both(|client, server| {
        send(&client, &[7; 50_000]).unwrap();
        drop(server);
        settle();
        write_until_refused(&client)
    }) {
        assert!(
            matches!(refused, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)),
            "{refused:?}"
        );
    }
}

#[test]
fn writes_to_a_closed_peer_fail_as_ever() {
    needs!();
    let Seen(seen) = same_as_plain(|client, server| {
        drop(server);
        let end = read(&client);
        let first = (&client).write(&[0; 100]).map_err(|error| error.kind());
        eventually("the reset has come", || tcp::info(&client).state == tcp::CLOSED);
        (
            end,
            first,
            (&client).write(&[0; 100]).map_err(|error| error.kind()),
        )
    });
    assert_eq!(seen, (Ok(0), Ok(100), Err(ErrorKind::BrokenPipe)));
}

/// A sender that fills the queue of a reader that then goes away.
#[test]
fn a_reader_that_goes_away_releases_its_sender() {
    needs!();
    for refused in both(|client, server| {
        let sender = thread::spawn(move || {
            loop {
                if let Err(error) = send(&client, &[0; 10_000]) {
                    return error.kind();
                }
            }
        });
        thread::sleep(Duration::from_millis(200));
        assert!(!sender.is_finished());
        drop(server);
        sender.join().unwrap()
    }) {
        assert!(
            matches!(refused, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            "{refused:?}"
        );
    }
}

/// A process that holds a socket, and whose death closes it.
fn in_a_process(stream: TcpStream) -> std::process::Child {
    let held = Stdio::from(OwnedFd::from(stream));
    Command::new("sleep")
        .arg("1000")
        .stdin(held)
        .stdout(Stdio::null())
        .spawn()
        .expect("start sleep")
}

#[test]
fn the_death_of_a_process_ends_its_stream_after_the_data() {
    needs!();
    let Seen(seen) = same_as_plain(|client, server| {
        let mut line = Line::new(8);
        line.send(&client, 30_000);
        let mut holder = in_a_process(client);
        line.expect(&server, 10_000);
        holder.kill().unwrap();
        holder.wait().unwrap();
        line.end(&server);
        write_until_refused(&server)
    });
    assert_eq!(seen, Some(ErrorKind::BrokenPipe));
}

#[test]
fn the_death_of_a_reader_refuses_the_writer() {
    needs!();
    for refused in both(|client, server| {
        let mut holder = in_a_process(server);
        send(&client, &[1; 1000]).unwrap();
        holder.kill().unwrap();
        holder.wait().unwrap();
        settle();
        write_until_refused(&client)
    }) {
        assert!(
            matches!(refused, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)),
            "{refused:?}"
        );
    }
}

/// Shutting down the reading half changes nothing for what was redirected before, and its writer goes on.
#[test]
fn both_halves_shut_down_at_once() {
    needs!();
    same_as_plain(|client, server| {
        let mut line = Line::new(1);
        line.send(&client, 5000);
        client.shutdown(Shutdown::Both).unwrap();
        line.end(&server);
        (read(&client), (&client).write(b"x").map_err(|error| error.kind()))
    });
}

/// Many connections that end in all ways at once leave nothing behind.
#[test]
fn many_ends_at_once_leave_nothing() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let seed = support::seed("many_ends_at_once_leave_nothing");
    thread::scope(|scope| {
        for thread in 0..4 {
            let (client, server) = (&client, &server);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed + thread);
                for _ in 0..100 {
                    let (one, other) = pair(client, server, Bridged::v4(1));
                    // The end that connected learns with its first bytes whom it is connected to.
                    for (stream, len) in [(&one, random.usize(1..20_000)), (&other, random.usize(..20_000))] {
                        send(stream, &vec![3; len]).unwrap();
                        match random.u8(..4) {
                            0 => tcp::reset_on_close(stream),
                            1 => stream.shutdown(Shutdown::Write).unwrap(),
                            // What has come up to now, if anything.
                            2 => drop((&*stream).read(&mut [0; 5000])),
                            _ => {}
                        }
                    }
                }
            });
        }
    });
    node.settles();
    let sums = node.traffic(client.id, server.id);
    assert_eq!(sums.connections, 400);
}
