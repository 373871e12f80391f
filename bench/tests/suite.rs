//! `cwasi-bench suite`, with programs that need no runner: round trips in the kernel and by TCP, to the report.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cwasi_bench::process::Process;
use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_cwasi-bench");
const TIMEOUT: Duration = Duration::from_secs(300);

#[test]
fn round_trips_become_a_report() {
    if !Path::new(BENCH).with_file_name("cwasi-agent").is_file() {
        eprintln!("skipped: cwasi-agent is not built (cargo build -p cwasi-agent)");
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(BENCH);
    command
        .args(["suite", "--quick", "--rounds", "1", "--only", "rtt"])
        .args(["--peers", "stock,rust,rust-kernel", "--out"])
        .arg(out.path())
        // Without guests, the stock host is left out.
        .args(["--guests", "/nowhere"]);
    let done = Process::spawn(&mut command, None).and_then(|suite| suite.wait(TIMEOUT));
    match done {
        Err(error)
            if ["need root", "does not work here", "install the package"]
                .iter()
                .any(|reason| error.to_string().contains(reason)) =>
        {
            eprintln!("skipped: {error}");
            return;
        }
        done => assert!(done.unwrap().starts_with("# Benchmarks")),
    }

    let read = |name: &str| fs::read_to_string(out.path().join(name)).unwrap();
    let results: Value = serde_json::from_str(&read("benchmarks/results.json")).unwrap();
    let series = results["series"].as_array().unwrap();
    assert_eq!(series.len(), 2 * 3, "{results}");
    for series in series {
        let rounds = series["figures"]["rtt-p50"].as_array().unwrap();
        assert!(rounds.len() == 1 && rounds[0].as_f64().unwrap() > 0.0, "{series}");
        let redirected = series["redirected_share"].as_f64().unwrap_or(0.0);
        assert_eq!(redirected > 0.5, series["peer"] == "rust-kernel", "{series}");
    }
    let goal = |part: &str| {
        let goals = results["goals"].as_array().unwrap();
        let goal = goals
            .iter()
            .find(|goal| goal["name"].as_str().unwrap().contains(part));
        goal.unwrap().clone()
    };
    assert!(goal("the same code at any size")["measured"]["median"].is_number());
    assert!(goal("kernel / stock")["measured"].is_null());
    assert!(read("benchmarks/rtt.svg").contains("rust-kernel"));
    assert_eq!(results["skipped"][0]["workload"], "stock");
    let document = read("benchmarks.md");
    assert!(document.contains("](benchmarks/rtt.svg)") && document.contains("rust-kernel / rust"));

    // The same report comes from the figures alone.
    let again = tempfile::tempdir().unwrap();
    let mut command = Command::new(BENCH);
    command
        .arg("suite")
        .arg("--from")
        .arg(out.path().join("benchmarks/results.json"))
        .arg("--out")
        .arg(again.path());
    Process::spawn(&mut command, None).unwrap().wait(TIMEOUT).unwrap();
    assert_eq!(
        fs::read_to_string(again.path().join("benchmarks.md")).unwrap(),
        document
    );
}
