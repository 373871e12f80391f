//! Kernels and nodes that lack something: the agent serves and says what, and functions run on plain TCP without a byte lost.
//!
//! A kernel under lockdown is in `kernel_locked`, an agent without a capability in `agent_rights`.

mod support;
mod support_agent;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cwasi_agent::agent::DEGRADATIONS;
use cwasi_agent::probe::probe;
use cwasi_client::protocol::Degradation;
use nix::sys::socket::{getsockopt, sockopt};
use serde_json::Value;
use support::netns::veth;
use support_agent::agent::{Agent, text};
use support_agent::busy::{Busy, ROUNDS, SERVER};
use support_agent::doctored::{
    self, BPF_LINK_CREATE, BPF_LINK_UPDATE, BPF_MAP_CREATE, BPF_PROG_LOAD, BtfImage, Call, Kernel, Verdict,
    mounted,
};
use support_agent::function::{Caller, echo};

/// `BPF_MAP_TYPE_RINGBUF`, from 5.8.
const RINGBUF: u32 = 27;
/// `BPF_MAP_TYPE_SOCKHASH`, with `CONFIG_NET_SOCK_MSG`.
const SOCKHASH: u32 = 18;
/// `BPF_PROG_TYPE_SOCK_OPS`, with `CONFIG_CGROUP_BPF`.
const SOCK_OPS: u32 = 13;
/// `BPF_PROG_TYPE_SK_MSG`.
const SK_MSG: u32 = 16;
/// `bpf_probe_read_kernel`.
const PROBE_READ_KERNEL: u32 = 113;
/// `bpf_msg_redirect_hash`.
const MSG_REDIRECT_HASH: u32 = 71;

/// Ends the test, visibly, where the calls of a process cannot be judged.
macro_rules! needs_judging {
    () => {
        needs!();
        if let Some(reason) = doctored::missing() {
            return support::probe::skipped(&reason);
        }
    };
}

fn fails_if(lacks: bool, errno: i32) -> Verdict {
    if lacks {
        Verdict::Fails(errno)
    } else {
        Verdict::Done
    }
}

fn no_map(call: &Call, kind: u32) -> Verdict {
    let lacks = call.bpf() == Some(BPF_MAP_CREATE) && call.attribute(0) == kind;
    fails_if(lacks, libc::EINVAL)
}

fn no_program(call: &Call, kind: u32) -> Verdict {
    let lacks = call.bpf() == Some(BPF_PROG_LOAD) && call.attribute(0) == kind;
    fails_if(lacks, libc::EINVAL)
}

fn no_helper(call: &Call, helper: u32) -> Verdict {
    let lacks = call.bpf() == Some(BPF_PROG_LOAD) && call.helpers().contains(&helper);
    if lacks {
        call.verifier_says(&format!("invalid func unknown#{helper}\n"));
    }
    fails_if(lacks, libc::EINVAL)
}

fn no_command(call: &Call, command: u64) -> Verdict {
    fails_if(call.bpf() == Some(command), libc::EINVAL)
}

/// An agent on a kernel of its own.
struct Lacking {
    // Ends before its kernel does.
    agent: Agent,
    _kernel: Option<Kernel>,
}

impl Lacking {
    /// An agent whose calls of bpf(2) are judged.
    fn bpf(judge: impl Fn(&Call) -> Verdict + Send + 'static) -> Self {
        Self::calls(&[libc::SYS_bpf], judge)
    }

    fn calls(watched: &[libc::c_long], judge: impl Fn(&Call) -> Verdict + Send + 'static) -> Self {
        let agent = Agent::absent();
        let (kernel, ()) = Kernel::new(watched, judge, || agent.launch());
        agent.wait_until_served();
        Self {
            agent,
            _kernel: Some(kernel),
        }
    }

    /// An agent with mounts of its own.
    fn mounts(command: &[String]) -> Self {
        let agent = Agent::absent();
        let through: Vec<&str> = command.iter().map(String::as_str).collect();
        agent.run_by(&through);
        Self { agent, _kernel: None }
    }

