//! Guests side by side on one thread.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, pipe};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use cwasi_shim::cache::Cache;
use cwasi_shim::engine::Engine;
use cwasi_shim::guest::{Guest, GuestConfig, GuestError};
use cwasi_shim::http::DEFAULT_ADDRESS;
use cwasi_shim::network::{NetworkPolicy, Refusals};
use cwasi_shim::sandbox::{self, Running, Sandbox};
use cwasi_shim::stdio::{Stdio, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::functions::prebuilt;
use crate::guests;

/// What none of these tests takes, unless it hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// Bytes that a pipe takes.
const PIPE: usize = 64 * 1024;

/// A sandbox, and the engine of its guests.
struct Bed {
    engine: Engine,
    sandbox: Sandbox,
}

impl Bed {
    fn guest(&self, wasm: &[u8], config: &GuestConfig) -> Guest {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sandbox");
        let cache = Cache::open(&cache).unwrap();
        let loaded = self.engine.load(wasm, Some(&cache)).unwrap();
        Guest::new(&loaded.program, config).unwrap()
    }

    fn start(&self, wasm: &[u8], config: &GuestConfig) -> Running {
        self.sandbox.start(self.guest(wasm, config))
    }
}

fn run(test: impl AsyncFnOnce(Bed)) {
    let bed = Bed {
        engine: Engine::shared().unwrap(),
        sandbox: Sandbox::new(),
    };
    let runtime = sandbox::runtime().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, test(bed)).await });
    runtime.shutdown_background();
    ended.unwrap();
}

fn config() -> GuestConfig {
    GuestConfig {
        name: "guest".to_owned(),
        args: vec!["guest".to_owned()],
        env: Vec::new(),
        stdio: Stdio {
            stdin: Stream::Null,
            stdout: Stream::Null,
            stderr: Stream::Null,
        },
        preopens: Vec::new(),
        cwd: None,
        http: DEFAULT_ADDRESS,
        network: NetworkPolicy::unrestricted(),
        refusals: Refusals::new(|_| ()),
        local: None,
        alone: false,
        memory_limit: None,
    }
}

fn with_arguments(arguments: &[&str]) -> GuestConfig {
    GuestConfig {
        args: ["guest"]
            .iter()
            .chain(arguments)
            .map(ToString::to_string)
            .collect(),
        ..config()
    }
}

/// A configuration whose output comes out of the pipe.
fn with_output() -> (GuestConfig, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    let mut config = config();
    config.stdio.stdout = writer.into();
    (config, reader)
}

/// A configuration with a pipe at each end.
fn with_pipes() -> (PipeWriter, GuestConfig, PipeReader) {
    let (mut config, output) = with_output();
    let (reader, input) = pipe().unwrap();
    config.stdio.stdin = reader.into();
    (input, config, output)
}

/// The other end of a guest's stream, for the event loop that runs the guest, too.
fn receiver(pipe: PipeReader) -> tokio::net::unix::pipe::Receiver {
    tokio::net::unix::pipe::Receiver::from_owned_fd(pipe.into()).unwrap()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Programs that echo, and the words before their address.
const ECHOES: &[(&str, &[&str])] = &[
    ("echo", &[]),
    #[cfg(feature = "p3")]
    ("echo-p3", &["serve"]),
];

/// Starts an echo that listens when this returns.
async fn echo(bed: &Bed, (program, words): (&str, &[&str])) -> (Running, SocketAddr) {
    let address = free_address();
    let text = address.to_string();
    let words = [words, &[text.as_str()]].concat();
    let echo = bed.start(&prebuilt(program), &with_arguments(&words));
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (echo, address)
}

/// Sends many messages to `address` and gets them back.
fn pings(bed: &Bed, address: SocketAddr) -> Running {
    let arguments = [&address.to_string(), "--size", "64", "--count", "50"];
    bed.start(&prebuilt("ping"), &with_arguments(&arguments))
}

/// Starts a guest that computes for ever, and waits until it does.
async fn spinner(bed: &Bed) -> Running {
    let (config, output) = with_output();
    let spinner = bed.start(&guests::spins(), &config);
    let mut line = [0; 8];
    receiver(output).read_exact(&mut line).await.unwrap();
    spinner
}

#[test]
fn each_guest_ends_alone() {
    run(async |bed| {
        let (input, piped, output) = with_pipes();
        let stays = bed.start(&guests::copies(), &piped);
        drop(piped);
        let limited = GuestConfig {
            memory_limit: Some(8_000_000),
            ..config()
        };
        let traps = bed.start(&guests::traps(), &config());
        let exits = bed.start(&guests::exits(42), &config());
        let grows = bed.start(&guests::grows(true), &limited);
        let unlimited = bed.start(&guests::grows(true), &config());
        let recurses = bed.start(&guests::recurses(), &config());
        assert!(matches!(traps.await, Err(GuestError::Trap { place, .. }) if place.contains("boom")));
        assert_eq!(exits.await.unwrap(), 42);
        assert!(matches!(grows.await, Err(GuestError::MemoryLimit { .. })));
        assert_eq!(unlimited.await.unwrap(), 0, "the limit is the other one's");
        assert!(matches!(recurses.await, Err(GuestError::Trap { .. })));

        // The one that stayed works, and so does one that comes later.
        let later = bed.start(&guests::exits(7), &config());
        std::io::Write::write_all(&mut &input, b"still here").unwrap();
        drop(input);
        assert_eq!(later.await.unwrap(), 7);
        assert_eq!(stays.await.unwrap(), 0);
        let mut said = String::new();
        receiver(output).read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "still here");
    });
}

