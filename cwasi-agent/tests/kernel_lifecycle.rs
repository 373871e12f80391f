//! Agents come and go while bytes flow: none is lost, no connection is broken.

mod support;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cwasi_agent::kernel::{KernelPlane, Options, PlaneError, pinned};
use cwasi_agent::plane::Plane;
use cwasi_ebpf_common::maps::{FunctionEntry, TrafficEntry};
use cwasi_ebpf_common::reason::Reason;
use support::duplex::{Duplex, Manner};
use support::netns::{Bridged, veth};
use support::node::{self, Node};
use support::pod::{Pod, connect};
use support::stream::Talk;

/// Two functions with connections in use.
struct Busy {
    client: Pod,
    server: Pod,
    listener: TcpListener,
    duplex: Duplex,
}

/// Connections that are in use during a test: 10 at full effort.
fn number_of_connections() -> u64 {
    u64::from(support::effort().div_ceil(10))
}

impl Busy {
    fn start(node: &Node, name: &str) -> Self {
        let [here, there] = veth();
        let (client, server) = (Pod::enrolled(node, &here), Pod::enrolled(node, &there));
        Self::between(client, server, name)
    }

    fn between(client: Pod, server: Pod, name: &str) -> Self {
        let listener = server.listen((Bridged::v4(1), 0));
        let address = listener.local_addr().unwrap();
        let connections = (0..number_of_connections())
            .map(|_| connect(&client, &listener, address))
            .collect();
        let duplex = Duplex::start(connections, support::seed(name), Manner::RESTLESS);
        duplex.goes_on();
        Self {
            client,
            server,
            listener,
            duplex,
        }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Shows that new connections are made, and redirected or not.
    fn new_connections(&self, node: &Node, redirected: bool) {
        let connection = connect(&self.client, &self.listener, self.address());
        let bytes = Talk::new(&connection, 1).converse();
        let flow = node.flow_of(&connection.0);
        assert_eq!(flow.is_some(), redirected);
        assert_eq!(
            flow.map_or(0, |flow| flow.sent.redirect_bytes),
            if redirected { bytes } else { 0 }
        );
    }
}

/// Bytes that live flows have redirected.
fn redirected(node: &Node) -> u64 {
    node.flows().iter().map(|flow| flow.sent.redirect_bytes).sum()
}

#[test]
fn an_agent_that_ends_leaves_everything_running() {
    needs!();
    let node = Node::new();
    let busy = Busy::start(&node, "an_agent_that_ends_leaves_everything_running");
    for _ in 0..3 {
        let before = redirected(&node);
        node.close();
        busy.duplex.goes_on();
        // Nobody but the kernel is there to enrol these.
        let connection = connect(&busy.client, &busy.listener, busy.address());
        let bytes = Talk::new(&connection, 1).converse();
        node.open();
        assert!(redirected(&node) > before, "redirection goes on without an agent");
        assert_eq!(node.flow(&connection.0).sent.redirect_bytes, bytes);
        busy.new_connections(&node, true);
    }
    let functions = node.with_plane(|plane| plane.attached()).unwrap();
    let mut ids: Vec<u32> = functions.iter().map(|(_, entry)| entry.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [busy.client.id, busy.server.id]);
    busy.duplex.finish();
    node.settles();
    let traffic = node.traffic(busy.client.id, busy.server.id);
    assert_eq!(
        traffic.connections,
        number_of_connections() + 2 * 3,
        "every agent adds to the same sums"
    );
}

/// The agent that `killed_agents_leave_everything_running` kills: opens a plane on the directory given, and waits.
#[test]
#[ignore = "a process of killed_agents_leave_everything_running, not a test"]
fn agent_process() {
    let directory = std::env::var_os("CWASI_TEST_BPFFS").expect("a directory");
    let mut plane =
        KernelPlane::open(Options::new(directory.into(), node::measure())).expect("open the plane");
    let cgroups = std::env::var("CWASI_TEST_CGROUPS").unwrap_or_default();
    for (id, cgroup) in (1..).zip(cgroups.lines()) {
        let entry = FunctionEntry { id, sockets: 0 };
        plane.attach(cgroup.as_ref(), entry).expect("attach");
    }
    println!("\nready");
    std::thread::sleep(Duration::from_secs(600));
}

/// A process with a plane of its own.
struct Agent(Child);

impl Agent {
    fn start(bpffs: &std::path::Path, cgroups: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "agent_process", "--nocapture"])
            .env("CWASI_TEST_BPFFS", bpffs)
            .env("CWASI_TEST_CGROUPS", cgroups)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start this program");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.unwrap() == "ready");
        let agent = Self(child);
        assert!(ready, "the agent process is ready");
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // SIGKILL.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn killed_agents_leave_everything_running() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    node.close();
    let (mut client, mut server) = (Pod::stranger(&here), Pod::stranger(&there));
    let cgroups = [&client, &server]
        .map(|pod| pod.leaf().path().display().to_string())
        .join("\n");
    let agent = Agent::start(node.bpffs(), &cgroups);
    (client.id, server.id) = (1, 2);
    let busy = Busy::between(client, server, "killed_agents_leave_everything_running");
    drop(agent);
    busy.duplex.goes_on();
    for _ in 0..2 {
        let agent = Agent::start(node.bpffs(), "");
        busy.duplex.goes_on();
        drop(agent);
    }
    node.open();
    let before = redirected(&node);
    assert_eq!(node.flows().len() as u64, 2 * number_of_connections());
    busy.duplex.goes_on();
    assert!(redirected(&node) > before);
    busy.new_connections(&node, true);
    assert_eq!(node.with_plane(|plane| plane.attached()).unwrap().len(), 2);
    busy.duplex.finish();
    node.settles();
    assert_eq!(node.traffic(1, 2).connections, number_of_connections() + 1);
}