    /// An agent to which the kernel's BTF is as `change` makes it.
    fn btf(change: impl FnOnce(&mut BtfImage)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut image = BtfImage::of_kernel();
        change(&mut image);
        // The mount keeps the file.
        Self::mounts(&image.shown(&dir.path().join("vmlinux")))
    }

    /// Shows that the agent names these reasons, in words that contain the ones given, wherever it is asked.
    fn says(&self, wanted: &[(&str, &str)]) {
        let status = self.agent.status();
        let told: Vec<_> = status.degraded.iter().map(|why| why.reason.as_str()).collect();
        let reasons: Vec<_> = wanted.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(told, reasons, "{:#?}", status.degraded);
        for (Degradation { detail, remedy, .. }, (_, words)) in status.degraded.iter().zip(wanted) {
            assert!(detail.contains(words) && !detail.contains('\n'), "{detail}");
            assert!(!remedy.is_empty());
        }
        let shown = self.agent.output(&["status"]);
        assert_eq!(shown.status.code(), Some(1));
        let (shown, metrics) = (text(&shown.stdout), self.agent.metrics());
        for reason in reasons {
            assert!(shown.contains(&format!("degraded: {reason}: ")), "{shown}");
            let gauge = format!("cwasi_degraded{{reason=\"{reason}\"}} 1\n");
            assert!(metrics.contains(&gauge), "{metrics}");
        }
        assert!(metrics.contains(&format!(
            "\ncwasi_accelerating {}\n",
            u8::from(status.accelerating)
        )));
        let ready = http(&self.agent, "/readyz");
        assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    }

    /// Shows that the agent says why, and that functions talk by plain TCP.
    fn is_plain(&self, wanted: &[(&str, &str)]) {
        self.says(wanted);
        assert!(!self.agent.status().accelerating);
        let netns = veth();
        let server = echo(&self.agent, "plain-echo", &netns[1], SERVER);
        let mut caller = Caller::start(&self.agent, "plain-caller", &netns[0], SERVER);
        caller.stream(1);
        let (address, bytes) = caller.talk(ROUNDS);
        assert!(bytes > 0);
        assert_eq!(self.agent.flow_of(address), None);
        assert_eq!(self.agent.flows(), []);
        for function in self.agent.functions() {
            assert!(!function.accelerated, "{function:?}");
        }
        assert_eq!(self.agent.status().traffic.redirect_bytes, 0);
        caller.finish();
        drop(server);
        support::eventually("the functions are forgotten", || {
            self.agent.functions().is_empty()
        });
        self.says(wanted);
    }
}

fn http(agent: &Agent, path: &str) -> String {
    let address = agent.status().metrics_addr.expect("metrics are served");
    let mut stream = TcpStream::connect(address).expect("connect to the agent");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .expect("ask the agent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read the answer");
    answer
}

/// Runs `cwasi-agent probe` on such a kernel, and shows that it misses these.
fn probe_misses(judge: impl Fn(&Call) -> Verdict + Send + 'static, missing: &[&str]) {
    let agent = Agent::absent();
    let (_kernel, output): (_, Output) =
        Kernel::new(&[libc::SYS_bpf], judge, || agent.output(&["probe", "-o", "json"]));
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["usable"], false);
    let rows = report["rows"].as_array().expect("rows");
    let row = |name: &str| rows.iter().find(|row| row["name"] == name);
    // libbpf is not in every build: without it the self-test alone tells.
    let probed = row("sk_msg").is_some();
    for name in missing.iter().filter(|_| probed).chain(&["redirect"]) {
        let row = row(name).unwrap_or_else(|| panic!("no row {name} in {report:#}"));
        assert_eq!(row["finding"], "missing", "{row}");
        let remedy = row["remedy"].as_str();
        assert!(remedy.is_some_and(|remedy| !remedy.is_empty()), "{row}");
    }
    let others = rows.iter().filter(|row| {
        let group = row["group"].as_str().expect("a group");
        ["program", "map", "helper"].contains(&group) && row["finding"] == "missing"
    });
    let others: Vec<_> = others.map(|row| row["name"].as_str().expect("a name")).collect();
    assert_eq!(others, if probed { missing } else { &[] });
}

