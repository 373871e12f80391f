//! The guests that talk to each other, on the stock host and over loopback.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that ends with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(cache: &Path, guest: &str) -> Command {
    let prebuilt = Path::new(env!("CARGO_MANIFEST_DIR")).join("../functions/prebuilt");
    let mut command = Command::new(env!("CARGO_BIN_EXE_cwasi-stock-run"));
    command
        .arg("--cache-dir")
        .arg(cache)
        .arg(prebuilt.join(guest))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Starts a server and returns where it says that it listens.
fn serve(cache: &Path, guest: &str, before: &[&str], after: &[&str]) -> (Guard, String) {
    let mut server = command(cache, guest);
    let mut server = Guard(
        server
            .args(before)
            .arg("127.0.0.1:0")
            .args(after)
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    BufReader::new(server.0.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line.trim_end().strip_prefix("listening on ").expect(&line);
    (server, address.to_owned())
}

/// Runs a client to its end and returns what it printed.
fn call(cache: &Path, guest: &str, words: &[&str]) -> String {
    let output = command(cache, guest).args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn assert_has(output: &str, pairs: &[&str]) {
    for pair in pairs {
        assert!(output.contains(pair), "{pair} is not in {output}");
    }
}

#[test]
fn a_ping_is_answered_by_an_echo() {
    let cache = tempfile::tempdir().unwrap();
    let (_echo, address) = serve(cache.path(), "echo.wasm", &[], &[]);
    let done = call(
        cache.path(),
        "ping.wasm",
        &[&address, "--size", "64", "--count", "10"],
    );
    assert_has(&done, &[r#""count":10"#]);
    // A component says success or failure, and what kept it from working.
    let mut wrong = command(cache.path(), "ping.wasm");
    let wrong = wrong
        .args([&address, "--size", "64", "--cuont", "10"])
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--count is missing"));
}

#[test]
fn requests_go_over_many_connections_to_several_servers() {
    let cache = tempfile::tempdir().unwrap();
    let (_one, one) = serve(cache.path(), "rr.wasm", &["serve"], &["--verify"]);
    let (_other, other) = serve(cache.path(), "rr.wasm", &["serve"], &["--verify"]);
    let flags = ["--rounds", "--verify", "--nodelay", "--warmup", "2"];
    let numbers = [
        "--size",
        "1000",
        "--answer",
        "1000",
        "--count",
        "5",
        "--connections",
        "8",
    ];
    let done = call(
        cache.path(),
        "rr.wasm",
        &[&["client", &one, &other], &flags[..], &numbers].concat(),
    );
    assert_has(&done, &[r#""connections":16"#, r#""count":80"#, r#""round":{"#]);
    // More than the sockets buffer, in both directions.
    let large = [
        "--size", "3000000", "--answer", "3000000", "--count", "2", "--verify",
    ];
    call(cache.path(), "rr.wasm", &[&["client", &one], &large[..]].concat());
    let fresh = ["--size", "64", "--count", "20", "--fresh"];
    let done = call(
        cache.path(),
        "rr.wasm",
        &[&["client", &other], &fresh[..]].concat(),
    );
    assert_has(&done, &[r#""count":20"#]);
}

#[test]
fn streams_and_bodies_arrive() {
    let cache = tempfile::tempdir().unwrap();
    let (_sink, address) = serve(cache.path(), "bulk.wasm", &["sink"], &["--verify"]);
    let numbers = ["--size", "1000", "--bytes", "1000001"];
    let done = call(
        cache.path(),
        "bulk.wasm",
        &[&["source", &address], &numbers[..]].concat(),
    );
    assert_has(&done, &[r#""bytes":1000001"#, r#""ok":true"#]);
    let (_server, address) = serve(cache.path(), "post.wasm", &["serve"], &[]);
    let numbers = ["--size", "1000000", "--count", "3"];
    let done = call(
        cache.path(),
        "post.wasm",
        &[&["client", &address], &numbers[..]].concat(),
    );
    assert_has(&done, &[r#""count":3"#]);
}

#[test]
fn messages_go_through_redis() {
    let cache = tempfile::tempdir().unwrap();
    let local = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let redis = Command::new("redis-server")
        .args([
            "--save",
            "",
            "--appendonly",
            "no",
            "--bind",
            "127.0.0.1",
            "--port",
        ])
        .arg(local.port().to_string())
        .current_dir(cache.path())
        .stdout(Stdio::null())
        .spawn();
    let Ok(redis) = redis else {
        eprintln!("skipped: there is no `redis-server`");
        return;
    };
    let _redis = Guard(redis);
    let address = local.to_string();
    // Both wait for Redis to listen.
    let mut consumer = command(cache.path(), "redis.wasm");
    let consumer = consumer
        .args(["consumer", &address, "--messages", "6"])
        .spawn()
        .unwrap();
    let mut consumer = Guard(consumer);
    let numbers = [
        "--size", "1000000", "--count", "5", "--warmup", "1", "--window", "2",
    ];
    let done = call(
        cache.path(),
        "redis.wasm",
        &[&["producer", &address], &numbers[..]].concat(),
    );
    assert_has(&done, &[r#""count":5"#, r#""answered":{"#]);
    assert!(consumer.0.wait().unwrap().success());
}

#[test]
fn a_missing_file_and_namespace_are_one_line() {
    let cache = tempfile::tempdir().unwrap();
    for (mut command, says) in [
        (command(cache.path(), "none.wasm"), "cannot read "),
        (
            {
                let mut command = Command::new(env!("CARGO_BIN_EXE_cwasi-stock-run"));
                command.args(["--netns", "no-such-netns", "--cache-dir"]);
                command.arg(cache.path());
                command.arg(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../functions/prebuilt/echo.wasm"
                ));
                command
            },
            "there is no network namespace no-such-netns",
        ),
    ] {
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(says) && stderr.lines().count() == 1, "{stderr}");
    }
}
