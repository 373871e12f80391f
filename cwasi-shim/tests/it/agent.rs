//! `cwasi-run` with an agent that the test plays: what is registered, where the process is meanwhile, what is left.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use cwasi_client::protocol::{
    ApiError, ErrorCode, FunctionSpec, Registered, Reply, Request, Response, Sockets,
};
use cwasi_shim::exit::by_signal;
use nix::sys::signal::Signal;

use crate::guests;
use crate::netns::Netns;
use crate::runner::{Ended, Runner, Running};

const ID: u32 = 7;

/// Answers every request with `answer` and passes it on.
pub(crate) fn play(socket: &Path, answer: fn(&Request) -> Option<Response>) -> Receiver<Request> {
    let listener = UnixListener::bind(socket).unwrap();
    let (seen, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, seen) = (stream.unwrap(), seen.clone());
            thread::spawn(move || converse(&stream, answer, &seen));
        }
    });
    requests
}

fn converse(mut stream: &UnixStream, answer: fn(&Request) -> Option<Response>, seen: &Sender<Request>) {
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { break };
        let request: Request = serde_json::from_str(&line).unwrap();
        let response = answer(&request);
        // Before it is answered: the next request may come by another connection.
        let _ = seen.send(request);
        if let Some(response) = response {
            let mut line = serde_json::to_vec(&response).unwrap();
            line.push(b'\n');
            // The runner may have given up waiting.
            let _ = stream.write_all(&line);
        }
    }
}

pub(crate) fn accepting(request: &Request) -> Option<Response> {
    Some(Response::Ok(match request {
        Request::Register(_) => Reply::Registered(Registered {
            id: ID,
            accelerated: true,
            reason: None,
        }),
        _ => Reply::Done,
    }))
}

/// A cgroup needs root and a v2 hierarchy.
pub(crate) fn cgroups() -> bool {
    match cwasi_client::cgroup::Leaf::create("probe") {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: {error}");
            false
        }
    }
}

struct Setup {
    runner: Runner,
    requests: Receiver<Request>,
    socket: PathBuf,
}

impl Setup {
    fn new(wasm: &[u8], answer: fn(&Request) -> Option<Response>) -> Self {
        let runner = Runner::new(wasm);
        let socket = runner.dir.path().join("agent.sock");
        Self {
            requests: play(&socket, answer),
            runner,
            socket,
        }
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = self.runner.command(&["--socket", self.socket.to_str().unwrap()]);
        command.args(flags).arg(self.runner.wasm()).stdin(Stdio::piped());
        command
    }

    fn request(&self) -> Request {
        self.requests.recv_timeout(Duration::from_secs(30)).unwrap()
    }

    fn registered(&self) -> FunctionSpec {
        match self.request() {
            Request::Register(spec) => spec,
            other => panic!("{other:?}"),
        }
    }
}

fn v2_cgroup(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap()
        .to_owned()
}

#[test]
fn registered_while_it_runs_and_gone_afterwards() {
    if !cgroups() {
        return;
    }
    for (wasm, signal) in [
        (guests::waits(), None),
        (guests::waits(), Some(Signal::SIGTERM)),
        (guests::spins(), Some(Signal::SIGTERM)),
    ] {
        let setup = Setup::new(&wasm, accepting);
        let running = Running::start(&mut setup.command(&["--name", "a/b", "--namespace", "shop"]));
        let spec = setup.registered();
        assert_eq!((spec.name.as_str(), spec.namespace.as_str()), ("a/b", "shop"));
        assert_eq!(spec.sockets, Sockets::All, "the runner vouches for its engine");
        let cgroup = spec.cgroup.unwrap();
        assert!(cgroup.is_dir());
        assert!(
            cgroup.ends_with(v2_cgroup(running.id()).trim_start_matches('/')),
            "{cgroup:?}"
        );
        assert_ne!(v2_cgroup(running.id()), v2_cgroup(std::process::id()));
        match signal {
            Some(signal) => {
                running.signal(signal);
                running.wait().expect_quiet(by_signal(signal));
            }
            None => running.finish().expect_quiet(0),
        }
        assert_eq!(setup.request(), Request::Unregister { id: ID });
        assert!(!cgroup.exists(), "{cgroup:?}");
    }
}

#[test]
fn guests_that_fail_are_unregistered_too() {
    if !cgroups() {
        return;
    }
    let setup = Setup::new(&guests::traps(), accepting);
    Ended::from(setup.command(&[]).output().unwrap()).expect_line(134, "unreachable");
    let cgroup = setup.registered().cgroup.unwrap();
    assert_eq!(setup.request(), Request::Unregister { id: ID });
    assert!(!cgroup.exists());

    let setup = Setup::new(&guests::module(""), accepting);
    Ended::from(setup.command(&[]).output().unwrap()).expect_line(112, "core module");
    assert!(
        setup.requests.try_recv().is_err(),
        "what cannot run is not registered"
    );
}

#[test]
fn a_refusal_is_told_and_the_guest_runs() {
    if !cgroups() {
        return;
    }
    let setup = Setup::new(&guests::exits(5), |_| {
        let message = "no room for another function".to_owned();
        Some(Response::Error(ApiError {
            code: ErrorCode::Exhausted,
            message,
        }))
    });
    let ended = Ended::from(setup.command(&[]).output().unwrap());
    ended.expect_line(
        5,
        "default/app runs without the agent: no room for another function",
    );
    assert!(!setup.registered().cgroup.unwrap().exists());

    let setup = Setup::new(&guests::exits(5), |request| match request {
        Request::Register(_) => {
            let reason = Some("the kernel has no BTF".to_owned());
            Some(Response::Ok(Reply::Registered(Registered {
                id: ID,
                accelerated: false,
                reason,
            })))
        }
        _ => Some(Response::Ok(Reply::Done)),
    });
    let ended = Ended::from(setup.command(&[]).output().unwrap());
    ended.expect_line(
        5,
        "default/app is registered but not accelerated: the kernel has no BTF",
    );
}

#[test]
fn a_silent_agent_does_not_hold_the_guest_up() {
    if !cgroups() {
        return;
    }
    let setup = Setup::new(&guests::exits(5), |_| None);
    Ended::from(setup.command(&[]).output().unwrap())
        .expect_line(5, "runs without the agent: the agent does not answer");
    assert!(!setup.registered().cgroup.unwrap().exists());
}

#[test]
fn sockets_are_opened_in_the_namespace() {
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let runner = Runner::new(&guests::connects(netns.port, 1));
    runner
        .run(&["--netns", netns.path.to_str().unwrap()])
        .expect_quiet(0);
    let connection_refused = 100 + 14;
    runner.run_plain().expect_quiet(connection_refused);
}