#[test]
fn no_ring_buffer() {
    needs_judging!();
    let lacking = Lacking::bpf(|call| no_map(call, RINGBUF));
    lacking.is_plain(&[
        ("self_test_redirect", "load of the eBPF object"),
        ("load", "EVENTS"),
    ]);
    probe_misses(|call| no_map(call, RINGBUF), &["ringbuf"]);
}

#[test]
fn no_sockhash() {
    needs_judging!();
    let lacking = Lacking::bpf(|call| no_map(call, SOCKHASH));
    lacking.is_plain(&[
        ("self_test_redirect", "load of the eBPF object"),
        ("load", "SOCKETS"),
    ]);
    probe_misses(|call| no_map(call, SOCKHASH), &["sockhash"]);
}

#[test]
fn no_programs_on_cgroups() {
    needs_judging!();
    let lacking = Lacking::bpf(|call| no_program(call, SOCK_OPS));
    lacking.is_plain(&[
        ("self_test_redirect", "load of program cwasi_sock_ops"),
        ("load", "load of program cwasi_sock_ops"),
    ]);
}

#[test]
fn no_programs_on_messages() {
    needs_judging!();
    let lacking = Lacking::bpf(|call| no_program(call, SK_MSG));
    lacking.is_plain(&[
        ("self_test_redirect", "load of program cwasi_sk_msg"),
        ("load", "load of program cwasi_sk_msg"),
    ]);
}

#[test]
fn no_helper_to_read_kernel_memory() {
    needs_judging!();
    let lacking = Lacking::bpf(|call| no_helper(call, PROBE_READ_KERNEL));
    // aya sees that it is missing, and has the programs call the one that reads anything in its place.
    lacking.is_plain(&[
        ("self_test_redirect", "helper bpf_probe_read#4"),
        ("load", "helper bpf_probe_read#4"),
    ]);
    let missing = [
        "bpf_probe_read_kernel in sock_ops",
        "bpf_probe_read_kernel in sk_msg",
    ];
    probe_misses(|call| no_helper(call, PROBE_READ_KERNEL), &missing);
}

#[test]
fn no_helper_to_redirect() {
    needs_judging!();
    let lacking = Lacking::bpf(|call| no_helper(call, MSG_REDIRECT_HASH));
    lacking.is_plain(&[
        ("self_test_redirect", "invalid func unknown#71"),
        ("load", "invalid func unknown#71"),
    ]);
    probe_misses(
        |call| no_helper(call, MSG_REDIRECT_HASH),
        &["bpf_msg_redirect_hash in sk_msg"],
    );
}

#[test]
fn no_bpf_at_all() {
    needs_judging!();
    let nothing = |call: &Call| fails_if(call.bpf().is_some(), libc::ENOSYS);
    let lacking = Lacking::bpf(nothing);
    lacking.is_plain(&[("self_test_redirect", ""), ("load", "")]);
}

#[test]
fn no_links_on_cgroups() {
    needs_judging!();
    let lacking = Lacking::bpf(|call| no_command(call, BPF_LINK_CREATE));
    lacking.is_plain(&[("self_test_redirect", "attach of program cwasi_sock_ops")]);
}

