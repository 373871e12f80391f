//! A function that handles HTTP, as `cwasi-run` serves it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use cwasi_shim::exit;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::guests;
use crate::runner::{Ended, Runner};

const MIB: usize = 1024 * 1024;

/// A served function; killed at the end.
struct Served {
    child: Child,
    stderr: BufReader<ChildStderr>,
    address: SocketAddr,
    _runner: Runner,
}

impl Served {
    fn start(flags: &[&str]) -> Self {
        Self::start_with(Runner::prebuilt("http"), flags)
    }

    fn start_with(runner: Runner, flags: &[&str]) -> Self {
        let mut command = runner.command(&["--no-agent", "--http", "127.0.0.1:0"]);
        command.args(flags).arg(runner.wasm());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("cwasi: serving HTTP on ");
        Self {
            address: address.expect(&line).parse().unwrap(),
            child,
            stderr,
            _runner: runner,
        }
    }

    fn get(&self, path: &str) -> (u16, Bytes) {
        exchange(self.address, "GET", path, Bytes::new())
    }

    /// Ends the server and gives what it said after its first line.
    fn end(mut self) -> String {
        let id = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(id, Signal::SIGTERM).unwrap();
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        let code = self.child.wait().unwrap().code();
        assert_eq!(code, Some(i32::from(exit::by_signal(Signal::SIGTERM))));
        said
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request on a connection of its own; status and body of the answer.
fn exchange(to: SocketAddr, method: &str, path: &str, body: Bytes) -> (u16, Bytes) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", to.to_string())
            .body(Full::new(body))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    })
}

/// The lines of `said` that begin as this server's do.
fn lines(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.starts_with("cwasi")).collect()
}

#[test]
fn requests_are_answered() {
    let served = Served::start(&["--env", "A=1"]);
    assert_eq!(served.get("/"), (200, "hello from a function\n".into()));
    assert_eq!(served.get("/env"), (200, "{\"A\":\"1\"}\n".into()));
    assert_eq!(served.get("/none").0, 404);
    for size in [0, 1, 100_000, 5 * MIB + 1] {
        let body: Bytes = (0..size).map(|at| at.to_le_bytes()[at % 3]).collect();
        let answer = exchange(served.address, "POST", "/", body.clone());
        assert!(answer == (200, body), "{size} bytes come back");
    }
    assert_eq!(served.end(), "");
}

#[test]
fn a_function_posts_to_a_served_one() {
    let server = Served::start(&[]);
    let client = Runner::prebuilt("post");
    for size in ["0", "64", "3000000"] {
        let address = server.address.to_string();
        let mut command = client.command(&["--no-agent"]);
        command.arg(client.wasm());
        command.args([
            "client", &address, "--path", "/length", "--size", size, "--count", "5",
        ]);
        let ended = Ended::from(command.output().unwrap());
        ended.expect_quiet(0);
        let counted = format!("\"size\":{size},\"count\":5,");
        assert!(ended.stdout.contains(&counted), "{ended:?}");
    }
}

#[test]
fn bodies_are_streamed_both_ways_at_once() {
    let served = Served::start(&[]);
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream
        .write_all(format!("{head}5\r\nfirst\r\n").as_bytes())
        .unwrap();
    let mut answer = Vec::new();
    let mut read_until = |stream: &mut TcpStream, part: &[u8]| {
        while !answer.windows(part.len()).any(|window| window == part) {
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..read]);
        }
    };
    // The request has not ended, and its beginning is back.
    read_until(&mut stream, b"first");
    stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").unwrap();
    read_until(&mut stream, b"second");
    read_until(&mut stream, b"0\r\n\r\n");
}

#[test]
fn a_request_without_a_host_is_refused() {
    let served = Served::start(&[]);
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(served.end(), "");
}

#[test]
fn after_a_trap_the_server_goes_on() {
    let served = Served::start(&[]);
    for _ in 0..3 {
        assert_eq!(served.get("/trap").0, 500);
        assert_eq!(served.get("/").0, 200);
    }
    let said = served.end();
    let told = lines(&said);
    assert_eq!(told.len(), 3, "{said}");
    assert!(
        told.iter()
            .all(|line| line.starts_with("cwasi: GET /trap: the guest trapped")),
        "{said}"
    );
}

