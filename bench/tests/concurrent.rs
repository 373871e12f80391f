//! Functions of WASI 0.3 in two pods: their sockets are moved by the kernel program as those of 0.2 are.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cwasi_bench::Error;
use cwasi_bench::agent::Agent;
use cwasi_bench::process::Process;
use cwasi_bench::topology::{Pod, Topology};

const TIMEOUT: Duration = Duration::from_secs(120);
const PORT: u16 = 7000;

/// The programs that this test runs, when they are built.
fn programs() -> Option<[PathBuf; 2]> {
    let built = Path::new(env!("CARGO_BIN_EXE_cwasi-bench"));
    let [agent, runner] = ["cwasi-agent", "cwasi-run"].map(|name| built.with_file_name(name));
    for (program, build) in [
        (&agent, "-p cwasi-agent"),
        (&runner, "-p cwasi-shim --features p3"),
    ] {
        if !program.is_file() {
            eprintln!(
                "skipped: {} is not built (cargo build {build})",
                program.display()
            );
            return None;
        }
    }
    Some([agent, runner])
}

/// A function in a pod.
fn function(runner: &Path, agent: &Agent, pod: &Pod, words: &[&str]) -> Process {
    let [guest, words @ ..] = words else {
        panic!("a program is needed")
    };
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/prebuilt");
    let mut command = Command::new(runner);
    command
        .arg("--cache-dir")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("concurrent"))
        .arg("--socket")
        .arg(agent.socket())
        .arg("--netns")
        .arg(pod.netns())
        .arg(guests.join(guest).with_extension("wasm"))
        .args(words);
    Process::spawn(&mut command, None).unwrap()
}

#[test]
fn connections_of_wasi_03_are_redirected_and_whole() {
    let Some([program, runner]) = programs() else {
        return;
    };
    let topology = match Topology::create(&["client", "server"]) {
        Ok(topology) => topology,
        Err(error @ (Error::NotRoot | Error::Spawn { .. })) => {
            eprintln!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let agent = Agent::start(&program, "test-concurrent").unwrap();
    if let Err(error) = agent.require_acceleration() {
        eprintln!("skipped: {error}");
        return;
    }
    let [client_pod, server_pod] = topology.pods() else {
        panic!("two pods")
    };
    let address = SocketAddr::from((server_pod.v4, PORT)).to_string();
    let address = address.as_str();
    let concurrent: &[&str] = &["echo-p3", "serve", address, "--connections", "1"];
    let plain: &[&str] = &["echo", address, "--connections", "1"];
    let ping: &[&str] = &["ping", address, "--size", "10000", "--count", "300"];
    let stream: &[&str] = &["echo-p3", "client", address, "--bytes", "50000001"];
    // What is redirected at least: nearly all of what is answered at once. A stream may fill its reader's queue, and then goes by TCP.
    for (server, client, least) in [
        (concurrent, ping, 5_000_000),
        (plain, stream, 1_000_000),
        (concurrent, stream, 1_000_000),
    ] {
        let before = agent.status().unwrap().traffic.redirect_bytes;
        let mut serves = function(&runner, &agent, server_pod, server);
        match serves.wait_listening(server_pod.netns(), PORT, TIMEOUT) {
            Err(Error::Failed { stderr, .. }) if stderr.contains("which this build leaves out") => {
                eprintln!("skipped: cwasi-run is built without the feature p3");
                return;
            }
            listens => listens.unwrap(),
        }
        // It compares all that comes back, to the end that follows its own.
        function(&runner, &agent, client_pod, client)
            .wait(TIMEOUT)
            .unwrap();
        serves.wait(TIMEOUT).unwrap();
        let redirected = agent.status().unwrap().traffic.redirect_bytes - before;
        assert!(
            redirected >= least,
            "{server:?}, {client:?}: {redirected} bytes were redirected"
        );
    }
}