/// Each open puts a newly loaded program in the place of the one before; open sockets keep theirs.
#[test]
fn upgrades_under_load() {
    needs!();
    let node = Node::new();
    let busy = Busy::start(&node, "upgrades_under_load");
    for _ in 0..5 {
        node.close();
        node.open();
        busy.new_connections(&node, true);
    }
    busy.duplex.goes_on();
    busy.duplex.finish();
    node.settles();
}

#[test]
fn the_kill_switch_under_load() {
    needs!();
    let node = Node::new();
    let busy = Busy::start(&node, "the_kill_switch_under_load");
    for _ in 0..3 {
        node.configure(|config| config.enabled = 0);
        // What was on its way when the switch was set may still come.
        support::eventually("switched off is off", || {
            let before = redirected(&node);
            busy.duplex.goes_on();
            redirected(&node) == before
        });
        let before = redirected(&node);
        support::eventually("every end that sends says why it goes by TCP", || {
            let flows = node.flows();
            flows.iter().all(|flow| flow.reason == Reason::Disabled as u32)
        });
        busy.new_connections(&node, false);
        node.configure(|config| config.enabled = 1);
        support::eventually("redirection resumes", || redirected(&node) > before);
        busy.new_connections(&node, true);
    }
    busy.duplex.finish();
    node.settles();
}

#[test]
fn the_kill_switch_without_an_agent() {
    needs!();
    let node = Node::new();
    let busy = Busy::start(&node, "the_kill_switch_without_an_agent");
    node.close();
    pinned::set_enabled(node.bpffs(), false).unwrap();
    busy.duplex.goes_on();
    node.open();
    let before = redirected(&node);
    busy.duplex.goes_on();
    assert_eq!(redirected(&node), before, "the next agent leaves it switched off");
    pinned::set_enabled(node.bpffs(), true).unwrap();
    support::eventually("redirection resumes", || redirected(&node) > before);
    busy.duplex.finish();
    node.settles();
}

#[test]
fn unloaded_under_load() {
    needs!();
    let node = Node::new();
    let busy = Busy::start(&node, "unloaded_under_load");
    node.unload();
    busy.duplex.goes_on();
    let connection = connect(&busy.client, &busy.listener, busy.address());
    Talk::new(&connection, 1).converse();
    assert!(support::tcp::info(&connection.0).bytes_sent > 0);
    busy.duplex.finish();
    node.open();
    assert_eq!(node.flows(), [], "the next agent begins anew");
    assert_eq!(node.with_plane(|plane| plane.attached()).unwrap(), []);
}

#[test]
fn unloaded_by_pins_under_load() {
    needs!();
    let node = Node::new();
    let busy = Busy::start(&node, "unloaded_by_pins_under_load");
    assert!(matches!(
        pinned::unload(node.bpffs()),
        Err(PlaneError::Locked { .. })
    ));
    node.close();
    assert!(pinned::unload(node.bpffs()).unwrap());
    assert!(!pinned::unload(node.bpffs()).unwrap(), "nothing is left");
    busy.duplex.goes_on();
    busy.duplex.finish();
    node.open();
}

