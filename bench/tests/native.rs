//! `cwasi-native`'s peers in two pods, over plain TCP.

use std::process::Command;
use std::time::Duration;

use cwasi_bench::Error;
use cwasi_bench::process::Process;
use cwasi_bench::topology::{Pod, Topology};
use serde_json::Value;

const NATIVE: &str = env!("CARGO_BIN_EXE_cwasi-native");
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
    let address = format!("{address}:{port}");
    let command = |words: &[&str]| {
        let mut command = Command::new(NATIVE);
        command.args(
            words
                .iter()
                .map(|word| if *word == "ADDR" { &address } else { *word }),
        );
        command
    };
    let mut running = Process::spawn(&mut command(server), Some(pods[0].netns())).unwrap();
    running.wait_listening(pods[0].netns(), port, TIMEOUT).unwrap();
    let client = Process::spawn(&mut command(client), Some(pods[1].netns())).unwrap();
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
