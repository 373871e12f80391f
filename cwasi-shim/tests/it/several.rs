//! Several functions in one process of `cwasi-run`.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use cwasi_client::protocol::{FunctionSpec, Request};
use cwasi_shim::exit;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::agent::{accepting, cgroups, play};
use crate::functions::prebuilt;
use crate::guests;
use crate::netns::Netns;
use crate::runner::{Ended, Runner, Running};

/// Programs in one directory, which are run in one process.
struct Bed {
    runner: Runner,
}

impl Bed {
    /// The first program is `app.wasm`, the others have these names.
    fn new(first: &[u8], others: &[(&str, Vec<u8>)]) -> Self {
        let bed = Self {
            runner: Runner::new(first).with_shared_cache("several"),
        };
        for (name, wasm) in others {
            fs::write(bed.wasm(name), wasm).unwrap();
        }
        bed
    }

    fn wasm(&self, name: &str) -> PathBuf {
        self.runner.dir.path().join(name).with_extension("wasm")
    }

    /// The words of the command line, of which `NAME.wasm` becomes the program's path.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.runner.command::<&str>(&[]);
        for word in words {
            match word.strip_suffix(".wasm") {
                Some(name) => command.arg(self.wasm(name)),
                None => command.arg(word),
            };
        }
        command
    }

    fn run(&self, words: &[&str]) -> Ended {
        self.command(&[&["--no-agent"], words].concat())
            .output()
            .unwrap()
            .into()
    }
}

/// A path for flags.
fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Asserts the exit code and the lines of standard error, in any order.
fn expect_lines(ended: &Ended, code: u8, lines: &[&str]) {
    assert_eq!(ended.code, Some(i32::from(code)), "{ended:?}");
    let mut said: Vec<_> = ended.stderr.lines().collect();
    said.sort_unstable();
    assert_eq!(said, lines, "{ended:?}");
}

#[test]
fn the_first_function_that_fails_decides_and_each_is_told() {
    let bed = Bed::new(
        &guests::returns(true),
        &[
            ("five", guests::exits(5)),
            ("traps", guests::traps()),
            ("grows", guests::grows(true)),
        ],
    );
    let five = "cwasi-run: five: ended with exit code 5";
    let traps = "cwasi-run: traps: the guest trapped in `boom`: wasm `unreachable` instruction executed";
    expect_lines(&bed.run(&["app.wasm", "--", "app.wasm"]), 0, &[]);
    expect_lines(
        &bed.run(&["app.wasm", "--", "five.wasm", "--", "traps.wasm"]),
        5,
        &[five, traps],
    );
    expect_lines(
        &bed.run(&["traps.wasm", "--", "five.wasm"]),
        exit::TRAP,
        &[five, traps],
    );

    // The limit is one function's, and the variable is every function's.
    let limited = [
        "--memory-limit",
        "8000000",
        "--name",
        "small",
        "grows.wasm",
        "--",
        "grows.wasm",
    ];
    let ended = bed.run(&limited);
    assert_eq!(ended.code, Some(i32::from(exit::MEMORY_LIMIT)), "{ended:?}");
    assert!(
        ended
            .stderr
            .starts_with("cwasi-run: small: the guest ran out of memory"),
        "{ended:?}"
    );
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    let mut command = bed.command(&["--no-agent", "grows.wasm", "--", "grows.wasm"]);
    let ended = Ended::from(command.env("CWASI_MEMORY_LIMIT", "8000000").output().unwrap());
    assert_eq!(ended.stderr.lines().count(), 2, "{ended:?}");
}

#[test]
fn a_function_that_cannot_run_is_told_before_any_runs() {
    let bed = Bed::new(
        &guests::waits(),
        &[("broken", b"hello".to_vec()), ("library", guests::library())],
    );
    let missing = bed.runner.dir.path().join("missing");
    for (later, code, line) in [
        (
            &["broken.wasm"][..],
            exit::INVALID,
            "broken.wasm: not WebAssembly",
        ),
        (
            &["library.wasm"],
            exit::NOT_COMMAND,
            "library.wasm: a component, but neither",
        ),
        (&["none.wasm"], exit::UNREADABLE, "none.wasm: No such file"),
        (&["--dir", text(&missing), "app.wasm"], exit::PREOPEN, "missing"),
        (
            &["--stdin", text(&missing), "app.wasm"],
            exit::STREAM,
            "missing: No such file",
        ),
    ] {
        let ended = bed.run(&[&["app.wasm", "--"], later].concat());
        ended.expect_line(code, line);
        assert_eq!(ended.stdout, "", "nothing has run");
    }
    let ended = bed.run(&["app.wasm", "--", "--netns", "x", "app.wasm"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(i32::from(exit::USAGE)), ""),
        "{ended:?}"
    );
}

#[test]
fn arguments_variables_and_outputs_are_each_functions_own() {
    let bed = Bed::new(&guests::tells_what_it_is_given(), &[]);
    let [one, two] = ["one", "two"].map(|name| bed.runner.dir.path().join(name));
    bed.run(&[
        "--env",
        "A=1",
        "--stdout",
        text(&one),
        "app.wasm",
        "x",
        "--",
        "--stdout",
        text(&two),
        "app.wasm",
        "y",
        "--env",
        "C=3",
    ])
    .expect_quiet(0);
    assert_eq!(fs::read_to_string(one).unwrap(), "[app.wasm][x][A][1]");
    assert_eq!(fs::read_to_string(two).unwrap(), "[app.wasm][y][--env][C=3]");

    let ended = bed.run(&["--single", "app.wasm", "x", "--", "app"]);
    ended.expect_quiet(0);
    assert_eq!(ended.stdout, "[app.wasm][x][--][app]");
}