/// What an agent before has pinned cannot be taken over: it goes on by itself, and the switch stops it.
#[test]
fn no_replacement_in_links() {
    needs_judging!();
    let agent = Agent::start();
    let mut busy = Busy::start(&agent);
    busy.is_redirected(&agent);
    agent.kill();
    let judge = |call: &Call| no_command(call, BPF_LINK_UPDATE);
    let (kernel, ()) = Kernel::new(&[libc::SYS_bpf], judge, || agent.launch());
    agent.wait_until_served();
    let lacking = Lacking {
        agent,
        _kernel: Some(kernel),
    };
    lacking.says(&[("load", "bpf(BPF_LINK_UPDATE)")]);
    busy.caller.goes_on();
    lacking.agent.succeed(&["disable"]);
    busy.caller.goes_on();
    // The next one can, and finds what the switch was told meanwhile.
    lacking.agent.kill();
    lacking.agent.run();
    let status = lacking.agent.status();
    assert_eq!(status.degraded, []);
    assert!(!status.enabled);
    lacking.agent.succeed(&["enable"]);
    busy.is_redirected(&lacking.agent);
    busy.new_connection_is_redirected(&lacking.agent);
    drop(busy.end());
}

#[test]
fn no_bpffs() {
    needs!();
    let mut agent = Agent::absent();
    agent.bpffs = agent.dir.path().join("bpffs");
    agent.run();
    let lacking = Lacking { agent, _kernel: None };
    lacking.is_plain(&[("load", "is not on a bpffs: another file system is there")]);
}

#[test]
fn no_right_to_mount_a_bpffs() {
    needs_judging!();
    let agent = Agent::absent();
    let through = mounted("umount --all --lazy --types bpf");
    let through: Vec<&str> = through.iter().map(String::as_str).collect();
    let judge = |call: &Call| {
        let kind = call.arguments[2];
        fails_if(kind != 0 && call.memory(kind, 4) == *b"bpf\0", libc::EPERM)
    };
    let (kernel, ()) = Kernel::new(&[libc::SYS_mount], judge, || agent.launch_by(&through));
    agent.wait_until_served();
    let lacking = Lacking {
        agent,
        _kernel: Some(kernel),
    };
    lacking.is_plain(&[("load", "is not on a bpffs: mount on /sys/fs/bpf: EPERM")]);
}

#[test]
fn no_cgroup_v2() {
    needs!();
    let node = mounted("umount --all --lazy --types cgroup2");
    let lacking = Lacking::mounts(&node);
    lacking.says(&[("self_test_redirect", "no cgroup v2 hierarchy is mounted")]);
    assert!(!lacking.agent.status().accelerating);
    // Nothing can be a function there.
    let node: Vec<&str> = node.iter().map(String::as_str).collect();
    let exec = ["exec", "--name", "no-cgroup", "--", "true"];
    let output = lacking.agent.command_by(&node, &exec).output().expect("run exec");
    assert_eq!(output.status.code(), Some(125));
    let said = text(&output.stderr);
    assert!(said.contains("mount -t cgroup2 none"), "{said}");
}

#[test]
fn no_field_in_the_btf() {
    needs!();
    let lacking = Lacking::btf(|btf| btf.hide("sk_psock", "ingress_msg"));
    let words = "this kernel has no sk_psock.ingress_msg";
    lacking.is_plain(&[("self_test_redirect", words), ("load", words)]);
}

#[test]
fn no_readers_in_the_btf() {
    needs!();
    let lacking = Lacking::btf(|btf| btf.hide("eppoll_entry", "whead"));
    let agent = &lacking.agent;
    lacking.says(&[("readers", "this kernel has no eppoll_entry.whead")]);
    // Those of the tests are vouched for.
    assert!(agent.status().accelerating);
    let mut busy = Busy::start(agent);
    busy.is_redirected(agent);
    busy.new_connection_is_redirected(agent);
    drop(busy.end());
}

/// As if redirected bytes were counted nowhere.
#[test]
fn no_charge_of_the_queue() {
    needs!();
    let exact = support::node::measure() == cwasi_ebpf_common::offsets::QueueMeasure::MessageTotal;
    let lacking = Lacking::btf(|btf| {
        if exact {
            btf.mistake("sk_psock", "msg_tot_len", "apply_bytes");
        }
        btf.mistake("sock", "sk_backlog", "sk_err");
        // Another queue, which is always empty.
        btf.mistake("sk_psock", "ingress_msg", "ingress_skb");
    });
    lacking.is_plain(&[
        ("self_test_queue_charged", "an idle reader's queue grew to "),
        (
            "self_test_order_across_spill",
            "not tried, an earlier check failed",
        ),
    ]);
}

