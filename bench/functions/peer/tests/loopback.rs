//! Clients and servers in one process, over loopback and AF_UNIX.

use std::io::{Read, Write};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cwasi_peer::client::{Client, Measured};
use cwasi_peer::message::Header;
use cwasi_peer::server::{self, Served, Server};
use cwasi_peer::socket::{Address, Listener, Stream};
use cwasi_peer::{Error, Result};

const SERVER: Server = Server {
    connections: None,
    together: 1,
    nodelay: true,
    verify: true,
};

/// What a server reported and complained of.
type Ended = (Vec<Served>, Vec<String>);

/// Where a server listens, and what it reported and complained of when it has ended.
fn serve(address: &str, server: Server) -> (Address, JoinHandle<Ended>) {
    let listener = Listener::bind(&address.parse().unwrap()).unwrap();
    let local = listener.local().clone();
    let thread = thread::spawn(move || {
        let (mut reports, mut complaints) = (Vec::new(), Vec::new());
        let report = |served: &Served| {
            reports.push(*served);
            Ok::<_, Error>(())
        };
        server::serve(&listener, server, report, |error| {
            complaints.push(error.to_string())
        })
        .unwrap();
        (reports, complaints)
    });
    (local, thread)
}

fn client(servers: &[&Address], size: usize, answer: usize) -> Client {
    Client {
        servers: servers.iter().copied().cloned().collect(),
        connections: 1,
        size,
        answer,
        count: 20,
        warmup: 3,
        rounds: false,
        fresh: false,
        nodelay: true,
        verify: true,
    }
}

fn assert_ordered(measured: &Measured) {
    let times = measured.times;
    assert!(0.0 < times.min_us && times.min_us <= times.p50_us, "{times:?}");
    assert!(
        times.p50_us <= times.p99_us && times.p99_us <= times.max_us,
        "{times:?}"
    );
    assert!(measured.seconds > 0.0 && measured.per_second > 0.0);
}

#[test]
fn every_size_arrives_over_both_families() {
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", dir.path().join("s").display());
    // 8 MiB is more than the sockets buffer.
    let sizes = [
        (1, 1),
        (7, 7),
        (64, 64),
        (1009, 1),
        (8 << 20, 1),
        (8 << 20, 8 << 20),
    ];
    for address in ["127.0.0.1:0", "[::1]:0", &unix] {
        let server = Server {
            connections: Some(sizes.len() as u64),
            ..SERVER
        };
        let (local, thread) = serve(address, server);
        for (size, answer) in sizes {
            let measured = client(&[&local], size, answer).run().unwrap();
            assert_eq!((measured.size, measured.answer), (size, answer));
            assert_eq!(
                (measured.connections, measured.count, measured.round),
                (1, 20, None)
            );
            assert_ordered(&measured);
        }
        let (reports, complaints) = thread.join().unwrap();
        assert_eq!(complaints, Vec::<String>::new());
        // A client may come before the one before it is seen to have gone.
        let requests: u64 = reports.iter().map(|served| served.requests).sum();
        assert_eq!(requests, 23 * sizes.len() as u64);
    }
}

#[test]
fn one_client_fans_out_and_counts_rounds() {
    let two = Server {
        connections: Some(2),
        ..SERVER
    };
    let (a, first) = serve("127.0.0.1:0", two);
    let (b, second) = serve("127.0.0.1:0", two);
    let measured = Client {
        connections: 2,
        rounds: true,
        ..client(&[&a, &b], 100_000, 1)
    };
    let measured = measured.run().unwrap();
    assert_eq!((measured.connections, measured.count), (4, 80));
    assert_ordered(&measured);
    // A round is as long as its longest request, or longer.
    assert!(measured.round.unwrap().max_us >= measured.times.max_us);
    for thread in [first, second] {
        let (reports, complaints) = thread.join().unwrap();
        assert_eq!((reports[0].connections, reports[0].requests), (2, 46));
        assert_eq!(reports[0].bytes, 4_600_000);
        assert_eq!((reports.len(), complaints.len(), reports[0].failed), (1, 0, 0));
    }
}

