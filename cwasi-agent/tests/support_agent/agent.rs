//! An agent process of the test's own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cwasi_client::client::Client;
use cwasi_client::protocol::{Flow, Function, Request, Status};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use super::{LONG, Process};
use crate::support::node;

/// A `cwasi-agent run` with its own socket, state and bpffs directory. Dropping it unloads the programs, ends it and removes
/// its directories, whether it lives or not.
pub struct Agent {
    /// Holds the socket, the state directory and the log.
    pub dir: TempDir,
    /// Its bpffs directory.
    pub bpffs: PathBuf,
    /// What `run` is given beside what it needs.
    options: Vec<String>,
    process: Mutex<Option<Process>>,
}

impl Agent {
    /// An agent that accelerates.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// An agent that accelerates, with more options of `run`.
    pub fn start_with(options: &[&str]) -> Self {
        let mut agent = Self::absent();
        agent.options = options.iter().map(|option| (*option).to_owned()).collect();
        agent.run();
        let status = agent.status();
        assert_eq!(status.degraded, [], "the agent is degraded");
        assert!(status.accelerating);
        agent
    }

    /// The place of an agent that is not started.
    pub fn absent() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            bpffs: node::directory(),
            options: Vec::new(),
            process: Mutex::new(None),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the process, and waits until it serves. Its self-test makes a network namespace, which takes its time while others
    /// are torn down.
    pub fn run(&self) {
        self.run_by(&[]);
    }

    /// As [`Agent::run`], through a program that executes what follows its arguments.
    pub fn run_by(&self, through: &[&str]) {
        self.launch_by(through);
        self.wait_until_served();
    }

    /// As [`Agent::run`], of another program, which finds its place in its environment.
    pub fn run_program(&self, mut program: Command) {
        self.settle(&mut program);
        self.spawn(program);
        self.wait_until_served();
    }

    /// Waits until the process serves.
    pub fn wait_until_served(&self) {
        let deadline = Instant::now() + LONG;
        while !self.serves() {
            if let Some(status) = self
                .process()
                .as_mut()
                .and_then(|process| process.0.try_wait().ok()?)
            {
                panic!("the agent ended: {status}\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the agent does not serve");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until an agent that lacked something has looked at the kernel again, and accelerates.
    pub fn wait_until_accelerating(&self) {
        let deadline = Instant::now() + 2 * LONG;
        while !self.status().accelerating {
            assert!(Instant::now() < deadline, "{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether requests are answered: the socket is there before that.
    fn serves(&self) -> bool {
        let client = Client::connect(&self.socket());
        client.is_ok_and(|mut client| client.call(&Request::Version).is_ok())
    }

    /// Starts the process.
    pub fn launch(&self) {
        self.launch_by(&[]);
    }

    /// Starts the process, through a program that executes what follows its arguments.
    pub fn launch_by(&self, through: &[&str]) {
        let mut command = self.command_by(through, &["run", "--metrics-addr", "127.0.0.1:0"]);
        command.args(&self.options);
        self.spawn(command);
    }

    fn spawn(&self, mut command: Command) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .expect("open the log");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start the agent");
        *self.process() = Some(Process(child));
    }

    /// Pid of the process.
    pub fn pid(&self) -> u32 {
        self.process().as_ref().expect("the agent runs").0.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process().as_ref().expect("the agent runs").signal(signal);
    }

    /// SIGKILL: the agent dies wherever it is.
    pub fn kill(&self) {
        let mut process = self.process().take().expect("the agent runs");
        process.signal(Signal::SIGKILL);
        process.end();
    }

    /// SIGTERM, as an upgrade or a reboot has it.
    pub fn terminate(&self) -> ExitStatus {
        let mut process = self.process().take().expect("the agent runs");
        process.signal(Signal::SIGTERM);
        process.end()
    }

    /// Waits for an end that it was asked for otherwise.
    pub fn ended(&self) -> ExitStatus {
        self.process().take().expect("the agent runs").end()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The built program, for this agent.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_by(&[], arguments)
    }

    /// As [`Agent::command`], through a program that executes what follows its arguments.
    pub fn command_by(&self, through: &[&str], arguments: &[&str]) -> Command {
        let line = [through, &[env!("CARGO_BIN_EXE_cwasi-agent")], arguments].concat();
        let mut command = Command::new(line[0]);
        self.settle(&mut command);
        command.args(&line[1..]);
        command
    }

    /// Gives a command this agent's place, whatever the caller's environment says of another.
    fn settle(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CWASI_") {
                command.env_remove(name);
            }
        }
        command
            .env("CWASI_SOCKET", self.socket())
            .env("CWASI_BPFFS", &self.bpffs);
    }

    /// Runs a command to its end.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run the program")
    }

    /// Runs a command that must succeed, and gives what it prints.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "{arguments:?}: {}: {stdout}{stderr}",
            output.status
        );
        stdout
    }

