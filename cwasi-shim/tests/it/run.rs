//! `cwasi-run` from the outside, without an agent.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Stdio;

use cwasi_shim::{exit, signals};

use crate::guests;
use crate::runner::{Ended, Runner, Running, cached};

#[test]
fn exit_codes_of_the_guest_are_passed_on() {
    for code in [0, 1, 2, 42, 110, 255] {
        Runner::new(&guests::exits(code)).run_plain().expect_quiet(code);
    }
    Runner::new(&guests::returns(true)).run_plain().expect_quiet(0);
    Runner::new(&guests::returns(false)).run_plain().expect_quiet(1);
}

#[test]
fn what_cannot_run_has_its_code_and_line() {
    Runner::new(b"hello").run_plain().expect_line(
        exit::INVALID,
        "app.wasm: not WebAssembly: the file does not begin",
    );
    let whole = guests::exits(0);
    Runner::new(&whole[..whole.len() - 9])
        .run_plain()
        .expect_line(exit::INVALID, "app.wasm: not valid WebAssembly");
    Runner::new(&guests::module(""))
        .run_plain()
        .expect_line(exit::NO_START, "`_start`");
    Runner::new(&guests::library())
        .run_plain()
        .expect_line(exit::NOT_COMMAND, "wasi:cli/run");
    Runner::new(&guests::wants_a_stranger())
        .run_plain()
        .expect_line(exit::MISSING_IMPORT, "host:extra/clock");
    #[cfg(not(feature = "p3"))]
    Runner::prebuilt("echo-p3").run_plain().expect_line(
        exit::MISSING_IMPORT,
        "app.wasm: it uses WASI 0.3, which this build leaves out; build it for WASI 0.2, or cwasi with",
    );
}

#[test]
fn files_that_cannot_be_read() {
    let runner = Runner::new(b"");
    fs::remove_file(runner.wasm()).unwrap();
    runner
        .run_plain()
        .expect_line(exit::UNREADABLE, "app.wasm: No such file");
    fs::create_dir(runner.wasm()).unwrap();
    runner.run_plain().expect_line(exit::UNREADABLE, "Is a directory");
}

#[test]
fn flags_that_cannot_be_used() {
    let runner = Runner::new(&guests::exits(0));
    for flags in [
        &["--no-such-flag"][..],
        &["--allow-net", "example.org"],
        &["--dir", "::x"],
        &["--env", "A"],
        &["--memory-limit", "many"],
    ] {
        let ended = runner.run(flags);
        assert_eq!(ended.code, Some(i32::from(exit::USAGE)), "{flags:?}: {ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{ended:?}");
    }
}

#[test]
fn traps_tell_their_reason() {
    let reason = "the guest trapped in `boom`: wasm `unreachable` instruction executed";
    Runner::new(&guests::traps())
        .run_plain()
        .expect_line(exit::TRAP, reason);
    Runner::new(&guests::recurses())
        .run_plain()
        .expect_line(exit::TRAP, "call stack exhausted");
}

#[test]
fn memory_limit_explains_the_trap() {
    let limit = ["--memory-limit", "8000000"];
    Runner::new(&guests::grows(true))
        .run(&limit)
        .expect_line(exit::MEMORY_LIMIT, "its limit is 8000000");
    Runner::new(&guests::grows(true)).run_plain().expect_quiet(0);
    // A guest that copes with the refusal ends as it likes.
    Runner::new(&guests::grows(false)).run(&limit).expect_quiet(9);
    // Not even its first page fits.
    Runner::new(&guests::exits(0))
        .run(&["--memory-limit", "1000"])
        .expect_line(exit::MEMORY_LIMIT, "its limit is 1000");
}

#[test]
fn arguments_and_variables_reach_the_guest() {
    let runner = Runner::new(&guests::tells_what_it_is_given());
    let mut command = runner.command(&["--no-agent", "--env", "A=1", "--env", "B=x=y "]);
    let ended = Ended::from(
        command
            .arg(runner.wasm())
            .args(["one", "--env", "C=2", "", "zwölf"])
            .output()
            .unwrap(),
    );
    assert_eq!(
        ended.stdout,
        "[app.wasm][one][--env][C=2][][zwölf][A][1][B][x=y ]"
    );
    ended.expect_quiet(0);
}