#[test]
fn many_clients_fan_in_together() {
    let server = Server {
        connections: Some(3),
        together: 3,
        ..SERVER
    };
    let (local, thread) = serve("127.0.0.1:0", server);
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let client = client(&[&local], 1000, 1000);
            thread::spawn(move || client.run().unwrap())
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap().count, 20);
    }
    let (reports, _) = thread.join().unwrap();
    assert_eq!(
        (reports.len(), reports[0].connections, reports[0].requests),
        (1, 3, 69)
    );
    assert!(reports[0].seconds > 0.0 && reports[0].per_second > 0.0);
}

#[test]
fn each_request_can_have_a_connection_of_its_own() {
    let server = Server {
        connections: Some(23),
        ..SERVER
    };
    let (local, thread) = serve("127.0.0.1:0", server);
    let client = Client {
        fresh: true,
        ..client(&[&local], 64, 64)
    };
    let measured = client.run().unwrap();
    assert_eq!((measured.connections, measured.count), (1, 20));
    let (reports, complaints) = thread.join().unwrap();
    assert_eq!(complaints, Vec::<String>::new());
    assert_eq!(reports.iter().map(|served| served.requests).sum::<u64>(), 23);
}

#[test]
fn a_server_finds_what_clients_do_wrong_and_goes_on() {
    let server = Server {
        connections: Some(4),
        ..SERVER
    };
    let (local, thread) = serve("127.0.0.1:0", server);
    let connect = || Stream::connect(&local, true, Duration::ZERO).unwrap();
    let header = Header {
        request: 100,
        answer: 1,
        close_after: 0,
    };
    let mut request = [0; 100];
    cwasi_peer::message::fill(&mut request);
    cwasi_peer::message::stamp(&mut request, 0);
    request[50] ^= 1;
    let mut altered = connect();
    altered.write_all(&header.encode()).unwrap();
    altered.write_all(&request).unwrap();
    // Closed without an answer: by a reset, since the server read everything, by an end of stream.
    assert_eq!(altered.read(&mut [0]).unwrap(), 0);
    let mut cut = connect();
    cut.write_all(&header.encode()).unwrap();
    cut.write_all(&request[..10]).unwrap();
    cut.shutdown_write().unwrap();
    assert_eq!(cut.read(&mut [0]).unwrap(), 0);
    let mut garbage = connect();
    garbage.write_all(&[255; Header::BYTES]).unwrap();
    assert_eq!(garbage.read(&mut [0]).unwrap(), 0);
    client(&[&local], 10, 10).run().unwrap();
    let (reports, complaints) = thread.join().unwrap();
    assert_eq!(
        complaints,
        [
            "wrong data: request 0 arrived altered",
            "cannot read a request: unexpected end of file",
            "wrong data: a message of 18446744073709551615 bytes is announced",
        ]
    );
    assert_eq!(reports.iter().map(|served| served.failed).sum::<u64>(), 3);
}

#[test]
fn a_client_finds_an_altered_answer() {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let local = listener.local().clone();
    let liar = thread::spawn(move || {
        let mut stream = listener.accept().unwrap();
        let mut message = [0; Header::BYTES + 100];
        stream.read_message(&mut message).unwrap();
        message[Header::BYTES + 50] ^= 1;
        stream.write_all(&message[Header::BYTES..]).unwrap();
    });
    let run: Result<Measured> = client(&[&local], 100, 100).run();
    assert!(matches!(run, Err(Error::Data(_))), "{run:?}");
    liar.join().unwrap();
}

#[test]
fn senseless_numbers_are_refused() {
    let address: Address = "127.0.0.1:1".parse().unwrap();
    for wrong in [
        client(&[], 1, 1),
        client(&[&address], 0, 0),
        client(&[&address], 10, 11),
        Client {
            count: 0,
            ..client(&[&address], 1, 1)
        },
    ] {
        assert!(matches!(wrong.run(), Err(Error::Senseless(_))), "{wrong:?}");
    }
}
