//! The commands as processes: what they print, and their exit codes.

mod fixture;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use cwasi_client::cgroup;
use cwasi_client::protocol::Degradation;
use fixture::{Running, Setup, leaf};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::Pid;

fn command(running: &Running, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cwasi-agent"));
    command
        .env("CWASI_SOCKET", &running.socket)
        .env("CWASI_BPFFS", running.dir.path().join("bpffs"))
        .args(arguments);
    command
}

fn output(running: &Running, arguments: &[&str]) -> Output {
    command(running, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

#[test]
fn status_is_zero_when_well_and_one_when_degraded() {
    let running = Running::new();
    let well = output(&running, &["status"]);
    assert_eq!(well.status.code(), Some(0));
    assert!(text(&well.stdout).contains("acceleration"));
    let well = output(&running, &["-o", "json", "status"]);
    assert_eq!(json(&well)["accelerating"], true);

    let cause = Degradation {
        reason: "self_test_redirect".to_owned(),
        detail: "none was redirected".to_owned(),
        remedy: "take another kernel".to_owned(),
    };
    let running = Running::with(Setup {
        degraded: vec![cause],
        ..Setup::default()
    });
    let degraded = output(&running, &["status"]);
    assert_eq!(degraded.status.code(), Some(1));
    let shown = text(&degraded.stdout);
    assert!(
        shown.contains("degraded: self_test_redirect: none was redirected"),
        "{shown}"
    );
    assert!(shown.contains("remedy: take another kernel"), "{shown}");
    let degraded = output(&running, &["status", "-o", "json"]);
    assert_eq!(degraded.status.code(), Some(1));
    assert_eq!(json(&degraded)["degraded"][0]["reason"], "self_test_redirect");
}

#[test]
fn exit_codes_tell_failures_apart() {
    let running = Running::new();
    let code = |arguments: &[&str]| output(&running, arguments).status.code();
    for arguments in [
        &["functions"][..],
        &["flows"],
        &["version"],
        &["enable"],
        &["disable"],
        &["--help"],
        &["exec", "--help"],
    ] {
        assert_eq!(code(arguments), Some(0), "{arguments:?}");
    }
    assert_eq!(code(&["no-such"]), Some(2));
    assert_eq!(code(&["run", "--budget-bytes", "1"]), Some(2));
    assert_eq!(code(&["explain", "a", "b"]), Some(4));
    for arguments in [
        &["status"][..],
        &["functions"],
        &["flows", "--watch"],
        &["explain", "a", "b"],
    ] {
        let refused = command(&running, arguments)
            .env("CWASI_SOCKET", "/no/agent.sock")
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(3), "{arguments:?}");
        assert!(text(&refused.stderr).starts_with("cwasi-agent: no agent answers on /no/agent.sock"));
        assert_eq!(text(&refused.stderr).lines().count(), 1);
    }
    let taken = output(&running, &["run", "--metrics-addr", "127.0.0.1:0"]);
    assert_eq!(taken.status.code(), Some(5));
    assert!(text(&taken.stderr).contains("another agent listens on"));
}

#[test]
fn the_switch_is_the_agents_and_without_one_the_next_ones() {
    let running = Running::new();
    assert_eq!(json(&output(&running, &["-o", "json", "disable"]))["by"], "agent");
    assert_eq!(running.fake.world().config.enabled, 0);
    assert_eq!(json(&output(&running, &["-o", "json", "enable"]))["by"], "agent");
    assert_eq!(running.fake.world().config.enabled, 1);

    let dir = tempfile::tempdir().unwrap();
    let elsewhere = |arguments: &[&str]| {
        let alone = command(&running, arguments)
            .env("CWASI_SOCKET", dir.path().join("agent.sock"))
            .output()
            .unwrap();
        assert_eq!(alone.status.code(), Some(0), "{}", text(&alone.stderr));
        text(&alone.stdout)
    };
    assert!(elsewhere(&["disable"]).contains("the next agent starts with acceleration off"));
    assert!(elsewhere(&["unload"]).contains("nothing is pinned"));
}

#[test]
fn flows_are_watched() {
    let running = Running::new();
    let mut watch = command(&running, &["flows", "--watch", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["flows"].as_array().unwrap().len(), 0);
    let event = cwasi_ebpf_common::maps::Event {
        kind: 2,
        cookie: 77,
        ..cwasi_ebpf_common::maps::Event::default()
    };
    running.fake.world().events.push(event);
    running.agent.lock().unwrap().drain_events();
    let second: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(second["events"]["events"][0]["cookie"], 77);
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn http_is_served() {
    let get = |running: &Running, path: &str| {
        let mut stream = TcpStream::connect(running.http).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let running = Running::new();
    let metrics = get(&running, "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200"));
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"));
    assert!(metrics.contains("\ncwasi_accelerating 1\n"));
    assert!(get(&running, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(&running, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(get(&running, "/other").starts_with("HTTP/1.1 404"));
    let starting = Running::with(Setup {
        started: false,
        ..Setup::default()
    });
    assert!(get(&starting, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(&starting, "/readyz").starts_with("HTTP/1.1 503"));
    assert!(get(&starting, "/metrics").starts_with("HTTP/1.1 503"));
}

/// Whether `exec` can work here; says on stderr why not.
fn can_exec() -> bool {
    leaf("commands-probe").is_some()
}

fn exec(running: &Running, name: &str, arguments: &[&str]) -> Command {
    let mut exec = command(running, &[&["exec", "--name", name][..], arguments].concat());
    // A shell cannot trap what was ignored when it began, as under nohup or in the background of a script.
    let heed_signals = || {
        for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
            // SAFETY: takes no handler of ours.
            unsafe { signal(ignored, SigHandler::SigDfl) }?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { exec.pre_exec(heed_signals) };
    exec
}

/// Leaves of functions with this name.
fn leaves(name: &str) -> Vec<std::path::PathBuf> {
    let parent = cgroup::unified_root().unwrap().join(cgroup::PARENT);
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let path = entries.map(|entry| entry.path());
    path.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name))
        .collect()
}

#[test]
fn exec_passes_exit_codes_on_and_cleans_up() {
    if !can_exec() {
        return;
    }
    let running = Running::new();
    let name = "commands-exit";
    let run = |arguments: &[&str]| {
        let done = exec(&running, name, arguments).output().unwrap();
        assert_eq!(leaves(name), Vec::<std::path::PathBuf>::new());
        assert!(running.agent.lock().unwrap().functions().is_empty());
        done
    };
    let done = run(&["--", "sh", "-c", "echo out; cat /proc/self/cgroup; exit 7"]);
    assert_eq!(done.status.code(), Some(7));
    assert!(text(&done.stdout).starts_with("out\n"));
    assert!(text(&done.stdout).contains(&format!("0::/{}/{name}-", cgroup::PARENT)));
    // The fake kernel does not know the cgroup: one line says so, and the command runs.
    let said = text(&done.stderr);
    assert!(
        said.starts_with("cwasi-agent exec: commands-exit runs on plain TCP: "),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
    assert_eq!(
        run(&["--", "sh", "-c", "kill -TERM $$"]).status.code(),
        Some(128 + 15)
    );
    assert_eq!(run(&["--", "/no/such/command"]).status.code(), Some(127));
    assert_eq!(run(&["--", "/etc/passwd"]).status.code(), Some(126));
    assert_eq!(
        run(&["--netns", "no-such", "--", "true"]).status.code(),
        Some(125)
    );
    assert_eq!(
        run(&["--netns", "/proc/self/ns/uts", "--", "true"]).status.code(),
        Some(125)
    );
    let refused = exec(&running, "bad/name", &["--", "true"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(125));
    let alone = exec(&running, name, &["--", "true"])
        .env("CWASI_SOCKET", "/no/agent.sock")
        .output()
        .unwrap();
    assert_eq!(alone.status.code(), Some(125));
    assert!(text(&alone.stderr).contains("no agent answers"));
}

#[test]
fn exec_registers_the_command_with_its_labels() {
    if !can_exec() {
        return;
    }
    let running = Running::new();
    let mut child = exec(
        &running,
        "commands-labels",
        &[
            "--namespace",
            "team",
            "--label",
            "a=b",
            "--sockets",
            "all",
            "--",
            "cat",
        ],
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"ping\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ping\n");
    let functions = running.agent.lock().unwrap().functions();
    assert_eq!(functions[0].spec.namespace, "team");
    assert_eq!(functions[0].spec.labels["a"], "b");
    assert_eq!(functions[0].spec.sockets, cwasi_client::protocol::Sockets::All);
    assert_eq!(functions[0].registered_by, child.id());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// Waits until the command has printed a line.
fn wait_for_line(child: &mut Child) -> String {
    let mut line = String::new();
    let mut byte = [0];
    let out = child.stdout.as_mut().unwrap();
    while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(char::from(byte[0]));
    }
    line
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

#[test]
fn exec_passes_signals_on_and_kills_what_is_left() {
    if !can_exec() {
        return;
    }
    let running = Running::new();
    let name = "commands-signals";
    for (signal, code) in [
        (Signal::SIGTERM, 41),
        (Signal::SIGINT, 42),
        (Signal::SIGHUP, 43),
        (Signal::SIGQUIT, 44),
    ] {
        // The background sleeper would outlive the shell.
        let script = "trap 'exit 41' TERM; trap 'exit 42' INT; trap 'exit 43' HUP; trap 'exit 44' QUIT; \
                      setsid sleep 1000 >/dev/null & echo $!; while :; do sleep 0.01; done";
        let mut child = exec(&running, name, &["--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let sleeper = Pid::from_raw(wait_for_line(&mut child).parse().unwrap());
        kill(pid(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
        assert_eq!(leaves(name), Vec::<std::path::PathBuf>::new());
        assert!(cwasi_agent::agent::started(u32::try_from(sleeper.as_raw()).unwrap()).is_none());
    }
}

#[test]
fn a_killed_exec_takes_its_command_along_and_the_agent_cleans_up() {
    if !can_exec() {
        return;
    }
    let running = Running::new();
    let name = "commands-killed";
    let mut child = exec(&running, name, &["--", "sh", "-c", "echo $$; exec sleep 1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let sleeper: u32 = wait_for_line(&mut child).parse().unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let mut tries = 0;
    while cwasi_agent::agent::started(sleeper).is_some() {
        tries += 1;
        assert!(tries < 1000, "the command outlives exec");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(running.agent.lock().unwrap().functions().len(), 1);
    running.agent.lock().unwrap().sweep_functions();
    assert!(running.agent.lock().unwrap().functions().is_empty());
    assert_eq!(leaves(name), Vec::<std::path::PathBuf>::new());
}