/// The longest read of the self-test's other checks, of what was unread at the end of a connection.
const UNREAD: u64 = 100_000;

/// As if a reader found the bytes of TCP before redirected ones.
#[test]
fn no_order() {
    needs_judging!();
    let lacking = Lacking::calls(&[libc::SYS_recvfrom], reversed);
    lacking.is_plain(&WITHOUT_ORDER);
}

/// What an agent then says.
const WITHOUT_ORDER: [(&str, &str); 2] = [
    ("self_test_order_across_spill", "is not the one that was sent"),
    ("self_test_eof_after_data", "not tried, an earlier check failed"),
];

fn reversed(call: &Call) -> Verdict {
    let [socket, buffer, len, ..] = call.arguments;
    if len <= UNREAD {
        return Verdict::Done;
    }
    let mut bytes = vec![0_u8; 4096];
    let socket: std::net::TcpStream = call.descriptor(socket).into();
    let read = (&socket)
        .read(&mut bytes)
        .expect("read in the place of a process");
    bytes.truncate(read);
    bytes.reverse();
    call.write(buffer, &bytes);
    Verdict::Returns(i64::try_from(read).expect("a length"))
}

/// As if bytes that are unread at the end of a connection were lost.
#[test]
fn no_bytes_after_the_end() {
    needs_judging!();
    let lacking = Lacking::calls(&[libc::SYS_recvfrom], |call| {
        let unread = call.arguments[2] == UNREAD;
        if unread {
            Verdict::Returns(0)
        } else {
            Verdict::Done
        }
    });
    lacking.is_plain(&[
        ("self_test_eof_after_data", "read: failed to fill whole buffer"),
        (
            "self_test_unaccepted_removed",
            "not tried, an earlier check failed",
        ),
    ]);
}

/// An agent on a kernel that lacks something for a while, as one that is short of memory does.
fn lacks_for_a_while(
    watched: &[libc::c_long],
    judge: impl Fn(&Call) -> Verdict + Send + 'static,
    wanted: &[(&str, &str)],
) {
    let short = Arc::new(AtomicBool::new(true));
    let lacking = Lacking::calls(watched, {
        let short = Arc::clone(&short);
        move |call| {
            if short.load(Ordering::Relaxed) {
                judge(call)
            } else {
                Verdict::Done
            }
        }
    });
    let agent = &lacking.agent;
    let mut busy = Busy::start(agent);
    busy.caller.goes_on();
    lacking.says(wanted);
    short.store(false, Ordering::Relaxed);
    agent.wait_until_accelerating();
    assert_eq!(agent.status().degraded, []);
    assert_eq!(agent.output(&["status"]).status.code(), Some(0));
    // The functions and connections of before are there, and what begins now is redirected.
    busy.new_connection_is_redirected(agent);
    busy.caller.goes_on();
    let _netns = busy.end();
}

#[test]
fn no_sockhash_for_a_while() {
    needs_judging!();
    lacks_for_a_while(
        &[libc::SYS_bpf],
        |call| no_map(call, SOCKHASH),
        &[
            ("self_test_redirect", "load of the eBPF object"),
            ("load", "SOCKETS"),
        ],
    );
}

#[test]
fn no_order_for_a_while() {
    needs_judging!();
    lacks_for_a_while(&[libc::SYS_recvfrom], reversed, &WITHOUT_ORDER);
}

/// As if a connection outlived the listener that it waits at.
#[test]
fn no_end_of_what_nobody_accepted() {
    needs_judging!();
    let lacking = Lacking::calls(&[libc::SYS_close], |call| {
        let socket = call.descriptor(call.arguments[0]);
        let accepts = getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false);
        if accepts {
            Verdict::Returns(0)
        } else {
            Verdict::Done
        }
    });
    lacking.is_plain(&[("self_test_unaccepted_removed", "stays in the sockhash")]);
}

