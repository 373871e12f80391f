//! The functions that are committed beside their sources, as `cwasi-run` runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cwasi_shim::exit;
use cwasi_shim::preopen::Preopen;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::guests;
use crate::runner::{Ended, Runner, Running};

/// A component and a module of WASI 0.1 that do the same.
const INSPECT: [&str; 2] = ["inspect", "inspect-p1"];

/// The bytes of a committed function.
pub(crate) fn prebuilt(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/functions/prebuilt");
    fs::read(path.join(format!("{name}.wasm"))).unwrap()
}

fn inspect(name: &str, dirs: &[Preopen], arguments: &[&str]) -> (Ended, Value) {
    let runner = Runner::prebuilt(name);
    let mut command = runner.command(&["--no-agent", "--env", "A=1"]);
    for dir in dirs {
        let read_only = if dir.read_only { "::ro" } else { "" };
        command.arg(format!("--dir={}::{}{read_only}", dir.host.display(), dir.guest));
    }
    let ended = Ended::from(command.arg(runner.wasm()).args(arguments).output().unwrap());
    let told = serde_json::from_str(&ended.stdout).unwrap_or_default();
    (ended, told)
}

fn preopen(host: PathBuf, guest: &str, read_only: bool) -> Preopen {
    Preopen {
        host,
        guest: guest.to_owned(),
        read_only,
    }
}

#[test]
fn components_and_modules_are_given_the_same() {
    for name in INSPECT {
        let arguments = ["--exit", "0"];
        let (ended, told) = inspect(name, &[], &arguments);
        ended.expect_quiet(0);
        assert_eq!(told["args"], json!(["app.wasm", "--exit", "0"]), "{name}");
        assert_eq!(told["env"], json!({"A": "1"}), "{name}");
        assert_eq!(told["cwd"], "/", "wasi-libc starts there");
    }
}

#[test]
fn every_exit_code_of_components_and_modules_is_passed_on() {
    for name in INSPECT {
        for code in ["1", "125", "126", "137", "255"] {
            let (ended, _) = inspect(name, &[], &["--exit", code]);
            ended.expect_quiet(code.parse().unwrap());
        }
        let (ended, _) = inspect(name, &[], &["--trap"]);
        ended.expect_line(exit::TRAP, "the guest trapped");
    }
}

#[test]
fn a_read_only_directory_in_a_writable_one_is_read_only() {
    for name in INSPECT {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("old"), "content").unwrap();
        let dirs = [
            preopen(dir.path().to_owned(), "/", false),
            preopen(data.clone(), "/data", true),
        ];
        let told = |arguments: &[&str]| inspect(name, &dirs, arguments).1;
        assert_eq!(told(&["--list", "/"])["list"], json!(["data"]), "{name}");
        assert_eq!(told(&["--list", "/data"])["list"], json!(["old"]), "{name}");
        assert_eq!(told(&["--read", "/data/old"])["read"], "content", "{name}");
        assert_eq!(told(&["--read", "data/old"])["read"], "content", "{name}");
        assert_eq!(told(&["--write", "/new"])["write"], Value::Null, "{name}");
        assert!(dir.path().join("new").exists(), "{name}");
        for denied in ["/data/new", "data/new", "/data/old", "/data/../data/new"] {
            let written = &told(&["--write", denied])["write"];
            assert!(written["errno"].as_i64().is_some(), "{name}: {denied}: {written}");
        }
        assert!(!data.join("new").exists());
        assert_eq!(fs::read(data.join("old")).unwrap(), b"content");

        // The other way round: what is writable in what is not.
        let dirs = [
            preopen(dir.path().to_owned(), "/", true),
            preopen(data.clone(), "/data", false),
        ];
        let told = |arguments: &[&str]| inspect(name, &dirs, arguments).1;
        assert!(told(&["--write", "/newer"])["write"]["errno"].is_i64(), "{name}");
        assert_eq!(told(&["--write", "/data/newer"])["write"], Value::Null, "{name}");
    }
}

#[test]
fn memory_of_a_module_is_limited_too() {
    for name in INSPECT {
        let runner = Runner::prebuilt(name);
        let mut command = runner.command(&["--no-agent", "--memory-limit", "20000000"]);
        let ended = Ended::from(
            command
                .arg(runner.wasm())
                .args(["--allocate", "30"])
                .output()
                .unwrap(),
        );
        assert_eq!(
            ended.code,
            Some(i32::from(exit::MEMORY_LIMIT)),
            "{name}: {ended:?}"
        );
        assert!(
            ended.stderr.contains("its limit is 20000000"),
            "{name}: {ended:?}"
        );
    }
}

#[test]
fn modules_that_compute_or_sleep_are_ended_by_signals() {
    for way in [&["--spin"][..], &["--sleep", "1000"]] {
        let runner = Runner::prebuilt("inspect-p1");
        let mut command = runner.command(&["--no-agent"]);
        command.arg(runner.wasm()).args(way).stdin(Stdio::null());
        let running = Running::start_with(&mut command, |line| line.starts_with(b"{"));
        running.signal(Signal::SIGTERM);
        running.wait().expect_quiet(exit::by_signal(Signal::SIGTERM));
    }
}

#[test]
fn sockets_of_a_module_fail_and_that_is_told() {
    let not_a_socket = 100 + 57;
    Runner::new(&guests::module_that_accepts())
        .run_plain()
        .expect_line(not_a_socket, "sockets of WASI 0.1");
}