/// Functions that are unregistered while their connections are open: those go on, and are accounted for when they close.
#[test]
fn detached_under_load() {
    needs!();
    let node = Node::new();
    let busy = Busy::start(&node, "detached_under_load");
    let before = redirected(&node);
    node.configure(|config| config.enabled = 0);
    support::eventually("enrolled ends leave for TCP", || {
        let mut flows = node.flows().into_iter();
        flows.any(|flow| flow.fallbacks[Reason::Disabled.index()] > 0)
    });
    busy.new_connections(&node, false);
    node.configure(|config| config.enabled = 1);
    support::eventually("redirection resumes", || redirected(&node) > before);
    for pod in [&busy.client, &busy.server] {
        node.with_plane(|plane| plane.detach(pod.leaf().id())).unwrap();
    }
    let before = redirected(&node);
    busy.duplex.goes_on();
    support::eventually("enrolled ends are still redirected", || {
        redirected(&node) > before
    });
    busy.new_connections(&node, false);
    // Another agent must know of them too.
    node.close();
    node.open();
    busy.duplex.goes_on();
    busy.duplex.finish();
    node.settles();
    assert_eq!(
        node.traffic(busy.client.id, busy.server.id).connections,
        number_of_connections()
    );
    let disabled = |src, dst| node.traffic(src, dst).fallbacks[Reason::Disabled.index()];
    let changes = disabled(busy.client.id, busy.server.id) + disabled(busy.server.id, busy.client.id);
    assert!(changes > 0);
    assert_eq!(disabled(busy.client.id, 0), 1);
    node.with_plane(|plane| plane.sweep()).unwrap();
    // The sums of functions that are gone still tell ends that were not enrolled from changes of those that were.
    assert_eq!(node.traffic(busy.client.id, busy.server.id), TrafficEntry::EMPTY);
    assert_eq!(disabled(u32::MAX, u32::MAX), changes);
    assert_eq!(disabled(u32::MAX, 0), 1);
    let links = node
        .bpffs()
        .join(format!("v{}/links", cwasi_ebpf_common::maps::LAYOUT));
    assert_eq!(
        std::fs::read_dir(links).unwrap().count(),
        0,
        "no program stays on a cgroup"
    );
}

/// A cgroup that is removed while its sockets live on: they keep their programs, and the last of them takes the function along.
#[test]
fn a_cgroup_that_is_gone_is_forgotten_with_its_last_socket() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 0));
    let connection = connect(&client, &listener, listener.local_addr().unwrap());
    let mut talk = Talk::new(&connection, 1);
    talk.converse();
    let (client_id, before) = (client.id, redirected(&node));
    node.close();
    drop(client);
    node.open();
    talk.converse();
    assert_eq!(redirected(&node), 2 * before);
    drop(connection);
    node.settles();
    assert_eq!(node.traffic(client_id, server.id).sent.redirect_bytes, before);
    support::eventually("a new agent forgets the function", || {
        node.close();
        node.open();
        let functions = node.with_plane(|plane| plane.attached()).unwrap();
        functions.iter().all(|(_, entry)| entry.id == server.id)
    });
}

/// Sockets whose programs are gone before they close: the sweep finds what they leave.
#[test]
fn the_sweep_finds_what_is_left_behind() {
    needs!();
    let node = Node::with(|options| options.sweep_grace = Duration::ZERO);
    let [here, there] = veth();
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    let listener = server.listen((Bridged::v4(1), 0));
    let connection = connect(&client, &listener, listener.local_addr().unwrap());
    Talk::new(&connection, 1).converse();
    let links = node
        .bpffs()
        .join(format!("v{}/links", cwasi_ebpf_common::maps::LAYOUT));
    for pod in [&client, &server] {
        let pin = links.join(pod.leaf().id().to_string());
        assert!(pin.exists());
        std::fs::remove_dir_all(&pin)
            .or_else(|_| std::fs::remove_file(&pin))
            .unwrap();
    }
    node.with_plane(|plane| plane.sweep()).unwrap();
    assert_eq!(node.flows().len(), 2, "live sockets are no leftovers");
    drop((connection, listener));
    support::eventually("the sweep removes the flows", || {
        node.with_plane(|plane| plane.sweep()).unwrap();
        node.flows().is_empty()
    });
    node.settles();
}

#[test]
fn a_second_plane_on_the_directory_is_refused() {
    needs!();
    let node = Node::new();
    let refused = node.open_again().err();
    assert!(
        matches!(&refused, Some(PlaneError::Locked { path }) if path == node.bpffs()),
        "{refused:?}"
    );
    node.close();
    let other = node.open_again().expect("the directory is free");
    drop(other);
    node.open();
}

#[test]
fn two_nodes_run_side_by_side() {
    needs!();
    let nodes = [Node::new(), Node::new()];
    let all: Vec<Busy> = nodes
        .iter()
        .map(|node| Busy::start(node, "two_nodes_run_side_by_side"))
        .collect();
    for (node, busy) in nodes.iter().zip(all) {
        assert_eq!(node.flows().len() as u64, 2 * number_of_connections());
        busy.new_connections(node, true);
        busy.duplex.finish();
        node.settles();
    }
}
