//! An agent that is not root: which capabilities it needs, and what it says when one is missing.

mod support;
mod support_agent;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use cwasi_client::announce::Announcements;
use cwasi_client::cgroup::Leaf;
use cwasi_client::protocol::{FunctionSpec, Sockets};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::netns::{NetNs, veth};
use support_agent::agent::Agent;
use support_agent::function::{Caller, echo};

/// The user of the agent's image.
const USER: &str = "65532";

/// All that the agent needs, as setpriv(1) names it.
const NEEDED: [&str; 3] = ["bpf", "net_admin", "perfmon"];

const SERVER: &str = "10.1.0.11:7";

/// Connections' round trips after which they have gained more than their enrolment cost.
const ROUNDS: usize = 50;

/// A place as the agent's container has it: a bpffs, a cgroup and a network namespace of its own, and directories that are its user's.
struct Place {
    // Ends before what it lives in.
    agent: Agent,
    leaf: Leaf,
    netns: Arc<NetNs>,
    _bpffs: Mount,
}

/// A mount that goes with the test.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

impl Place {
    fn new() -> Self {
        let mut agent = Agent::absent();
        let dir = agent.dir.path();
        // What tempfile makes is its maker's only.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        let bpffs = tempfile::tempdir().expect("a directory").keep();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).expect("mount a bpffs");
        agent.bpffs = bpffs.join("cwasi");
        agent.succeed(&["prepare", "--user", USER]);
        Self {
            agent,
            leaf: Leaf::create("rights-test").expect("make a cgroup"),
            netns: NetNs::new(),
            _bpffs: Mount(bpffs),
        }
    }

    /// Runs the agent as the user, alone in its cgroup, with these capabilities and no way to others.
    fn run(&self, capabilities: &[&str]) {
        let enter = format!("echo 0 > {} && exec \"$@\"", self.leaf.procs().display());
        let set = |sign: &str| {
            let mut set = "-all".to_owned();
            set.extend(capabilities.iter().map(|name| format!(",{sign}{name}")));
            set
        };
        let netns = format!("--net={}", self.netns.path().display());
        let (ids, set) = (["--reuid", USER, "--regid", USER, "--clear-groups"], set("+"));
        let rights = [
            "--inh-caps",
            &set,
            "--ambient-caps",
            &set,
            "--bounding-set",
            &set,
            "--no-new-privs",
        ];
        let head = ["sh", "-c", &enter, "sh", "nsenter", &netns, "setpriv"];
        self.agent.run_by(&[&head[..], &ids, &rights].concat());
    }

    /// The one cause of its state.
    fn degraded(&self) -> (String, String) {
        let status = self.agent.status();
        assert!(!status.accelerating);
        let [cause] = &status.degraded[..] else {
            panic!("not one cause: {:#?}", status.degraded);
        };
        assert_eq!(cause.reason, "load");
        let lines = self
            .agent
            .log()
            .lines()
            .filter(|line| line.contains("degraded: "))
            .count();
        assert_eq!(lines, 1, "{}", self.agent.log());
        (cause.detail.clone(), cause.remedy.clone())
    }
}

#[test]
fn three_capabilities_are_enough() {
    needs!();
    let place = Place::new();
    place.run(&NEEDED);
    let agent = &place.agent;
    let held = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("read its status");
    for line in [
        "Uid:\t65532\t65532\t65532\t65532",
        "CapEff:\t000000c000001000",
        "CapBnd:\t000000c000001000",
    ] {
        assert!(held.lines().any(|held| held == line), "no {line:?} in {held}");
    }
    let status = agent.status();
    assert_eq!(status.degraded, []);
    assert!(status.accelerating);

    let netns = veth();
    let server = echo(agent, "rights-echo", &netns[1], SERVER);
    let mut caller = Caller::start(agent, "rights-caller", &netns[0], SERVER);
    let (address, bytes) = caller.talk(ROUNDS);
    agent.has_moved(address, bytes);
    caller.finish();
    drop(server);
    assert!(place.agent.terminate().success());

    // Another agent takes over what it left, by the same rights.
    place.run(&NEEDED);
    assert_eq!(agent.status().degraded, []);
}

#[test]
fn what_root_announces_is_registered() {
    needs!();
    let place = Place::new();
    let function = Leaf::create("rights-announced").expect("make a cgroup");
    let spec = FunctionSpec {
        name: "announced".to_owned(),
        namespace: "default".to_owned(),
        cgroup: Some(function.path().to_owned()),
        // The agent does not see what CNI mounts.
        netns: Some("/run/netns/not-in-the-container".into()),
        addresses: vec!["10.1.0.2".parse().expect("an address")],
        sockets: Sockets::All,
        ..FunctionSpec::default()
    };
    let announcements = Announcements::beside(&place.agent.socket());
    announcements
        .put("k8s.io--a", &spec)
        .expect("announce a function");
    place.run(&NEEDED);
    support::eventually("the function is registered", || {
        place.agent.functions().len() == 1
    });
    announcements
        .remove("k8s.io--a")
        .expect("take the announcement back");
}

#[test]
fn each_capability_is_needed() {
    needs!();
    let (place, netns) = (Place::new(), veth());
    for missing in NEEDED {
        let others = NEEDED
            .map(|name| name)
            .into_iter()
            .filter(|name| *name != missing);
        place.run(&others.collect::<Vec<_>>());
        let (detail, remedy) = place.degraded();
        let name = format!("CAP_{} is missing", missing.to_uppercase());
        assert!(detail.starts_with(&name), "{detail}");
        assert!(!detail.contains('\n'), "{detail}");
        assert!(remedy.contains("run as root"), "{remedy}");
        // Functions are on plain TCP.
        let server = echo(&place.agent, "rights-echo", &netns[1], SERVER);
        let mut caller = Caller::start(&place.agent, "rights-caller", &netns[0], SERVER);
        let (address, _) = caller.talk(ROUNDS);
        assert_eq!(place.agent.flow_of(address), None);
        caller.finish();
        drop(server);
        assert!(place.agent.terminate().success());
        fs::remove_file(place.agent.dir.path().join("log")).expect("remove the log");
    }
}