#[test]
fn an_answer_that_had_begun_ends_in_the_middle() {
    let served = Served::start(&[]);
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream
        .write_all(b"GET /trap?late HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    // What was sent of it before depends on when; a client must only never take it for whole.
    assert!(!answer.ends_with("0\r\n\r\n"), "the body has no end: {answer}");
    assert_eq!(served.get("/").0, 200);
    let said = served.end();
    assert_eq!(lines(&said).len(), 1, "{said}");
    assert!(
        said.contains("cwasi: GET /trap?late: the guest trapped"),
        "{said}"
    );
}

#[test]
fn a_connection_serves_many_requests() {
    let served = Served::start(&[]);
    let mut stream = TcpStream::connect(served.address).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"0\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
    }
}

#[test]
fn requests_that_compute_for_ever_stop_no_other() {
    let served = Served::start_with(Runner::new(&guests::serves_and_spins()), &[]);
    let mut spinning = [(); 3].map(|()| {
        let mut stream = TcpStream::connect(served.address).unwrap();
        stream
            .write_all(b"GET /spin HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        stream
    });
    for _ in 0..10 {
        assert_eq!(served.get("/").0, 500, "it traps, as asked");
    }
    for stream in &mut spinning {
        stream.set_nonblocking(true).unwrap();
        let none = stream.read(&mut [0]).unwrap_err();
        assert_eq!(none.kind(), std::io::ErrorKind::WouldBlock, "it still computes");
    }
    assert_eq!(lines(&served.end()).len(), 10);
}

#[test]
fn instances_share_the_memory_limit() {
    let served = Served::start(&["--memory-limit", &(64 * MIB).to_string()]);
    assert_eq!(served.get("/hold/40/0"), (200, "held 40 MiB\n".into()));
    assert_eq!(served.get("/hold/80/0").0, 500, "too much for one");
    let both = [(); 2].map(|()| {
        let address = served.address;
        thread::spawn(move || exchange(address, "GET", "/hold/40/2000", Bytes::new()).0)
    });
    let mut both = both.map(|one| one.join().unwrap());
    both.sort_unstable();
    assert_eq!(both, [200, 500], "one had what was left to the other");
    assert_eq!(served.get("/hold/40/0").0, 200, "it was given back");
    let said = served.end();
    assert!(
        lines(&said)
            .iter()
            .all(|line| line.contains(": the guest ran out of memory: ")),
        "{said}"
    );
}

#[test]
fn outgoing_requests_follow_the_network_policy() {
    let target = Served::start(&["--env", "TARGET=1"]);
    let url = format!("http://{}/env", target.address);
    let path = format!("/fetch?{url}");
    let by_name = format!("/fetch?http://localhost:{}/env", target.address.port());
    let answer = (200, Bytes::from("{\"TARGET\":\"1\"}\n"));

    let open = Served::start(&[]);
    assert_eq!(open.get(&path), answer);
    assert_eq!(open.get(&by_name), answer);
    assert_eq!(open.end(), "");
    let allowed = Served::start(&["--allow-net", &target.address.to_string()]);
    assert_eq!(allowed.get(&path), answer);
    assert_eq!(allowed.get(&by_name), answer, "the address counts, not the name");
    allowed.end();
    let other = Served::start(&["--allow-net", "10.0.0.0/8"]);
    let (status, why) = other.get(&path);
    assert_eq!(status, 502);
    assert!(
        String::from_utf8_lossy(&why).contains("DestinationIpProhibited"),
        "{why:?}"
    );
    let said = other.end();
    assert!(said.contains(&format!("refused {}: ", target.address)), "{said}");
}

#[test]
fn outgoing_requests_that_fail_tell_why() {
    let served = Served::start(&[]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, why) in [
        (format!("http://{closed}/"), "ConnectionRefused"),
        (format!("https://{}/", served.address), "TlsProtocolError"),
        // Too long for a name: no resolver is asked.
        (format!("http://{}.invalid/", "a".repeat(70)), "DnsError"),
    ] {
        let (status, body) = served.get(&format!("/fetch?{url}"));
        let body = String::from_utf8_lossy(&body);
        assert!(status == 502 && body.contains(why), "{url}: {status} {body}");
    }
}

#[test]
fn an_address_that_cannot_be_listened_on_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let runner = Runner::prebuilt("http");
    let line = format!("cannot serve HTTP on {address}: ");
    runner.run(&["--http", &address]).expect_line(exit::LISTEN, &line);
    let ended = runner.run(&["--http", "localhost"]);
    assert_eq!(ended.code, Some(i32::from(exit::USAGE)), "{ended:?}");
}

#[test]
fn the_variable_names_the_address_too() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let runner = Runner::prebuilt("http");
    let mut command: Command = runner.command(&["--no-agent"]);
    command
        .env("CWASI_HTTP_ADDR", &address)
        .arg(runner.wasm())
        .stdout(Stdio::null());
    Ended::from(command.output().unwrap()).expect_line(exit::LISTEN, &address);
}