#[test]
fn guests_that_compute_for_ever_stop_no_other() {
    run(async |bed| {
        for program in ECHOES {
            let (echo, address) = echo(&bed, *program).await;
            let spinners = [spinner(&bed).await, spinner(&bed).await];
            assert_eq!(pings(&bed, address).await.unwrap(), 0);
            for spinner in spinners {
                spinner.killer().kill();
                assert!(matches!(spinner.await, Err(GuestError::Killed)));
            }
            assert_eq!(pings(&bed, address).await.unwrap(), 0);
            echo.killer().kill();
            assert!(matches!(echo.await, Err(GuestError::Killed)));
        }
    });
}

#[cfg(feature = "p3")]
#[test]
fn a_guest_of_wasi_03_that_computes_stops_no_other() {
    run(async |bed| {
        let (mut config, output) = with_output();
        config.args.push("spin".to_owned());
        let spinner = bed.start(&prebuilt("echo-p3"), &config);
        receiver(output).read_exact(&mut [0; 8]).await.unwrap();
        for program in ECHOES {
            let (echo, address) = echo(&bed, *program).await;
            assert_eq!(pings(&bed, address).await.unwrap(), 0);
            echo.killer().kill();
            assert!(matches!(echo.await, Err(GuestError::Killed)));
        }
        spinner.killer().kill();
        assert!(matches!(spinner.await, Err(GuestError::Killed)));
    });
}

#[test]
fn a_module_that_sleeps_stops_no_other() {
    run(async |bed| {
        let (mut config, output) = with_output();
        config.args.extend(["--sleep", "1000"].map(str::to_owned));
        let sleeper = bed.start(&prebuilt("inspect-p1"), &config);
        receiver(output).read_exact(&mut [0]).await.unwrap();
        assert_eq!(bed.start(&guests::exits(7), &self::config()).await.unwrap(), 7);
        sleeper.killer().kill();
        assert!(matches!(sleeper.await, Err(GuestError::Killed)));
    });
}

