//! Commands that run as functions, by `cwasi-agent exec`.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use nix::sys::signal::Signal;

use super::agent::Agent;
use super::{LONG, Process, peer};
use crate::support;
use crate::support::netns::NetNs;

/// The peers of the tests read until nothing is left. On a busy machine they are rarely seen to wait, which functions that nobody
/// vouches for must be.
const VOUCHED: &[&str] = &["--sockets", "all"];

impl Agent {
    /// `exec` of a command inside a network namespace.
    pub fn exec(&self, name: &str, netns: &NetNs, options: &[&str], command: &[&str]) -> Command {
        let netns = netns.path().display().to_string();
        let head = ["exec", "--name", name, "--netns", &netns];
        self.command(&[&head, options, &["--"], command].concat())
    }
}

/// A command that runs as a function, is told what to do line by line, and answers on lines that begin with `>`.
pub struct Talker {
    process: Process,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Talker {
    /// Starts an `exec`.
    pub fn start(mut exec: Command) -> Self {
        let child = exec.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = Process(child.expect("start exec"));
        let (sender, answers) = channel();
        let output = BufReader::new(process.0.stdout.take().expect("a pipe"));
        std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            for line in lines {
                match line.strip_prefix('>') {
                    Some(answer) if sender.send(answer.to_owned()).is_err() => return,
                    _ => {}
                }
            }
        });
        Self {
            orders: process.0.stdin.take(),
            process,
            answers,
        }
    }

    /// The next answer, within [`LONG`].
    pub fn answer(&self) -> String {
        self.answers.recv_timeout(LONG).expect("an answer of the command")
    }

    /// Gives an order.
    pub fn tell(&mut self, order: &str) {
        let orders = self
            .orders
            .as_mut()
            .expect("the command is told nothing after its end");
        writeln!(orders, "{order}").expect("write to the command");
    }

    /// Gives an order, and waits for the answer.
    pub fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }

    /// Ends the orders, and waits for the end of `exec`.
    pub fn end(&mut self) -> ExitStatus {
        drop(self.orders.take());
        self.process.end()
    }

    /// Sends a signal to `exec`.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }
}

/// A function that echoes on every connection.
pub fn echo(agent: &Agent, name: &str, netns: &NetNs, address: &str) -> Talker {
    let mut exec = agent.exec(name, netns, VOUCHED, &[]);
    peer::become_one(&mut exec, peer::ECHO, address);
    let echo = Talker::start(exec);
    assert_eq!(echo.answer(), "listening");
    echo
}

/// A function that talks to an echo, as it is told.
pub struct Caller(pub Talker);

impl Caller {
    pub fn start(agent: &Agent, name: &str, netns: &NetNs, address: &str) -> Self {
        let mut exec = agent.exec(name, netns, VOUCHED, &[]);
        peer::become_one(&mut exec, peer::CALL, address);
        let caller = Talker::start(exec);
        assert_eq!(caller.answer(), "ready");
        Self(caller)
    }

    /// Opens connections that from now on send and check bytes, with stalls.
    pub fn stream(&mut self, connections: usize) {
        assert_eq!(self.0.ask(&format!("stream {connections}")), "streaming");
        self.goes_on();
    }

    /// Bytes that have come back on all streams and on the first one, all of them right.
    pub fn received(&mut self) -> (u64, u64) {
        let answer = self.0.ask("received");
        let numbers = answer.split_once(' ');
        let numbers = numbers.and_then(|(all, first)| Some((all.parse().ok()?, first.parse().ok()?)));
        numbers.unwrap_or_else(|| panic!("the caller says: {answer}"))
    }

    /// Waits until the streams together have brought more than a stream's buffers held, and the first one has gone on, which sends
    /// nothing before its last bytes have come back.
    pub fn goes_on(&mut self) {
        let before = self.received();
        support::eventually("the streams go on", || {
            let now = self.received();
            now.0 > before.0 + (1 << 20) && now.1 > before.1
        });
    }

    /// Opens a connection, which stays open, and talks on it. Returns its address and the bytes it has sent.
    pub fn talk(&mut self, rounds: usize) -> (std::net::SocketAddr, u64) {
        let answer = self.0.ask(&format!("talk {rounds}"));
        let (address, bytes) = answer
            .split_once(' ')
            .unwrap_or_else(|| panic!("the caller says: {answer}"));
        let address = address
            .parse()
            .unwrap_or_else(|_| panic!("the caller says: {answer}"));
        (address, bytes.parse().expect("a number"))
    }

    /// Ends every stream, after its last byte has come back. Fails the test when one was lost or wrong, or a connection broke.
    pub fn finish(mut self) {
        let answer = self.0.ask("finish");
        assert!(answer.starts_with("finished "), "the caller says: {answer}");
        assert!(self.0.end().success());
    }
}
