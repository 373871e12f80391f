//! Programs that serve, in pods.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use super::agent::text;
use super::{Process, collect};
use crate::support;
use crate::support::netns::NetNs;

/// A server that is started and stopped with a test. What it prints is shown when the test fails.
pub struct Service {
    process: Process,
    output: Vec<std::thread::JoinHandle<String>>,
}

impl Service {
    /// Starts it, and waits until it listens on the TCP port inside the network namespace.
    pub fn start(mut command: Command, netns: &NetNs, port: u16) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("start a server");
        let output = vec![
            collect(child.stdout.take().expect("a pipe")),
            collect(child.stderr.take().expect("a pipe")),
        ];
        let mut service = Self {
            process: Process(child),
            output,
        };
        support::eventually("the server listens", || {
            let ended = service.process.0.try_wait().expect("wait for a child");
            assert_eq!(ended, None, "the server ended");
            listens(netns, port)
        });
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.process.stop();
        let output = self.output.drain(..).filter_map(|output| output.join().ok());
        let output: String = output.collect();
        if std::thread::panicking() {
            eprintln!("output of the server:\n{output}");
        }
    }
}

/// Whether a TCP socket listens on the port. Connecting to find out would be a client that the server has to bear with.
fn listens(netns: &NetNs, port: u16) -> bool {
    /// TCP_LISTEN.
    const LISTEN: &str = "0A";
    let sockets = netns.run(|| fs::read_to_string("/proc/thread-self/net/tcp"));
    sockets.expect("read the sockets").lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == LISTEN
    })
}

/// Runs a client to its end, which must be a success, and gives what it prints.
pub fn run(command: Command) -> String {
    let output = finish(start(command));
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}: {stdout}{stderr}", output.status);
    stdout
}

fn start(mut command: Command) -> Child {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    child.expect("start a client")
}

fn finish(mut child: Child) -> Output {
    let stdout = collect(child.stdout.take().expect("a pipe"));
    let stderr = collect(child.stderr.take().expect("a pipe"));
    let status = Process(child).end();
    Output {
        status,
        stdout: stdout.join().expect("no panic").into_bytes(),
        stderr: stderr.join().expect("no panic").into_bytes(),
    }
}

/// Runs a client that is no function inside the network namespace, like [`run`].
pub fn run_plain(netns: &NetNs, command: &[&str]) -> String {
    let mut entered = Command::new("nsenter");
    entered
        .arg(format!("--net={}", netns.path().display()))
        .args(command);
    run(entered)
}

/// A path as text.
pub fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