    fn ask<T: DeserializeOwned>(&self, question: &str) -> T {
        let output = self.output(&[question, "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
            panic!("{question}: {error}: {stdout}{stderr}")
        })
    }

    pub fn status(&self) -> Status {
        self.ask("status")
    }

    pub fn functions(&self) -> Vec<Function> {
        self.ask("functions")
    }

    pub fn function(&self, name: &str) -> Function {
        let functions = self.functions();
        let found = functions.iter().find(|function| function.spec.name == name);
        found
            .unwrap_or_else(|| panic!("no {name} in {functions:?}"))
            .clone()
    }

    pub fn flows(&self) -> Vec<Flow> {
        self.ask("flows")
    }

    /// The flow of the socket with this address, `None` when it is not enrolled.
    pub fn flow_of(&self, local: SocketAddr) -> Option<Flow> {
        self.flows().into_iter().find(|flow| flow.local == local)
    }

    /// Checks that the kernel moved these bytes of the socket with this address, but for what was sent before its other end
    /// was accepted and seen to wait.
    #[track_caller]
    pub fn has_moved(&self, local: SocketAddr, bytes: u64) {
        let flow = self.flow_of(local).expect("enrolled");
        assert_eq!(flow.path, "kernel");
        assert_eq!(flow.sent.redirect_bytes + flow.sent.tcp_bytes, bytes);
        assert!(flow.sent.redirect_bytes > bytes / 2, "{:?}", flow.sent);
    }

    /// Bytes that the kernel has moved for the function.
    pub fn redirected(&self, function: &str) -> u64 {
        self.function(function).sent.redirect_bytes
    }

    /// Connections that the reason left to TCP, and changes back to it.
    pub fn fallbacks(&self, reason: &str) -> u64 {
        self.status().fallbacks.get(reason).copied().unwrap_or(0)
    }

    /// The text on `/metrics`.
    pub fn metrics(&self) -> String {
        let address = self.status().metrics_addr.expect("metrics are served");
        let mut stream = TcpStream::connect(address).expect("connect to the metrics");
        stream
            .write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .expect("ask for the metrics");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read the metrics");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(" 200 OK\r\n"), "{answer}");
        body.to_owned()
    }

    /// The counters on `/metrics`, by name with labels.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let text = self.metrics();
        let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
        samples
            .filter(|(name, _)| {
                name.starts_with("cwasi_")
                    && name
                        .split('{')
                        .next()
                        .is_some_and(|name| name.ends_with("_total"))
            })
            .map(|(name, value)| (name.to_owned(), value.parse().expect("a whole number")))
            .collect()
    }

    /// The state files of functions.
    pub fn saved_functions(&self) -> Vec<String> {
        super::names_in(&self.dir.path().join("state/functions"))
    }

    /// The directory of the pins.
    pub fn pins(&self) -> PathBuf {
        self.bpffs.join(format!("v{}", cwasi_ebpf_common::maps::LAYOUT))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let unloaded = self.output(&["unload"]);
        *self.process() = None;
        // Without `unload` the pins would stay: nothing else looks at this directory again.
        let left = super::names_in(&self.bpffs);
        remove(&self.bpffs);
        if std::thread::panicking() {
            eprintln!("log of the agent:\n{}", self.log());
        } else {
            assert!(unloaded.status.success(), "unload: {}", text(&unloaded.stderr));
            assert_eq!(left, [] as [&str; 0], "left in the bpffs directory");
        }
    }
}

fn remove(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