/// Program types with their helpers, and map types.
#[derive(Debug, Default, PartialEq, Eq)]
struct Used {
    helpers: BTreeSet<(u32, u32)>,
    maps: BTreeSet<u32>,
}

impl Used {
    fn note(&mut self, call: &Call) {
        if call.bpf() == Some(BPF_PROG_LOAD) {
            let kind = call.attribute(0);
            self.helpers
                .extend(call.helpers().into_iter().map(|helper| (kind, helper)));
        } else {
            self.maps.insert(call.attribute(0));
        }
    }
}

/// A helper or a map type that the programs use is one that `probe` looks for.
#[test]
fn the_probe_looks_for_what_is_used() {
    needs_judging!();
    if !cfg!(feature = "libbpf") {
        return support::probe::skipped("built without libbpf");
    }
    // libbpf tries a helper in a program of two instructions, and maps without a name.
    let seen = Arc::new(Mutex::new([Used::default(), Used::default()]));
    let judge = {
        let seen = Arc::clone(&seen);
        move |call: &Call| {
            let by_libbpf = match call.bpf() {
                Some(BPF_PROG_LOAD) if [SOCK_OPS, SK_MSG].contains(&call.attribute(0)) => {
                    call.attribute(4) == 2
                }
                Some(BPF_MAP_CREATE) => call.attribute(28) == 0,
                _ => return Verdict::Done,
            };
            seen.lock().unwrap()[usize::from(by_libbpf)].note(call);
            Verdict::Done
        }
    };
    let agent = Agent::absent();
    let (_kernel, output) = Kernel::new(&[libc::SYS_bpf], judge, || agent.output(&["probe"]));
    assert!(output.status.success(), "{}", text(&output.stdout));
    let [used, tried] = std::mem::take(&mut *seen.lock().unwrap());
    assert!(used.helpers.len() > 10 && used.maps.len() > 5, "{used:?}");
    assert_eq!(used.helpers, tried.helpers);
    assert!(used.maps.is_subset(&tried.maps), "{used:?}, {tried:?}");
}

/// The cells of the table of docs/kernel-policy.md that tells what is needed.
fn policy() -> Vec<Vec<String>> {
    let page = include_str!("../../docs/kernel-policy.md");
    let rows = page.lines().skip_while(|line| !line.starts_with("| needed |"));
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    rows.map(cells).collect()
}

/// What is in backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn the_policy_has_every_lack_with_the_test_that_provokes_it() {
    let table = policy();
    let column = |index: usize| table.iter().flat_map(move |row| quoted(&row[index]));

    // Every row that a probe has, but for those that are no lack of the kernel's.
    let report = probe(&support::node::directory());
    let mut told: Vec<&str> = column(3).collect();
    for row in &report.rows {
        let name = match row.group {
            "program" | "map" | "helper" => row.group,
            _ => row.name.as_str(),
        };
        assert!(
            ["known fixes", "unprivileged bpf", "CAP_SYS_ADMIN"].contains(&name) || told.contains(&name),
            "the policy does not tell of {name}"
        );
    }
    told.retain(|name| {
        let known = |row: &cwasi_agent::probe::Row| row.group == *name || row.name == *name;
        !report.rows.iter().any(known)
    });
    told.retain(|name| *name != "CAP_SYS_RESOURCE");
    assert_eq!(told, [] as [&str; 0], "no probe looks for it");

    // Every reason that the start of an agent finds.
    for reason in DEGRADATIONS {
        let of_the_start = reason.starts_with("self_test_") || ["load", "readers"].contains(&reason);
        assert_eq!(column(4).any(|told| told == reason), of_the_start, "{reason}");
    }

    // Every test is one.
    for test in column(5) {
        let (file, name) = test.split_once("::").expect("a file and a test");
        let path = format!("{}/tests/{file}.rs", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(&path).expect(&path);
        assert!(source.contains(&format!("#[test]\nfn {name}()")), "no {test}");
    }
    assert!(table.iter().all(|row| quoted(&row[5]).next().is_some()));
}
