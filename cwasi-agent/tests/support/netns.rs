//! Network namespaces and the networks between them.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};

/// A network namespace without a name: it goes with the last socket, process or descriptor that holds it.
pub struct NetNs {
    file: File,
}

impl NetNs {
    /// A new one, whose loopback is up.
    pub fn new() -> Arc<Self> {
        // A network namespace is entered by a thread: this one ends at once.
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare(CLONE_NEWNET)");
            File::open("/proc/thread-self/ns/net").expect("open the new network namespace")
        });
        let netns = Self {
            file: made.join().expect("make a network namespace"),
        };
        netns.ip("link set lo up\n");
        Arc::new(netns)
    }

    /// Its file, which programs that this process starts can open too.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.file.as_raw_fd()
        ))
    }

    /// Runs a task on a thread inside.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        cwasi_client::netns::run(&self.path(), task).expect("enter the network namespace")
    }

    /// Feeds lines to `ip -batch -`.
    pub fn ip(&self, batch: &str) {
        self.feed("ip", &["-batch", "-"], batch);
    }

    /// Feeds a ruleset to `nft -f -`.
    pub fn nft(&self, ruleset: &str) {
        self.feed("nft", &["-f", "-"], ruleset);
    }

    /// Sets a parameter below /proc/sys/net.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| std::fs::write(&path, value))
            .unwrap_or_else(|error| panic!("write {value} to {path}: {error}"));
    }

    fn feed(&self, program: &str, arguments: &[&str], input: &str) {
        self.run(|| {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("start {program}: {error}"));
            child
                .stdin
                .take()
                .expect("a pipe")
                .write_all(input.as_bytes())
                .unwrap_or_else(|error| panic!("write to {program}: {error}"));
            let output = child.wait_with_output().expect("wait for a child");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} <<< {input:?}: {stderr}");
        });
    }
}

/// Network namespaces on one bridge, whose host side routes for them, as the pods of a node.
pub struct Bridged {
    /// Where the bridge is; has `.1` and `::1`.
    pub router: Arc<NetNs>,
    /// The ends of the bridge.
    pub ends: Vec<Arc<NetNs>>,
}

impl Bridged {
    /// A bridge with as many ends as asked for.
    pub fn new(ends: u8) -> Self {
        let router = NetNs::new();
        let ends: Vec<Arc<NetNs>> = (0..ends).map(|_| NetNs::new()).collect();
        router.sysctl("ipv4/ip_forward", "1");
        router.sysctl("ipv6/conf/all/forwarding", "1");
        let mut batch = "link add br0 type bridge forward_delay 0\n\
                         addr add 10.1.0.1/24 dev br0\naddr add fd01::1/64 dev br0 nodad\nlink set br0 up\n"
            .to_owned();
        for (index, end) in ends.iter().enumerate() {
            batch += &format!(
                "link add v{index} type veth peer name eth0 netns {}\nlink set v{index} master br0 up\n",
                end.path().display()
            );
        }
        router.ip(&batch);
        for (index, end) in (0_u8..).zip(&ends) {
            end.ip(&format!(
                "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n\
                 route add default via 10.1.0.1\nroute add default via fd01::1\n",
                Self::v4(index),
                Self::v6(index)
            ));
        }
        Self { router, ends }
    }

    /// IPv4 address of an end.
    pub fn v4(end: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 1, 0, 10 + end)
    }

    /// IPv6 address of an end.
    pub fn v6(end: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(end))
    }
}

/// Two network namespaces joined by one veth pair, 10.1.0.10 and .11 (`fd01::10` and `::11`): the same in every network.
pub fn veth() -> [Arc<NetNs>; 2] {
    let ends = [NetNs::new(), NetNs::new()];
    ends[0].ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}\n",
        ends[1].path().display()
    ));
    for (index, end) in (0_u8..).zip(&ends) {
        end.ip(&format!(
            "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n",
            Bridged::v4(index),
            Bridged::v6(index)
        ));
    }
    ends
}
