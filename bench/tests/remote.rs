//! Functions of two nodes, each with an agent of its own: a remote hop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cwasi_bench::Error;
use cwasi_bench::agent::Agent;
use cwasi_bench::process::Process;
use cwasi_bench::topology::Cluster;
use serde_json::Value;

const NATIVE: &str = env!("CARGO_BIN_EXE_cwasi-native");
const TIMEOUT: Duration = Duration::from_secs(60);

/// The agent's program, when it is built.
fn agent_program() -> Option<PathBuf> {
    let path = Path::new(NATIVE).with_file_name("cwasi-agent");
    if !path.is_file() {
        eprintln!(
            "skipped: {} is not built (cargo build -p cwasi-agent)",
            path.display()
        );
        return None;
    }
    Some(path)
}

fn agent(program: &Path, label: &str) -> Option<Agent> {
    let agent = Agent::start(program, label).unwrap();
    match agent.require_acceleration() {
        Ok(()) => Some(agent),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn what_is_on_another_node_stays_with_tcp() {
    let Some(program) = agent_program() else { return };
    let cluster = match Cluster::create(&[&["client", "near"], &["server"]]) {
        Ok(cluster) => cluster,
        Err(error @ (Error::NotRoot | Error::Spawn { .. })) => {
            eprintln!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let (client_pod, near, far) = (
        &cluster.nodes()[0].pods()[0],
        &cluster.nodes()[0].pods()[1],
        &cluster.nodes()[1].pods()[0],
    );
    let Some(here) = agent(&program, "test-here") else {
        return;
    };
    let Some(there) = agent(&program, "test-there") else {
        return;
    };
    // On the client's own node the same programs are redirected: that what follows is not is no accident.
    for (pod, agent, remote) in [(near, &here, false), (far, &there, true)] {
        let address = SocketAddr::from((pod.v4, 7000));
        let mut serve = Command::new(NATIVE);
        serve.args([
            "rr",
            "serve",
            &address.to_string(),
            "--verify",
            "--connections",
            "1",
        ]);
        let mut server = Process::spawn(&mut agent.exec("server", pod.netns(), &serve), None).unwrap();
        server.wait_listening(pod.netns(), 7000, TIMEOUT).unwrap();
        let before = here.status().unwrap().traffic;
        let mut call = Command::new(NATIVE);
        call.args(["rr", "client", &address.to_string(), "--verify", "--nodelay"])
            .args(["--size", "100000", "--answer", "100000", "--count", "200"]);
        let exec = &mut here.exec("client", client_pod.netns(), &call);
        let stdout = Process::spawn(exec, None).unwrap().wait(TIMEOUT).unwrap();
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(report["count"].as_u64(), Some(200));
        server.wait(TIMEOUT).unwrap();
        let after = here.status().unwrap().traffic;
        let redirected = after.redirect_bytes - before.redirect_bytes;
        assert_eq!(redirected == 0, remote, "{redirected} bytes were redirected");
    }
    assert_eq!(there.status().unwrap().traffic.redirect_bytes, 0);
}
