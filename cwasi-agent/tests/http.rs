//! HTTP for whoever reaches the port: floods, silence and slowness cost the agent little, and hold up nobody else.

mod fixture;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use cwasi_agent::http::Limits;
use cwasi_client::protocol::{Degradation, Request};
use cwasi_ebpf_common::maps::Flow;
use fixture::{Running, Setup};

/// What no answer takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn connect(running: &Running) -> TcpStream {
    let stream = TcpStream::connect(running.http).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

fn ask(mut stream: &TcpStream, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
}

/// Everything up to the end of the connection.
fn answer(mut stream: &TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(running: &Running, path: &str) -> String {
    let stream = connect(running);
    ask(&stream, path);
    answer(&stream)
}

/// Whether the other end has closed or reset the connection, without a word.
fn is_cut_off(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn with(http_limits: Limits) -> Running {
    Running::with(Setup {
        http_limits,
        ..Setup::default()
    })
}

#[test]
fn who_asks_is_answered_among_the_silent() {
    let running = with(Limits {
        connections: 8,
        ..Limits::default()
    });
    let mut silent = Vec::new();
    for round in 0..30 {
        silent.extend((0..10).map(|_| connect(&running)));
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert!(
                get(&running, path).starts_with("HTTP/1.1 200 "),
                "{round}: {path}"
            );
        }
    }
    let last = silent.split_off(silent.len() - 7);
    assert!(silent.iter().all(is_cut_off), "the oldest silent ones made room");
    for stream in &last {
        ask(stream, "/healthz");
        assert!(
            answer(stream).starts_with("HTTP/1.1 200 "),
            "the newest have their places"
        );
    }
}

#[test]
fn one_that_never_ends_its_request_is_closed() {
    let running = with(Limits {
        time: Duration::from_millis(50),
        ..Limits::default()
    });
    let (silent, mut slow) = (connect(&running), connect(&running));
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").unwrap();
    assert!(is_cut_off(&silent) && is_cut_off(&slow));
}

#[test]
fn an_endless_head_is_refused() {
    let running = Running::new();
    let mut endless = connect(&running);
    let line = format!("X: {}\r\n", "x".repeat(1000));
    // The agent may close before everything is written.
    let _ = endless.write_all(format!("GET /metrics HTTP/1.1\r\n{}", line.repeat(100)).as_bytes());
    let _ = endless.shutdown(Shutdown::Write);
    let mut answer = String::new();
    let _ = endless.read_to_string(&mut answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    assert!(get(&running, "/healthz").contains(" 200 OK"));
}

#[test]
fn a_connection_has_one_answer() {
    let running = Running::new();
    let stream = connect(&running);
    for _ in 0..50 {
        ask(&stream, "/healthz");
    }
    let answer = answer(&stream);
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
}

/// Open connections of a full node.
fn full(running: &Running) {
    running.fake.world().flows = vec![
        Flow {
            cookie: 1,
            ..Flow::default()
        };
        60_000
    ];
}

#[test]
fn many_scrapes_are_few_looks() {
    const ASKING: usize = 200;
    let running = Running::new();
    full(&running);
    let before = running.fake.world().usage_reads;
    let asking: Vec<_> = (0..ASKING).map(|_| connect(&running)).collect();
    for stream in &asking {
        ask(stream, "/metrics");
    }
    // Requests of the node's own programs are not held up.
    running.client().call(&Request::Version).unwrap();
    for stream in &asking {
        assert!(answer(stream).starts_with("HTTP/1.1 200 "));
    }
    let looks = running.fake.world().usage_reads - before;
    assert!(
        looks < ASKING as u64 / 4,
        "{looks} looks for {ASKING} that asked at once"
    );
}

#[test]
fn metrics_are_never_older_than_the_question() {
    let running = Running::new();
    full(&running);
    for enabled in [false, true, false, true] {
        running.client().call(&Request::SetEnabled { enabled }).unwrap();
        let line = format!("\ncwasi_acceleration_enabled {}\n", u8::from(enabled));
        assert!(get(&running, "/metrics").contains(&line));
    }
}

#[test]
fn who_reaches_the_port_learns_no_names() {
    let running = Running::with(Setup {
        degraded: vec![Degradation {
            reason: "attach".to_owned(),
            detail: "1 functions, shop/secret-project for one: /sys/fs/cgroup/pod7".to_owned(),
            remedy: "none".to_owned(),
        }],
        ..Setup::default()
    });
    let ready = get(&running, "/readyz");
    assert!(ready.ends_with("\r\n\r\nok\ndegraded: attach\n"), "{ready}");
    assert!(!get(&running, "/metrics").contains("secret"));
}
