//! The native peers, in two pods over plain TCP and on this machine over AF_UNIX.

use std::process::Command;
use std::time::Duration;

use cwasi_bench::Error;
use cwasi_bench::process::Process;
use cwasi_bench::topology::{Pod, Topology};
use serde_json::Value;

const NATIVE: &str = env!("CARGO_BIN_EXE_cwasi-native");
const NATIVE_C: &str = env!("CARGO_BIN_EXE_cwasi-native-c");
const TIMEOUT: Duration = Duration::from_secs(60);

/// Two pods, or `None` with a line on stderr that says what is missing.
fn topology() -> Option<Topology> {
    match Topology::create(&["server", "client"]) {
        Ok(topology) => Some(topology),
        Err(error @ (Error::NotRoot | Error::Spawn { .. })) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Runs a server for one connection in a pod and a client in another, and returns the client's report.
fn pair(pods: &[Pod], address: &str, port: u16, server: &[&str], client: &[&str]) -> Value {
    pair_of(pods, [NATIVE; 2], (address, port), server, client)
}

/// The same, with the programs of server and client.
fn pair_of(
    pods: &[Pod],
    [server_program, client_program]: [&str; 2],
    (address, port): (&str, u16),
    server: &[&str],
    client: &[&str],
) -> Value {
    let address = format!("{address}:{port}");
    let command = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(
            words
                .iter()
                .map(|word| if *word == "ADDR" { &address } else { *word }),
        );
        command
    };
    let mut running = Process::spawn(&mut command(server_program, server), Some(pods[0].netns())).unwrap();
    running.wait_listening(pods[0].netns(), port, TIMEOUT).unwrap();
    let client = Process::spawn(&mut command(client_program, client), Some(pods[1].netns())).unwrap();
    let report = serde_json::from_str(&client.wait(TIMEOUT).unwrap()).unwrap();
    running.stop().unwrap();
    report
}

#[test]
fn every_pair_works_between_pods() {
    let Some(topology) = topology() else { return };
    let pods = topology.pods();
    let v4 = pods[0].v4.to_string();

    let ping = [
        "ping",
        "ADDR",
        "--size",
        "1048576",
        "--count",
        "20",
        "--warmup",
        "2",
        "--nodelay",
    ];
    let report = pair(pods, &v4, 7001, &["echo", "ADDR", "--size", "1048576"], &ping);
    assert_eq!(
        (report["size"].as_u64(), report["count"].as_u64()),
        (Some(1 << 20), Some(20))
    );

    let source = [
        "stream", "source", "ADDR", "--size", "1000", "--bytes", "50000001",
    ];
    let report = pair(pods, &v4, 7002, &["stream", "sink", "ADDR", "--verify"], &source);
    assert_eq!(
        (report["bytes"].as_u64(), report["ok"].as_bool()),
        (Some(50_000_001), Some(true))
    );

    let report = pair(
        pods,
        &v4,
        7003,
        &["serve", "ADDR"],
        &["connect-rate", "ADDR", "--count", "300"],
    );
    assert_eq!(report["count"].as_u64(), Some(300));

    let fetch = ["fetch", "ADDR", "--size", "1048576", "--count", "20", "--verify"];
    let report = pair(
        pods,
        &v4,
        7004,
        &["serve-file", "ADDR", "--size", "1048576"],
        &fetch,
    );
    assert_eq!(
        (report["count"].as_u64(), report["ok"].as_bool()),
        (Some(20), Some(true))
    );

    if let Some(v6) = pods[0].v6 {
        let report = pair(
            pods,
            &format!("[{v6}]"),
            7005,
            &["echo", "ADDR"],
            &["ping", "ADDR", "--count", "20"],
        );
        assert_eq!(report["count"].as_u64(), Some(20));
    }
}

#[test]
fn the_peers_in_c_and_in_rust_are_the_same() {
    let Some(topology) = topology() else { return };
    let pods = topology.pods();
    let mut addresses = vec![pods[0].v4.to_string()];
    addresses.extend(pods[0].v6.map(|v6| format!("[{v6}]")));
    let mut port = 7100;
    for address in &addresses {
        for programs in [[NATIVE, NATIVE_C], [NATIVE_C, NATIVE], [NATIVE_C, NATIVE_C]] {
            for (size, answer) in [("1", "1"), ("64", "64"), ("300001", "1"), ("300001", "300001")] {
                port += 1;
                let serve = [
                    "rr",
                    "serve",
                    "ADDR",
                    "--verify",
                    "--nodelay",
                    "--connections",
                    "1",
                ];
                let numbers = [
                    "--size", size, "--answer", answer, "--count", "20", "--warmup", "2",
                ];
                let client = [&["rr", "client", "ADDR", "--verify", "--nodelay"], &numbers[..]].concat();
                let report = pair_of(pods, programs, (address, port), &serve, &client);
                assert_eq!(report["count"].as_u64(), Some(20), "{report}");
                let [min, p50, p99, max] =
                    ["min_us", "p50_us", "p99_us", "max_us"].map(|key| report[key].as_f64().unwrap());
                assert!(0.0 < min && min <= p50 && p50 <= p99 && p99 <= max, "{report}");
                assert_eq!(report["connections"].as_u64(), Some(1), "{report}");
            }
            port += 1;
            let source = ["bulk", "source", "ADDR", "--size", "1000", "--bytes", "3000001"];
            let sink = ["bulk", "sink", "ADDR", "--verify", "--connections", "1"];
            let report = pair_of(pods, programs, (address, port), &sink, &source);
            assert_eq!(
                (report["bytes"].as_u64(), report["ok"].as_bool()),
                (Some(3_000_001), Some(true))
            );
        }
    }
}

#[test]
fn wrong_command_lines_in_c_are_told() {
    for (words, says) in [
        (&["rr", "client", "127.0.0.1:1", "--size", "0"][..], "--size"),
        (
            &["rr", "serve", "localhost:1"],
            "not a numeric ADDR:PORT: localhost:1",
        ),
        (
            &["rr", "serve", "127.0.0.1:1", "--cuont", "1"],
            "unknown argument --cuont",
        ),
        (
            &["rr", "serve", "127.0.0.1:1", "--connections", "-1"],
            "not a number: -1",
        ),
        (&["rr", "sideways", "127.0.0.1:1"], "unknown command sideways"),
        (&["rr"], "a command is missing"),
    ] {
        let output = Command::new(NATIVE_C).args(words).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(says) && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn the_same_programs_talk_over_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    for (number, server, client) in [
        (
            1,
            &["rr", "serve", "ADDR", "--connections", "8"][..],
            &[
                "rr",
                "client",
                "ADDR",
                "--size",
                "64",
                "--count",
                "20",
                "--connections",
                "8",
            ][..],
        ),
        (
            2,
            &["echo", "ADDR"],
            &["ping", "ADDR", "--count", "20", "--nodelay"],
        ),
        (
            3,
            &["bulk", "sink", "ADDR", "--verify"],
            &["bulk", "source", "ADDR", "--size", "1000", "--bytes", "3000001"],
        ),
    ] {
        let path = dir.path().join(number.to_string());
        let address = format!("unix:{}", path.display());
        let command = |words: &[&str]| {
            let mut command = Command::new(NATIVE);
            command.args(
                words
                    .iter()
                    .map(|word| if *word == "ADDR" { &address } else { *word }),
            );
            command
        };
        let mut running = Process::spawn(&mut command(server), None).unwrap();
        running
            .wait_until("listen on a socket file", TIMEOUT, || Ok(path.exists()))
            .unwrap();
        let client = Process::spawn(&mut command(client), None).unwrap();
        let report: Value = serde_json::from_str(&client.wait(TIMEOUT).unwrap()).unwrap();
        assert!(
            report["count"].as_u64().or(report["bytes"].as_u64()) > Some(0),
            "{report}"
        );
        running.stop().unwrap();
    }
}

#[test]
fn a_refused_connection_is_one_clear_line() {
    let Some(topology) = topology() else { return };
    let pod = &topology.pods()[0];
    let mut command = Command::new(NATIVE);
    command.args(["ping", &format!("{}:9", pod.v4), "--count", "1"]);
    let error = Process::spawn(&mut command, Some(pod.netns()))
        .unwrap()
        .wait(TIMEOUT)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("cwasi-native: cannot connect to 10.244.0.2:9: Connection refused (os error 111)"),
        "{error}"
    );
}