#[test]
fn the_first_function_reads_the_input_unless_another_is_told_to() {
    let bed = Bed::new(&guests::copies(), &[]);
    let [one, two] = ["one", "two"].map(|name| bed.runner.dir.path().join(name));
    let (to_one, to_two) = (["--stdout", text(&one)], ["--stdout", text(&two)]);
    let own = ["--stdin", "-"];
    for (first, second, got) in [
        (&to_one[..], &to_two[..], ["input", ""]),
        (&to_one, &[to_two, own].concat(), ["", "input"]),
    ] {
        let words = [&["--no-agent"], first, &["app.wasm", "--"], second, &["app.wasm"]].concat();
        let mut command = bed.command(&words);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"input").unwrap();
        Ended::from(child.wait_with_output().unwrap()).expect_quiet(0);
        assert_eq!([&one, &two].map(|file| fs::read_to_string(file).unwrap()), got);
    }
}

#[test]
fn a_signal_ends_all() {
    let bed = Bed::new(&guests::waits(), &[("spins", guests::spins())]);
    let mut command = bed.command(&[
        "--no-agent",
        "--stdout",
        "/dev/null",
        "app.wasm",
        "--",
        "spins.wasm",
    ]);
    let running = Running::start(command.stdin(Stdio::piped()));
    running.signal(Signal::SIGTERM);
    running.wait().expect_quiet(exit::by_signal(Signal::SIGTERM));
}

/// An echo that ends after one connection, and a ping that it answers.
fn conversation(address: &str) -> Vec<&str> {
    let echo = ["echo.wasm", address, "--connections", "1", "--"];
    let ping = ["ping.wasm", address, "--size", "70000", "--count", "50"];
    [&echo[..], &ping].concat()
}

fn functions() -> Bed {
    let others = ["echo", "ping", "stream"].map(|name| (name, prebuilt(name)));
    Bed::new(&guests::exits(0), &others)
}

/// Asserts that both ended well and what `ping` printed.
fn expect_conversation(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(told["count"], 50, "{ended:?}");
}

#[test]
fn functions_of_a_process_talk_without_the_network() {
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let bed = functions();
    let flags = ["--netns", text(&netns.path)];
    let run = |words: &[&str]| bed.run(&[&flags, words].concat());
    expect_conversation(&run(&conversation("127.0.0.1:4000")));
    // A client may come before its server listens, and is refused by the kernel until it does.
    let knocks = 10_000;
    assert!(netns.loopback_bytes() < knocks, "{}", netns.loopback_bytes());

    let (sink, source) = (["stream.wasm", "sink"], ["stream.wasm", "source"]);
    let address = ["127.0.0.1:4001"];
    let stream = [
        &sink[..],
        &address,
        &["--connections", "1", "--"],
        &source,
        &address,
        &["--size", "65536", "--bytes", "10000000"],
    ];
    let ended = run(&stream.concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(netns.loopback_bytes() < 2 * knocks, "{}", netns.loopback_bytes());
}

#[test]
fn a_spinning_function_does_not_stop_a_conversation() {
    let bed = functions();
    fs::write(bed.wasm("spins"), guests::spins()).unwrap();
    let address = free_address().to_string();
    let spinning = ["--no-agent", "spins.wasm", "--", "--stdout", "/dev/null"];
    let mut ping = conversation(&address);
    let report = bed.runner.dir.path().join("report");
    let at = ping.iter().position(|word| *word == "ping.wasm").unwrap();
    ping.splice(at..at, ["--stdout", text(&report)]);
    let running = Running::start(&mut bed.command(&[&spinning[..], &ping].concat()));
    // The other two end, and the one that spins goes on.
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while fs::read_to_string(&report).is_ok_and(|text| text.is_empty()) {
        assert!(std::time::Instant::now() < deadline, "it stands still");
        std::thread::sleep(Duration::from_millis(10));
    }
    running.signal(Signal::SIGTERM);
    let ended = running.wait();
    assert_eq!(
        ended.code,
        Some(i32::from(exit::by_signal(Signal::SIGTERM))),
        "{ended:?}"
    );
}

#[test]
fn the_agent_is_told_of_the_functions_and_their_connections() {
    if !cgroups() {
        return;
    }
    let bed = functions();
    let socket = bed.runner.dir.path().join("agent.sock");
    let requests = play(&socket, accepting);
    let address = free_address().to_string();
    let flags = ["--socket", text(&socket), "--name", "first"];
    let mut command = bed.command(&[&flags[..], &conversation(&address)].concat());
    expect_conversation(&Ended::from(command.output().unwrap()));

    let requests: Vec<Request> =
        std::iter::from_fn(|| requests.recv_timeout(Duration::from_secs(1)).ok()).collect();
    let [
        Request::Register(FunctionSpec { name, members, .. }),
        reports @ ..,
        Request::Unregister { .. },
    ] = requests.as_slice()
    else {
        panic!("{requests:?}");
    };
    assert_eq!(
        (name.as_str(), members.as_slice()),
        ("first", &["first".to_owned(), "ping".to_owned()][..])
    );
    let Some(Request::ReportProcess { report, .. }) = reports.last() else {
        panic!("{requests:?}");
    };
    assert_eq!((report.totals.connections, report.open), (1, 0));
    assert_eq!(report.totals.bytes, 2 * 50 * 70_000, "every message and its echo");
}