#[test]
fn a_killed_guest_has_no_sockets_left() {
    run(async |bed| {
        for program in ECHOES {
            let (echo, address) = echo(&bed, *program).await;
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(b"hello").await.unwrap();
            let mut answer = [0; 5];
            connection.read_exact(&mut answer).await.unwrap();
            echo.killer().kill();
            assert!(matches!(echo.await, Err(GuestError::Killed)));
            assert_eq!(connection.read(&mut answer).await.unwrap_or(0), 0, "it is closed");
            let refused = TcpStream::connect(address).await.unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
    });
}

#[test]
fn a_killed_server_has_no_instances_left() {
    run(async |bed| {
        let address = free_address();
        let server = GuestConfig {
            http: address,
            ..config()
        };
        let server = bed.start(&guests::serves_and_spins(), &server);
        let mut connection = loop {
            match TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        connection
            .write_all(b"GET /spin HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        // Others run while it computes.
        assert_eq!(bed.start(&guests::exits(7), &config()).await.unwrap(), 7);
        server.killer().kill();
        assert!(matches!(server.await, Err(GuestError::Killed)));
        assert_eq!(connection.read(&mut [0]).await.unwrap_or(0), 0, "it is closed");
        assert!(TcpStream::connect(address).await.is_err());
    });
}

#[test]
fn streams_of_guests_do_not_mix() {
    run(async |bed| {
        let copies = [b"one".repeat(PIPE), b"two".repeat(PIPE)].map(|text| {
            let (input, config, output) = with_pipes();
            let guest = bed.start(&guests::copies(), &config);
            drop(config);
            let input = tokio::net::unix::pipe::Sender::from_owned_fd(input.into()).unwrap();
            (guest, input, receiver(output), text)
        });
        let [one, two] = copies.map(|(guest, mut input, mut output, text)| async move {
            let (mut got, sent) = (Vec::new(), text.clone());
            let send = async move { input.write_all(&sent).await.unwrap() };
            tokio::join!(send, async { output.read_to_end(&mut got).await.unwrap() });
            assert!(got == text);
            assert_eq!(guest.await.unwrap(), 0);
        });
        tokio::join!(one, two);
    });
}

#[test]
fn a_full_pipe_stops_only_its_writer_and_nothing_is_lost() {
    let blocks = 3 * PIPE / 4096 + 1;
    run(async |bed| {
        let (config, output) = with_output();
        let mut writer = bed.start(&guests::writes(u32::try_from(blocks).unwrap(), 9), &config);
        drop(config);
        for _ in 0..3 {
            assert_eq!(bed.start(&guests::exits(7), &self::config()).await.unwrap(), 7);
        }
        let waits = tokio::time::timeout(Duration::from_millis(200), &mut writer).await;
        assert!(waits.is_err(), "nobody reads: {waits:?}");
        let mut got = Vec::new();
        receiver(output).read_to_end(&mut got).await.unwrap();
        assert_eq!(writer.await.unwrap(), 9);
        assert_eq!(got.len(), blocks * 4096);
        for (number, block) in got.chunks(4096).enumerate() {
            let counted = u32::from_le_bytes(block[..4].try_into().unwrap());
            assert_eq!(counted as usize, number);
        }
    });
}

#[test]
fn a_guest_whose_reader_is_gone_is_told_and_one_that_waits_for_it_can_be_killed() {
    run(async |bed| {
        let (config, output) = with_output();
        drop(output);
        let writer = bed.start(&guests::writes(100, 9), &config);
        // It does not look at errors of its writes.
        assert_eq!(writer.await.unwrap(), 9);

        let (config, output) = with_output();
        let writer = bed.start(&guests::writes(100, 9), &config);
        drop(config);
        tokio::time::sleep(Duration::from_millis(50)).await;
        writer.killer().kill();
        assert!(matches!(writer.await, Err(GuestError::Killed)));
        let mut got = Vec::new();
        receiver(output).read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), PIPE, "what the pipe took, and then its end");
    });
}

#[test]
fn files_are_streams_too() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let text = b"text".repeat(50_000);
    std::fs::write(&from, &text).unwrap();
    let mut config = config();
    config.stdio.stdin = File::open(&from).unwrap().into();
    config.stdio.stdout = File::create(&to).unwrap().into();
    run(async |bed| assert_eq!(bed.start(&guests::copies(), &config).await.unwrap(), 0));
    assert!(std::fs::read(&to).unwrap() == text);
}

#[test]
fn a_terminal_is_read_and_written_without_a_wait() {
    let pty = match nix::pty::openpty(None, None) {
        Ok(pty) => pty,
        Err(errno) => return eprintln!("skipped: openpty: {errno}"),
    };
    run(async |bed| {
        let mut config = config();
        config.stdio.stdin = pty.slave.try_clone().unwrap().into();
        config.stdio.stdout = pty.slave.into();
        let copies = bed.start(&guests::copies(), &config);
        assert_eq!(bed.start(&guests::exits(7), &self::config()).await.unwrap(), 7);
        // A line, and the end of the input.
        nix::unistd::write(&pty.master, b"line\n\x04").unwrap();
        assert_eq!(copies.await.unwrap(), 0);
        // What was typed, and its copy.
        let mut shown = String::new();
        while shown.matches("line").count() < 2 {
            let mut part = [0; 64];
            let read = nix::unistd::read(&pty.master, &mut part).unwrap();
            shown.push_str(&String::from_utf8_lossy(&part[..read]));
        }
    });
}
