//! The status page of a live agent in a browser, while functions talk by every path.

mod support;
mod support_agent;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use cwasi_client::cgroup::Leaf;
use cwasi_client::client::Client;
use cwasi_client::process_report::{
    FunctionRef, ProcessConnection, ProcessEnd, ProcessReport, ProcessTotals, monotonic_ns,
};
use cwasi_client::protocol::FunctionSpec;
use support::netns::{NetNs, veth};
use support_agent::agent::Agent;
use support_agent::function::{Caller, echo};
use support_agent::{Process, collect};

const SERVER: &str = "10.1.0.11:7";
/// Who is no function, on the address of one.
const STRANGER: &str = "10.1.0.11:8";

/// What a browser makes of the page.
struct Seen {
    /// The document, after its script has run for a while.
    dom: String,
    /// What scripts, and the browser about them, have to say.
    console: Vec<String>,
}

/// A browser that reaches nothing but this machine.
fn chromium(profile: &Path, arguments: &[&str]) -> (String, String) {
    let mut command = Command::new("chromium");
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments)
        .env("HOME", profile)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Process(command.spawn().expect("start chromium"));
    let stdout = collect(process.0.stdout.take().expect("a pipe"));
    let stderr = collect(process.0.stderr.take().expect("a pipe"));
    let status = process.end();
    let (stdout, stderr) = (stdout.join().expect("no panic"), stderr.join().expect("no panic"));
    assert!(status.success(), "chromium: {status}: {stderr}");
    (stdout, stderr)
}

/// Looks at a page for ten seconds of its time.
fn look(url: &str) -> Seen {
    let profile = tempfile::tempdir().expect("a directory");
    let (dom, log) = chromium(
        profile.path(),
        &["--virtual-time-budget=10000", "--dump-dom", url],
    );
    let console = log.lines().filter(|line| line.contains("CONSOLE"));
    Seen {
        console: console.map(str::to_owned).collect(),
        dom,
    }
}

fn screenshot(url: &str, name: &str, arguments: &[&str]) -> PathBuf {
    let profile = tempfile::tempdir().expect("a directory");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_file(&path);
    let to = format!("--screenshot={}", path.display());
    chromium(profile.path(), &[&[to.as_str()], arguments, &[url]].concat());
    path
}

/// The start tags of the lines between two parties, in either order.
fn lines<'a>(dom: &'a str, a: &str, b: &str) -> Vec<&'a str> {
    let tags = dom.split('<').filter_map(|part| part.split('>').next());
    let ends = [(a, b), (b, a)].map(|(a, b)| format!("data-a=\"{a}\" data-b=\"{b}\""));
    tags.filter(|tag| tag.starts_with("path ") && ends.iter().any(|ends| tag.contains(ends)))
        .collect()
}

/// Echoes what one caller says, outside of any function.
fn stranger(netns: &NetNs) -> thread::JoinHandle<()> {
    let address: SocketAddr = STRANGER.parse().expect("an address");
    let listener = netns.run(|| TcpListener::bind(address).expect("listen"));
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    })
}

/// Registers a process of functions that talk inside of it.
fn embedded(agent: &Agent, leaf: &Leaf) {
    let end = |function: &str, address: &str| ProcessEnd {
        function: function.to_owned(),
        address: address.parse().expect("an address"),
        messages: 40,
        bytes: 3 << 20,
    };
    let connection = |client, server| ProcessConnection {
        client: end(client, "127.0.0.1:40000"),
        server: end(server, "127.0.0.1:80"),
        established_ns: monotonic_ns(),
    };
    let function = FunctionSpec {
        name: "workflow".to_owned(),
        namespace: "default".to_owned(),
        members: ["source", "resize", "store"].map(str::to_owned).to_vec(),
        cgroup: Some(leaf.path().to_owned()),
        ..FunctionSpec::default()
    };
    let report = ProcessReport {
        totals: ProcessTotals {
            connections: 2,
            messages: 160,
            bytes: 12 << 20,
        },
        open: 2,
        connections: vec![connection("source", "resize"), connection("resize", "store")],
    };
    let mut client = Client::connect(&agent.socket()).expect("connect to the agent");
    client.register(&function).expect("register");
    let of = FunctionRef::Cgroup(leaf.path().to_owned());
    client.report_process(&of, &report).expect("report");
}

