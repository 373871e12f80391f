//! Programs with blocking sockets, which take EAGAIN for an error, run under `exec` as they do without it.

mod support;
mod support_agent;

use std::fs;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::netns::{NetNs, veth};
use support_agent::agent::Agent;
use support_agent::function::{Caller, Talker, echo};

const SERVER: &str = "10.1.0.11:7";

/// Orders on standard input, answers on standard output; any exception is an answer too. Python's sockets block by default.
const PROGRAM: &str = r#"
import os, signal, socket, sys

def pattern(length):
    return (b"0123456789abcdefg" * (length // 17 + 1))[:length]

def read(length):
    data = bytearray()
    while len(data) < length:
        part = peer.recv(length - len(data))
        if not part:
            break
        data += part
    return "right" if bytes(data) == pattern(length) else "wrong: %d bytes" % len(data)

def obey(word, number):
    global peer
    if word == "dial":
        peer = socket.create_connection((host, port))
        return "connected"
    if word == "accept":
        peer, _ = listener.accept()
        return "accepted"
    if word == "send":
        peer.sendall(pattern(number))
        return "sent"
    if word == "receive":
        return read(number)
    if word == "half-close":
        peer.shutdown(socket.SHUT_WR)
        return "closed"
    if word == "end":
        return "end" if peer.recv(1) == b"" else "more"
    return "no such order"

signal.signal(signal.SIGUSR1, lambda *_: None)
host, port = sys.argv[2].split(":")
port = int(port)
if sys.argv[1] == "listen":
    listener = socket.create_server((host, port))
print(">%d" % os.getpid(), flush=True)
for order in sys.stdin:
    word, _, number = order.strip().partition(" ")
    if word == "receive":
        print(">receiving", flush=True)
    try:
        said = obey(word, int(number or 0))
    except OSError as error:
        said = repr(error)
    print(">" + said, flush=True)
"#;

/// A Python process that runs as a function.
struct Python {
    talker: Talker,
    pid: Pid,
}

impl Python {
    fn start(agent: &Agent, name: &str, netns: &NetNs, role: &str) -> Self {
        let command = ["python3", "-c", PROGRAM, role, SERVER];
        let talker = Talker::start(agent.exec(name, netns, &[], &command));
        let pid = Pid::from_raw(talker.answer().parse().expect("a pid"));
        Self { talker, pid }
    }

    #[track_caller]
    fn does(&mut self, order: &str, answer: &str) {
        assert_eq!(self.talker.ask(order), answer, "{order}");
    }

    /// Begins to receive so many bytes, and sleeps in the kernel.
    fn waits_for(&mut self, bytes: usize) {
        self.does(&format!("receive {bytes}"), "receiving");
        self.sleeps();
    }

    /// Waits until the process sleeps in `recv`.
    fn sleeps(&self) {
        support::eventually("the process sleeps", || self.state() == "S");
    }

    /// One letter, as in ps.
    fn state(&self) -> String {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("read stat");
        let (_, rest) = stat.rsplit_once(") ").expect("stat has a name");
        rest.split(' ').next().expect("a state").to_owned()
    }

    /// Stops the process in its sleep, and lets it go on.
    fn is_stopped_and_goes_on(&self) {
        kill(self.pid, Signal::SIGSTOP).expect("SIGSTOP");
        support::eventually("the process is stopped", || self.state() == "T");
        kill(self.pid, Signal::SIGCONT).expect("SIGCONT");
        self.sleeps();
    }

    /// Interrupts the process in its sleep with a signal that it handles.
    fn is_interrupted(&self) {
        kill(self.pid, Signal::SIGUSR1).expect("SIGUSR1");
        self.sleeps();
    }
}

/// An agent, and the pods of a client and a server.
fn pods() -> ([Arc<NetNs>; 2], Agent) {
    (veth(), Agent::start())
}

/// Sends bytes to a reader whose sleep was disturbed before they came.
fn disturbed(reader: &mut Python, writer: &mut Python, bytes: usize) {
    reader.waits_for(bytes);
    reader.is_stopped_and_goes_on();
    reader.is_interrupted();
    writer.does(&format!("send {bytes}"), "sent");
    assert_eq!(reader.talker.answer(), "right");
}

#[test]
fn blocking_ends() {
    needs!();
    needs_program!("python3" of "python3");
    let ([here, there], agent) = pods();
    let mut server = Python::start(&agent, "server", &there, "listen");
    let mut client = Python::start(&agent, "client", &here, "call");
    client.does("dial", "connected");
    server.does("accept", "accepted");
    for bytes in [1, 1000, 100_000, 3_000_000] {
        disturbed(&mut client, &mut server, bytes);
        disturbed(&mut server, &mut client, bytes);
    }
    // The ACK of its own FIN wakes a reader.
    client.does("half-close", "closed");
    client.waits_for(50_000);
    server.does("end", "end");
    client.is_stopped_and_goes_on();
    server.does("send 50000", "sent");
    assert_eq!(client.talker.answer(), "right");
    server.does("half-close", "closed");
    client.does("end", "end");

    assert!(agent.fallbacks("blocking") >= 1, "{:?}", agent.status());
    assert!(agent.counters()["cwasi_fallback_total{reason=\"blocking\",stage=\"enrol\"}"] >= 1);
    assert_eq!(agent.status().traffic.redirect_bytes, 0);
    assert!(client.talker.end().success());
    assert!(server.talker.end().success());
}

/// The accepting end blocks; the other cannot know, and does not.
#[test]
fn a_blocking_server_of_a_client_that_polls() {
    needs!();
    needs_program!("python3" of "python3");
    let ([here, there], agent) = pods();
    let mut server = Python::start(&agent, "server", &there, "listen");
    let mut exec = agent.exec("client", &here, &[], &[]);
    support_agent::peer::become_one(&mut exec, support_agent::peer::ASK, SERVER);
    let mut client = Talker::start(exec);
    assert_eq!(client.answer(), "connected");
    server.does("accept", "accepted");
    for bytes in [1, 1000, 100_000] {
        server.waits_for(bytes);
        server.is_stopped_and_goes_on();
        server.is_interrupted();
        assert_eq!(client.ask(&format!("send {bytes}")), "sent");
        assert_eq!(server.talker.answer(), "right");
        server.does(&format!("send {bytes}"), "sent");
        assert_eq!(client.ask(&format!("receive {bytes}")), "right");
    }
    assert!(agent.fallbacks("blocking") >= 1, "{:?}", agent.status());
    assert_eq!(agent.redirected("server"), 0);
}

/// The connecting end blocks; the server polls, and other clients of it are redirected all the same.
#[test]
fn a_blocking_client_of_a_server_that_polls() {
    needs!();
    needs_program!("python3" of "python3");
    let ([here, there], agent) = pods();
    let _server = echo(&agent, "echo", &there, SERVER);
    let mut client = Python::start(&agent, "client", &here, "call");
    client.does("dial", "connected");
    for bytes in [1, 1000, 100_000] {
        client.does(&format!("send {bytes}"), "sent");
        assert_eq!(client.talker.ask(&format!("receive {bytes}")), "receiving");
        assert_eq!(client.talker.answer(), "right");
    }
    assert_eq!(agent.fallbacks("blocking"), 1);
    assert_eq!(agent.redirected("client"), 0);
    let mut caller = Caller::start(&agent, "caller", &here, SERVER);
    let (address, bytes) = caller.talk(20);
    agent.has_moved(address, bytes);
    caller.finish();
    client.waits_for(10);
    client.is_stopped_and_goes_on();
}
