//! Connections inside of a process, from its reporter to what commands and metrics show.

mod fixture;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cwasi_client::cgroup::Leaf;
use cwasi_client::client::ClientError;
use cwasi_client::process_report::{
    FunctionRef, MAX_CONNECTIONS, ProcessConnection, ProcessEnd, ProcessReport, ProcessTotals, Reporter,
    monotonic_ns,
};
use cwasi_client::protocol::{
    ApiError, ErrorCode, Flow, FunctionSpec, MAX_REQUEST_BYTES, Reply, Request, Status,
};
use fixture::{Running, leaf};

fn end(function: &str, address: &str) -> ProcessEnd {
    ProcessEnd {
        function: function.to_owned(),
        address: address.parse().unwrap(),
        messages: 1,
        bytes: 2048,
    }
}

fn report(messages: u64) -> ProcessReport {
    ProcessReport {
        totals: ProcessTotals {
            connections: 4,
            messages,
            bytes: messages * 1024,
        },
        open: 3,
        connections: vec![ProcessConnection {
            client: end("ping", "127.0.0.1:40000"),
            server: end("echo", "127.0.0.1:80"),
            established_ns: monotonic_ns(),
        }],
    }
}

fn sandbox(running: &Running, leaf: &Leaf) -> FunctionSpec {
    FunctionSpec {
        members: vec!["ping".to_owned(), "echo".to_owned()],
        ..running.function("pod", leaf)
    }
}

fn of(leaf: &Leaf) -> FunctionRef {
    FunctionRef::Cgroup(leaf.path().to_owned())
}

