//! Guests of WASI 0.3, which also use 0.2, as every program of Rust's standard library does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use cwasi_shim::exit;
use nix::sys::signal::Signal;

use crate::netns::Netns;
use crate::runner::{Ended, Runner, Running};

/// Bytes of a stream: more than all buffers on its way hold, and no multiple of their sizes.
const MANY: &str = "20000001";

struct Bed {
    concurrent: Runner,
}

impl Bed {
    fn new() -> Self {
        Self {
            concurrent: Runner::prebuilt("echo-p3"),
        }
    }

    fn command(&self, flags: &[&str], words: &[&str]) -> Command {
        command(&self.concurrent, flags, words)
    }

    fn run(&self, flags: &[&str], words: &[&str]) -> Ended {
        self.command(flags, words).output().unwrap().into()
    }

    /// Starts a server for so many connections, and waits until it listens.
    fn serve(&self, words: &[&str]) -> Server {
        Server::start(self.command(&[], &[&["serve", "127.0.0.1:0"], words].concat()))
    }
}

fn command(runner: &Runner, flags: &[&str], words: &[&str]) -> Command {
    let mut command = runner.command(flags);
    command.arg("--no-agent").arg(runner.wasm()).args(words);
    command
}

/// A server that has said where it listens.
struct Server {
    child: Child,
    said: BufReader<std::process::ChildStderr>,
    address: SocketAddr,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").map(str::parse);
        let Some(Ok(address)) = address else {
            panic!("{line:?}")
        };
        Self { child, said, address }
    }

    /// How it ended, and what else it said.
    fn wait(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn exit_codes_are_passed_on() {
    let bed = Bed::new();
    for code in ["0", "1", "7", "255"] {
        bed.run(&[], &["exit", code]).expect_quiet(code.parse().unwrap());
    }
    let ended = bed.run(&[], &["exit", "many"]);
    assert_eq!(ended.code, Some(1), "an error of `run`: {ended:?}");
    assert!(
        ended.stderr.contains("not a value of its kind: many"),
        "{ended:?}"
    );
}

#[test]
fn standard_streams_are_read_and_written_to_their_end() {
    let bed = Bed::new();
    let text = b"words\n".repeat(100_000);
    let mut command = bed.command(&[], &["copy"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent = text.clone();
    let writer = thread::spawn(move || input.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success() && output.stdout == text);
}

#[test]
fn streams_are_whole_and_end_in_each_direction_alone() {
    let bed = Bed::new();
    for through in [&[][..], &["--through"]] {
        let server = bed.serve(&[&["--connections", "2"], through].concat());
        let address = server.address.to_string();
        // An empty stream ends, too.
        for bytes in ["0", MANY] {
            let ended = bed.run(&[], &["client", &address, "--bytes", bytes]);
            assert_eq!(ended.stdout, format!("{{\"bytes\":{bytes}}}\n"), "{ended:?}");
            ended.expect_quiet(0);
        }
        assert_eq!(server.wait(), (Some(0), String::new()));
    }
}

#[test]
fn the_other_end_may_be_of_wasi_02_or_native() {
    let bed = Bed::new();
    let server = bed.serve(&["--connections", "2"]);
    let ping = Runner::prebuilt("ping");
    let words = [&server.address.to_string(), "--size", "1000", "--count", "50"];
    let ended = Ended::from(command(&ping, &[], &words).output().unwrap());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut native = TcpStream::connect(server.address).unwrap();
    native.write_all(b"half").unwrap();
    native.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = String::new();
    native.read_to_string(&mut back).unwrap();
    assert_eq!(back, "half");
    assert_eq!(server.wait(), (Some(0), String::new()));

    let echo = Runner::prebuilt("echo");
    let server = Server::start(command(&echo, &[], &["127.0.0.1:0", "--connections", "1"]));
    bed.run(
        &[],
        &["client", &server.address.to_string(), "--bytes", "1000001"],
    )
    .expect_quiet(0);
    assert_eq!(server.wait(), (Some(0), String::new()));
}

#[test]
fn a_connection_that_is_broken_off_is_told_and_the_next_one_served() {
    let bed = Bed::new();
    let server = bed.serve(&["--connections", "2"]);
    let mut broken = TcpStream::connect(server.address).unwrap();
    // Accepted before it is broken off: nobody would hear of it otherwise.
    broken.write_all(b"1").unwrap();
    broken.read_exact(&mut [0]).unwrap();
    nix::sys::socket::setsockopt(
        &broken,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )
    .unwrap();
    drop(broken);
    bed.run(&[], &["client", &server.address.to_string(), "--bytes", "10"])
        .expect_quiet(0);
    let (code, said) = server.wait();
    assert_eq!(code, Some(1));
    assert!(said.contains("ConnectionReset"), "{said}");
}

#[test]
fn sockets_over_ipv6_and_errors_by_name() {
    let bed = Bed::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = free.local_addr().unwrap().to_string();
    let ended = bed.run(&[], &["serve", &taken]);
    assert!(
        ended.code == Some(1) && ended.stderr.contains("AddressInUse"),
        "{ended:?}"
    );
    let ended = bed.run(&[], &["serve", "192.0.2.1:0"]);
    assert!(
        ended.code == Some(1) && ended.stderr.contains("AddressNotBindable"),
        "{ended:?}"
    );
    if let Err(error) = TcpListener::bind("[::1]:0") {
        return eprintln!("skipped: IPv6: {error}");
    }
    let mut command = bed.command(&[], &["serve", "[::1]:0", "--connections", "1"]);
    command.stdin(Stdio::null());
    let server = Server::start(command);
    bed.run(&[], &["client", &server.address.to_string(), "--bytes", "100000"])
        .expect_quiet(0);
    assert_eq!(server.wait().0, Some(0));
}

#[test]
fn connections_of_one_process_stay_in_it_also_between_versions() {
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let bed = Bed::new();
    let (own, ping) = (bed.concurrent.wasm(), Runner::prebuilt("ping"));
    let own = own.to_str().unwrap();
    let ping = ping.wasm();
    let clients: [&[&str]; 2] = [
        &[own, "client", "127.0.0.1:4000", "--bytes", MANY],
        &[
            ping.to_str().unwrap(),
            "127.0.0.1:4000",
            "--size",
            "100000",
            "--count",
            "200",
        ],
    ];
    for client in clients {
        let words = [
            &[
                "serve",
                "127.0.0.1:4000",
                "--connections",
                "1",
                "--",
                "--name",
                "client",
            ],
            client,
        ]
        .concat();
        let before = netns.loopback_bytes();
        let ended = bed.run(&["--netns", netns.path.to_str().unwrap()], &words);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        // A client may come before its server, and is then refused by the kernel.
        let by_kernel = netns.loopback_bytes() - before;
        assert!(by_kernel < 100_000, "{by_kernel} bytes by the kernel");
    }
}

#[test]
fn peers_that_are_not_permitted_are_refused() {
    let bed = Bed::new();
    let ended = bed.run(
        &["--allow-net", "192.0.2.1"],
        &["client", "127.0.0.1:9", "--bytes", "1"],
    );
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("AccessDenied") && ended.stderr.contains("127.0.0.1:9"),
        "{ended:?}"
    );
}

#[test]
fn memory_is_limited() {
    let ended = Bed::new().run(&["--memory-limit", "100000"], &["exit", "0"]);
    ended.expect_line(exit::MEMORY_LIMIT, "its limit is 100000");
}

#[test]
fn signals_end_guests_that_wait_and_guests_that_compute() {
    let bed = Bed::new();
    let mut spins = bed.command(&[], &["spin"]);
    let running = Running::start(&mut spins);
    running.signal(Signal::SIGTERM);
    running.wait().expect_quiet(exit::by_signal(Signal::SIGTERM));

    let server = bed.serve(&[]);
    let pid = nix::unistd::Pid::from_raw(server.child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(server.wait().0, Some(i32::from(exit::by_signal(Signal::SIGTERM))));
}
