//! The functions as native programs, talking over loopback.

use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

const BULK: &str = env!("CARGO_BIN_EXE_bulk");
const ECHO: &str = env!("CARGO_BIN_EXE_echo");
const PING: &str = env!("CARGO_BIN_EXE_ping");
const POST: &str = env!("CARGO_BIN_EXE_post");
const REDIS: &str = env!("CARGO_BIN_EXE_redis");
const RR: &str = env!("CARGO_BIN_EXE_rr");
const STREAM: &str = env!("CARGO_BIN_EXE_stream");

/// A running server; killed when the test ends early.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts a server on a free port of `host`, which it announces on stderr.
    fn start(program: impl AsRef<OsStr>, before: &[&str], host: &str, after: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(before).arg(format!("{host}:0")).args(after);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim_end()
            .strip_prefix("listening on ")
            .expect(&line)
            .to_owned();
        Self { child, address }
    }

    /// Waits for the server's own end and returns its JSON lines.
    fn finish(mut self) -> Vec<Value> {
        let lines = json_lines(self.child.stdout.take().unwrap());
        assert!(self.child.wait().unwrap().success());
        lines
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only when the server already ended, which is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json_lines(stdout: ChildStdout) -> Vec<Value> {
    BufReader::new(stdout)
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect()
}

fn client(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn ping_through(echo: Server) {
    // 1 MiB is more than the sockets buffer: the windowed exchange must not stall.
    for (size, count) in [(1, 20), (64, 200), (100_001, 20), (1 << 20, 10)] {
        let arguments = [
            "--size",
            &size.to_string(),
            "--count",
            &count.to_string(),
            "--warmup",
            "3",
            "--nodelay",
        ];
        let result = json(&client(
            PING,
            &[&[echo.address.as_str()], &arguments[..]].concat(),
        ));
        assert_eq!(result["size"], size);
        assert_eq!(result["count"], count);
        assert_times(&result);
    }
    assert_eq!(echo.finish(), Vec::<Value>::new());
}

#[test]
fn ping_measures_the_echo() {
    ping_through(Server::start(ECHO, &[], "127.0.0.1", &["--connections", "4"]));
}

#[test]
fn the_echo_in_c_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("echo-c");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/echo.c");
    let compiled = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    if compiled.is_err() {
        eprintln!("skipped: there is no C compiler `cc`");
        return;
    }
    assert!(compiled.unwrap().success());
    for host in ["127.0.0.1", "[::1]"] {
        ping_through(Server::start(&program, &[], host, &["--connections", "4"]));
    }
    for wrong in [
        &[][..],
        &["localhost:80"],
        &["127.0.0.1:99999"],
        &["127.0.0.1:1", "--connections", "-1"],
    ] {
        let output = Command::new(&program).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn stream_checks_every_byte() {
    let sink = Server::start(STREAM, &["sink"], "127.0.0.1", &["--connections", "2"]);
    let mut sent = Vec::new();
    for (size, total) in [("65536", "33554433"), ("100", "100001")] {
        sent.push(json(&client(
            STREAM,
            &[
                "source",
                &sink.address,
                "--size",
                size,
                "--bytes",
                total,
                "--nodelay",
            ],
        )));
    }
    let received = sink.finish();
    assert_eq!(received.len(), 2);
    for (source, sink) in sent.iter().zip(&received) {
        assert_eq!(
            (&source["ok"], &sink["ok"]),
            (&Value::Bool(true), &Value::Bool(true))
        );
        for key in ["bytes", "size", "checksum"] {
            assert_eq!(source[key], sink[key], "{key}");
        }
    }
}

#[test]
fn bulk_counts_every_byte() {
    let sink = Server::start(BULK, &["sink"], "127.0.0.1", &["--connections", "1", "--verify"]);
    let numbers = ["--size", "1000", "--bytes", "3000001", "--nodelay"];
    let sent = json(&client(
        BULK,
        &[&["source", &sink.address], &numbers[..]].concat(),
    ));
    assert_eq!((&sent["bytes"], &sent["ok"]), (&3_000_001.into(), &true.into()));
    assert_eq!(sink.finish(), Vec::<Value>::new());
}

/// Whether a result's times are in order.
fn assert_times(result: &Value) {
    let [min, p50, p99, max] =
        ["min_us", "p50_us", "p99_us", "max_us"].map(|key| result[key].as_f64().unwrap());
    assert!(0.0 < min && min <= p50 && p50 <= p99 && p99 <= max, "{result}");
}

#[test]
fn rr_sends_requests_to_several_servers() {
    let serve = || {
        let flags = ["--connections", "2", "--together", "2", "--report", "--verify"];
        Server::start(RR, &["serve"], "127.0.0.1", &flags)
    };
    let servers = [serve(), serve()];
    let numbers = [
        "--size",
        "1000",
        "--count",
        "10",
        "--warmup",
        "2",
        "--connections",
        "2",
    ];
    let mut arguments = vec!["client"];
    arguments.extend(servers.iter().map(|server| server.address.as_str()));
    arguments.extend(numbers);
    arguments.extend(["--rounds", "--verify", "--answer", "1000"]);
    let result = json(&client(RR, &arguments));
    assert_eq!(
        (&result["connections"], &result["count"]),
        (&4.into(), &40.into())
    );
    assert_times(&result);
    assert_times(&result["round"]);
    for server in servers {
        let reports = server.finish();
        assert_eq!(reports.len(), 1);
        assert_eq!(
            (&reports[0]["connections"], &reports[0]["requests"]),
            (&2.into(), &24.into())
        );
    }
}

#[test]
fn bodies_are_posted() {
    let server = Server::start(POST, &["serve"], "127.0.0.1", &["--connections", "3"]);
    for size in ["0", "64", "3000000"] {
        let numbers = ["--size", size, "--count", "10", "--warmup", "2"];
        let result = json(&client(
            POST,
            &[&["client", &server.address], &numbers[..]].concat(),
        ));
        assert_eq!(
            (result["size"].to_string(), &result["count"]),
            (size.to_owned(), &10.into())
        );
        assert_times(&result);
    }
    assert_eq!(server.finish(), Vec::<Value>::new());
}

#[test]
fn messages_go_through_redis() {
    let directory = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Command::new("redis-server")
        .args([
            "--save",
            "",
            "--appendonly",
            "no",
            "--bind",
            "127.0.0.1",
            "--port",
        ])
        .arg(port.port().to_string())
        .current_dir(&directory)
        .stdout(Stdio::null())
        .spawn();
    let Ok(child) = server else {
        eprintln!("skipped: there is no `redis-server`");
        return;
    };
    let address = port.to_string();
    let _redis = Server {
        child,
        address: address.clone(),
    };
    // They wait for Redis to listen.
    let consumer = Command::new(REDIS)
        .args(["consumer", &address, "--messages", "24"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for (size, window) in [("64", "1"), ("300000", "4")] {
        let numbers = [
            "--size", size, "--window", window, "--count", "10", "--warmup", "2",
        ];
        let result = json(&client(REDIS, &[&["producer", &address], &numbers[..]].concat()));
        assert_eq!(
            (result["size"].to_string(), &result["count"]),
            (size.to_owned(), &10.into())
        );
        assert_times(&result);
        assert_times(&result["answered"]);
        assert!(
            result["answered"]["max_us"].as_f64() >= result["max_us"].as_f64(),
            "{result}"
        );
    }
    let ended = consumer.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn a_picture_goes_through_the_workflow() {
    let directory = tempfile::tempdir().unwrap();
    let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/mandelbrot.jpg");
    let dir = directory.path().to_str().unwrap();
    let store = Server::start(
        env!("CARGO_BIN_EXE_store"),
        &[],
        "127.0.0.1",
        &["--dir", dir, "--connections", "1"],
    );
    let after = [store.address.as_str(), "--width", "480", "--connections", "1"];
    let resize = Server::start(env!("CARGO_BIN_EXE_resize"), &[], "127.0.0.1", &after);
    let sent = json(&client(
        env!("CARGO_BIN_EXE_source"),
        &[&resize.address, "--image", picture, "--count", "2"],
    ));
    let (resized, stored) = (&resize.finish()[0], &store.finish()[0]);
    let counts = [
        sent["images"].as_u64(),
        resized["images"].as_u64(),
        stored["images"].as_u64(),
    ];
    assert_eq!(counts, [Some(2); 3]);
    assert_eq!(sent["bytes"], resized["bytes_in"]);
    assert_eq!(resized["bytes_out"], stored["bytes"]);
    assert_eq!(sent["sha256"], stored["sha256"]);
    let files = ["image-1.jpg", "image-2.jpg"].map(|name| fs::read(directory.path().join(name)).unwrap());
    assert_eq!(files[0], files[1]);
    let result = image::load_from_memory(&files[0]).unwrap();
    assert_eq!((result.width(), result.height()), (480, 270));
}

#[test]
fn inspect_tells_what_it_finds() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "content").unwrap();
    let (dir, file) = (directory.path().to_str().unwrap(), file.to_str().unwrap());
    let missing = format!("{dir}/missing/file");
    let arguments = [
        "--list",
        dir,
        "--read",
        file,
        "--write",
        &missing,
        "--allocate",
        "2",
        "--exit",
        "7",
    ];
    let output = Command::new(env!("CARGO_BIN_EXE_inspect"))
        .args(arguments)
        .env_clear()
        .env("A", "1")
        .current_dir("/")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["args"].as_array().unwrap()[1..], arguments);
    assert_eq!(told["env"], serde_json::json!({"A": "1"}));
    assert_eq!(told["cwd"], "/");
    assert_eq!(told["list"], serde_json::json!(["file"]));
    assert_eq!(told["read"], "content");
    assert_eq!(told["write"]["errno"], 2);
    assert_eq!(told["allocated_mib"], 2);
}

#[test]
fn mistakes_are_one_line_and_tell_usage_from_failure() {
    for (program, arguments, code, says) in [
        (ECHO, &["127.0.0.1:0", "--conections", "1"][..], 2, "--conections"),
        (ECHO, &["256.0.0.1:x"], 1, "cannot listen on 256.0.0.1:x"),
        (PING, &["127.0.0.1:1", "--count", "1"], 2, "--size is missing"),
        (STREAM, &["sideways"], 2, "sideways"),
        (
            RR,
            &[
                "client",
                "127.0.0.1:1",
                "--size",
                "1",
                "--count",
                "1",
                "--answer",
                "2",
            ],
            2,
            "as many as its request",
        ),
        (RR, &["client", "--size", "1"], 2, "ADDR:PORT is missing"),
        (
            POST,
            &["client", "127.0.0.1:1", "--size", "1", "--count", "0"],
            2,
            "--count",
        ),
        (
            REDIS,
            &["producer", "127.0.0.1:1", "--size", "9", "--count", "1"],
            2,
            "--size",
        ),
        (
            env!("CARGO_BIN_EXE_store"),
            &["127.0.0.1:0", "--dir", "/nonexistent"],
            2,
            "/nonexistent",
        ),
        (
            env!("CARGO_BIN_EXE_source"),
            &["127.0.0.1:1", "--image", "/nonexistent"],
            1,
            "/nonexistent",
        ),
    ] {
        let output = client(program, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(says) && stderr.lines().count() == 1, "{stderr}");
    }
}