#[test]
fn a_browser_shows_who_talks_to_whom_by_which_path() {
    needs!();
    needs_program!("chromium" of "chromium");
    let agent = Agent::start_with(&["--status-page"]);
    let netns = veth();
    let echo = echo(&agent, "echo", &netns[1], SERVER);
    let mut caller = Caller::start(&agent, "caller", &netns[0], SERVER);
    caller.stream(3);
    let mut front = Caller::start(&agent, "front", &netns[0], SERVER);
    front.stream(1);
    support::eventually("bytes are redirected", || agent.redirected("caller") > 1 << 20);
    // What the switch does is a fallback, with a remedy.
    agent.succeed(&["disable"]);
    support::eventually("streams go back to TCP", || agent.fallbacks("disabled") > 0);
    agent.succeed(&["enable"]);
    let before = ["caller", "front"].map(|caller| agent.redirected(caller));
    support::eventually("bytes are redirected again", || {
        ["caller", "front"]
            .map(|caller| agent.redirected(caller))
            .iter()
            .zip(before)
            .all(|(now, before)| *now > before + (1 << 20))
    });
    let stranger = stranger(&netns[1]);
    let mut outgoing = Caller::start(&agent, "outgoing", &netns[0], STRANGER);
    outgoing.talk(5);
    let leaf = Leaf::create("page-workflow").expect("a cgroup");
    embedded(&agent, &leaf);

    let url = format!(
        "http://{}/status",
        agent.status().metrics_addr.expect("metrics are served")
    );
    let seen = look(&url);
    let dom = &seen.dom;
    assert_eq!(seen.console, [] as [&str; 0], "the browser complains");
    assert!(dom.contains("Accelerating"), "{dom}");
    assert!(
        dom.contains("as of "),
        "the script put a new page in the place of the first: {dom}"
    );
    for function in ["echo", "caller", "front", "outgoing", "source", "resize", "store"] {
        assert!(
            dom.contains(&format!("data-party=\"default/{function}\"")),
            "no {function} in {dom}"
        );
    }
    assert!(
        dom.contains("<code>disabled</code>") && dom.contains("cwasi-agent enable switches it on"),
        "a fallback with its remedy: {dom}"
    );
    let of_path = |a: &str, b: &str, path: &str| {
        let found = lines(dom, a, b);
        let path = format!("data-path=\"{path}\"");
        assert!(
            found
                .iter()
                .any(|line| line.contains(&path) && !line.contains("data-open=\"0\"")),
            "{a} – {b}: {found:?}"
        );
    };
    of_path("default/caller", "default/echo", "kernel");
    of_path("default/front", "default/echo", "kernel");
    of_path("default/outgoing", "elsewhere", "network");
    of_path("default/resize", "default/store", "process");

    let sizes = [
        ("wide", "1280,1400", "1"),
        ("narrow", "400,2600", "1"),
        ("dark", "1280,1400", "0"),
    ];
    for (name, size, scheme) in sizes {
        let path = screenshot(
            &url,
            &format!("status-page-{name}.png"),
            &[
                &format!("--window-size={size}"),
                &format!("--blink-settings=preferredColorScheme={scheme}"),
            ],
        );
        let picture = fs::read(&path).expect("a picture");
        assert!(picture.starts_with(b"\x89PNG"), "{}", path.display());
    }

    agent.succeed(&["disable"]);
    support::eventually("the page tells of the switch", || {
        let dom = look(&url).dom;
        dom.contains("Switched off")
            && dom.contains("<code>disabled</code>")
            && dom.contains("cwasi-agent enable")
    });
    drop(outgoing);
    stranger.join().expect("no panic");
    caller.finish();
    front.finish();
    drop(echo);
}
