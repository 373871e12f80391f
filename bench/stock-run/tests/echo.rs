//! Two guests on the stock host, over loopback.

use std::io::{BufRead, BufReader};
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

#[test]
fn a_ping_is_answered_by_an_echo() {
    let cache = tempfile::tempdir().unwrap();
    let mut echo = command(cache.path(), "echo.wasm");
    let mut echo = Guard(echo.arg("127.0.0.1:0").spawn().unwrap());
    let mut line = String::new();
    BufReader::new(echo.0.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line.trim_end().strip_prefix("listening on ").expect(&line);

    let ping = |extra: &[&str]| {
        let mut ping = command(cache.path(), "ping.wasm");
        ping.args([address, "--size", "64"]).args(extra).output().unwrap()
    };
    let done = ping(&["--count", "10"]);
    assert!(done.status.success(), "{done:?}");
    let stdout = String::from_utf8(done.stdout).unwrap();
    assert!(stdout.contains(r#""count":10"#), "{stdout}");
    // A component says success or failure, and what kept it from working.
    let wrong = ping(&["--cuont", "10"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--count is missing"));
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