#[test]
fn directories_are_seen_and_guarded() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("old"), "x").unwrap();
    let host = dir.path().to_str().unwrap();
    let (plain, renamed, read_only) = (
        host.to_owned(),
        format!("{host}::/data"),
        format!("{host}::/data::ro"),
    );

    for (flag, name) in [(&plain, host), (&renamed, "/data"), (&read_only, "/data")] {
        let ended = Runner::new(&guests::opens("old", false)).run(&["--dir", flag]);
        ended.expect_quiet(0);
        assert_eq!(ended.stdout, name);
    }
    let not_permitted = 100 + 31;
    Runner::new(&guests::opens("new", true))
        .run(&["--dir", &read_only])
        .expect_quiet(not_permitted);
    assert!(!dir.path().join("new").exists());
    Runner::new(&guests::opens("new", true))
        .run(&["--dir", &renamed])
        .expect_quiet(0);
    assert!(dir.path().join("new").exists());
    let outside = Runner::new(&guests::opens("../outside", true)).run(&["--dir", &renamed]);
    outside.expect_quiet(not_permitted);

    let missing = format!("{host}/missing");
    Runner::new(&guests::opens("x", false))
        .run(&["--dir", &missing])
        .expect_line(exit::PREOPEN, &missing);
}

#[test]
fn only_allowed_peers_are_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let runner = Runner::new(&guests::connects(port, 1));
    runner.run_plain().expect_quiet(0);
    for peer in ["all", "127.0.0.0/8", &format!("127.0.0.1:{port}")] {
        runner.run(&["--allow-net", peer]).expect_quiet(0);
    }
    let access_denied = 100 + 1;
    let refused = format!("refused 127.0.0.1:{port}");
    for peer in ["127.0.0.2", "10.0.0.0/8", "127.0.0.1:1"] {
        runner
            .run(&["--allow-net", peer])
            .expect_line(access_denied, &refused);
    }
    let often = Runner::new(&guests::connects(port, 5));
    often
        .run(&["--allow-net", "::1"])
        .expect_line(access_denied, &refused);

    listener.set_nonblocking(true).unwrap();
    assert_eq!(
        std::iter::from_fn(|| listener.accept().ok()).count(),
        4,
        "the refused never came here"
    );
}

#[test]
fn cache_that_others_could_write_is_not_used() {
    let runner = Runner::new(&guests::exits(3));
    let cache = runner.dir.path().join("cache");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    runner.run_plain().expect_line(3, "has mode 777");
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);

    fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).unwrap();
    runner.run_plain().expect_quiet(3);
    assert_eq!(cached(&cache).len(), 1);
    match chown(&cache, Some(65534), None) {
        Ok(()) => runner.run_plain().expect_line(3, "belongs to user 65534"),
        Err(error) => eprintln!("skipped: chown: {error}"),
    }
}

#[test]
fn changed_cache_entry_is_told_and_replaced() {
    let runner = Runner::new(&guests::exits(3));
    runner.run_plain().expect_quiet(3);
    let entry = cached(&runner.dir.path().join("cache")).remove(0);
    let mut bytes = fs::read(&entry).unwrap();
    bytes[5000] ^= 1;
    fs::write(&entry, bytes).unwrap();
    runner.run_plain().expect_line(3, "does not match its digest");
    runner.run_plain().expect_quiet(3);
}

#[test]
fn signals_end_a_guest_that_computes_and_one_that_waits() {
    for wasm in [guests::spins(), guests::waits()] {
        let runner = Runner::new(&wasm);
        for signal in signals::ENDING {
            let mut command = runner.command(&["--no-agent"]);
            let running = Running::start(command.arg(runner.wasm()).stdin(Stdio::piped()));
            running.signal(signal);
            running.wait().expect_quiet(exit::by_signal(signal));
        }
    }
}

#[test]
fn input_and_its_end_reach_the_guest() {
    let runner = Runner::new(&guests::waits());
    let mut command = runner.command(&["--no-agent"]);
    Running::start(command.arg(runner.wasm()).stdin(Stdio::piped()))
        .finish()
        .expect_quiet(0);
}

#[test]
fn a_missing_agent_is_told_in_one_line() {
    let runner = Runner::new(&guests::exits(4));
    let socket = runner.dir.path().join("agent.sock");
    let mut command = runner.command(&["--socket", socket.to_str().unwrap()]);
    let ended = Ended::from(command.arg(runner.wasm()).output().unwrap());
    ended.expect_line(4, "default/app runs without the agent: no agent answers on");
}

#[test]
fn a_missing_namespace_is_told() {
    let ended = Runner::new(&guests::exits(0)).run(&["--netns", "no-such-netns"]);
    ended.expect_line(exit::NETNS, "no-such-netns");
}