fn metrics(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn command(running: &Running, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_cwasi-agent"))
        .env("CWASI_SOCKET", &running.socket)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn status(running: &Running) -> Box<Status> {
    match running.client().call(&Request::Status).unwrap() {
        Reply::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

/// Waits until the agent was told of so many messages.
fn wait_for(running: &Running, messages: u64) {
    let mut tries = 0;
    while status(running).traffic.process_messages != messages {
        tries += 1;
        assert!(tries < 6000, "{messages} messages are never reported");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_reported_is_shown_everywhere() {
    let running = Running::new();
    let Some(leaf) = leaf("processes-shown") else {
        return;
    };
    let mut client = running.client();
    let registered = client.register(&sandbox(&running, &leaf)).unwrap();
    client.report_process(&of(&leaf), &report(5)).unwrap();
    client
        .report_process(&FunctionRef::Id(registered.id), &report(6))
        .unwrap();

    let text = metrics(running.http);
    for line in [
        "cwasi_flows_active{path=\"process\"} 3",
        "cwasi_process_connections_total 4",
        "cwasi_messages_total{path=\"process\"} 6",
        "cwasi_bytes_total{path=\"process\"} 6144",
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "{line} is not in {text}");
    }

    let text = command(&running, &["flows"]);
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let from = [
        "default/echo",
        "default/ping",
        "127.0.0.1:80",
        "127.0.0.1:40000",
        "process",
    ];
    assert_eq!(rows[1][..5], from, "{text}");
    assert_eq!(rows[1][5..11], ["0", "B", "0", "B", "2.0", "KiB"], "{text}");
    assert_eq!(rows[2][4], "process", "{text}");
    let flows: Vec<Flow> = serde_json::from_str(&command(&running, &["flows", "-o", "json"])).unwrap();
    assert_eq!(flows[0].path, "process");
    assert_eq!(flows[0].sent.process_bytes, 2048);

    let text = command(&running, &["status"]);
    assert!(text.contains("0 kernel, 0 network, 3 process"), "{text}");
    assert!(text.contains("6.0 KiB in 6 messages"), "{text}");
    let text = command(&running, &["functions"]);
    assert!(text.contains("default/pod (ping echo)"), "{text}");
    let text = command(&running, &["explain", "ping", "echo"]);
    assert!(text.starts_with("path: process\n"), "{text}");

    client.unregister(registered.id).unwrap();
    assert_eq!(client.call(&Request::Flows).unwrap(), Reply::Flows(Vec::new()));
    assert!(metrics(running.http).contains("\ncwasi_messages_total{path=\"process\"} 6\n"));
    let refused = client.report_process(&of(&leaf), &report(7)).unwrap_err();
    let ClientError::Refused(refusal) = refused else {
        panic!("{refused}")
    };
    assert_eq!(refusal.code, ErrorCode::NotFound);
}

#[test]
fn the_longest_list_fits_into_a_request() {
    let running = Running::new();
    let Some(leaf) = leaf("processes-longest") else {
        return;
    };
    let mut client = running.client();
    client.register(&sandbox(&running, &leaf)).unwrap();
    let mut report = report(1);
    report.connections = vec![report.connections[0].clone(); MAX_CONNECTIONS];
    client.report_process(&of(&leaf), &report).unwrap();
    let Reply::Flows(flows) = client.call(&Request::Flows).unwrap() else {
        panic!("no flows")
    };
    assert_eq!(flows.len(), 2 * MAX_CONNECTIONS);
    // Names as long as they may be: fewer are listed, all are counted.
    for connection in &mut report.connections {
        connection.client.function = "p".repeat(253);
    }
    report.open = MAX_CONNECTIONS as u64;
    client.report_process(&of(&leaf), &report).unwrap();
    let Reply::Flows(flows) = client.call(&Request::Flows).unwrap() else {
        panic!("no flows")
    };
    let fit = MAX_REQUEST_BYTES / 500;
    assert!(
        (fit..2 * MAX_CONNECTIONS).contains(&flows.len()),
        "{}",
        flows.len()
    );
    assert_eq!(status(&running).flows.process, MAX_CONNECTIONS as u64);
}

#[test]
fn members_are_checked() {
    let running = Running::new();
    let Some(leaf) = leaf("processes-members") else {
        return;
    };
    for members in [vec!["a b".to_owned()], vec!["a".to_owned(); 65]] {
        let spec = FunctionSpec {
            members,
            ..running.function("pod", &leaf)
        };
        assert!(running.client().register(&spec).is_err());
    }
}

#[test]
fn a_reporter_finds_agents_that_come_and_go() {
    let (first, second) = (Running::new(), Running::new());
    let Some(leaf) = leaf("processes-reporter") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let messages = Arc::new(AtomicU64::new(0));
    let told = {
        let messages = Arc::clone(&messages);
        move || match messages.load(Ordering::Relaxed) {
            0 => ProcessReport::default(),
            messages => ProcessReport {
                connections: Vec::new(),
                ..report(messages)
            },
        }
    };
    let refused = |error| panic!("refused: {error}");
    let reporter = Reporter::start(socket.clone(), of(&leaf), told, refused).unwrap();
    messages.store(7, Ordering::Relaxed);
    // An agent comes, which learns of the function later still.
    symlink(&first.socket, &socket).unwrap();
    first.client().register(&sandbox(&first, &leaf)).unwrap();
    wait_for(&first, 7);
    messages.store(8, Ordering::Relaxed);
    wait_for(&first, 8);
    assert_eq!(status(&first).flows.process, 3);
    // Another takes its place: it is told although nothing is new.
    std::fs::remove_file(&socket).unwrap();
    symlink(&second.socket, &socket).unwrap();
    second.client().register(&sandbox(&second, &leaf)).unwrap();
    wait_for(&second, 8);
    messages.store(9, Ordering::Relaxed);
    drop(reporter);
    let last = status(&second);
    assert_eq!((last.traffic.process_messages, last.flows.process), (9, 0));
    let agent = second
        .agent
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .functions();
    assert_eq!(agent[0].sent.process_messages, 9);
}

#[test]
fn a_report_that_is_refused_is_told_once() {
    let running = Running::new();
    let Some(leaf) = leaf("processes-refused") else {
        return;
    };
    let (refused, refusals) = channel();
    let is_named = Arc::new(AtomicBool::new(false));
    let told = {
        let (is_named, mut messages) = (Arc::clone(&is_named), 0);
        move || {
            messages += 1;
            let mut report = report(messages);
            if !is_named.load(Ordering::Relaxed) {
                report.connections[0].client.function = "a b".to_owned();
            }
            report
        }
    };
    running.client().register(&sandbox(&running, &leaf)).unwrap();
    let refused = move |error: ApiError| refused.send(error).unwrap();
    let reporter = Reporter::start(running.socket.clone(), of(&leaf), told, refused).unwrap();
    let refusal = refusals.recv().unwrap();
    assert_eq!(refusal.code, ErrorCode::Invalid);
    assert!(refusal.message.contains("a b"), "{refusal}");
    assert_eq!(status(&running).traffic.process_messages, 0);
    // What can be taken later is.
    is_named.store(true, Ordering::Relaxed);
    drop(reporter);
    assert!(status(&running).traffic.process_messages > 1);
    assert!(
        refusals.recv().is_err(),
        "it was told once, and nobody is left to tell more"
    );
}
