//! Pods on a bridge, as a node's CNI plugin makes them, without touching the host's network; and several such nodes behind a
//! router.
//!
//! The bridge, the pods' default gateway and the Service addresses live in a network namespace that plays the node. The
//! host keeps no interface, address, route or rule of it. Needs root; kernel 5.2 for NAT in nftables' inet family.

mod cluster;
mod netns;
mod ports;
mod reap;
mod service;

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Uid;

pub use cluster::Cluster;
pub use netns::Netns;
pub use ports::Ports;
pub use reap::reap;
pub use service::{SERVICE_CIDR_V4, SERVICE_CIDR_V6, Service};

use crate::{Error, Result};

/// Prefix of the names of all namespaces of this crate.
const PREFIX: &str = "cwasi-";

/// Name of the bridge in the node's namespace.
const BRIDGE: &str = "br0";

/// Name of a pod's interface.
const INTERFACE: &str = "eth0";

/// Most pods of one node.
const MAX_PODS: usize = 200;

/// A pod: a network namespace with one interface on the node's bridge.
#[derive(Debug)]
pub struct Pod {
    netns: Netns,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address; none on a host without IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Pod {
    /// Its namespace's name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.netns.name()
    }

    /// Its namespace's file.
    #[must_use]
    pub fn netns(&self) -> &Path {
        self.netns.path()
    }
}

/// A node with its pods. Dropping it kills what runs in the pods and removes everything.
#[derive(Debug)]
pub struct Topology {
    // Pods go before the node, whose bridge their interfaces are on.
    pods: Vec<Pod>,
    node: Netns,
    /// Which of the nodes of a cluster it is.
    index: u8,
}

impl Topology {
    /// Makes a node and one pod for each name.
    ///
    /// # Errors
    /// [`Error::NotRoot`]; a tool is missing or fails; more than 200 pods.
    pub fn create(pods: &[&str]) -> Result<Self> {
        Self::create_node(0, pods)
    }

    /// Makes a node whose pods have addresses of their own among the nodes of a cluster.
    fn create_node(index: u8, pods: &[&str]) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !Uid::effective().is_root() {
            return Err(Error::NotRoot);
        }
        assert!(pods.len() <= MAX_PODS, "a node has room for {MAX_PODS} pods");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |part: &str| format!("{PREFIX}{part}-{number}-{}", process::id());
        let v6 = has_v6();
        // Each guard exists before its namespace does: whatever fails below is undone.
        let mut topology = Self {
            pods: Vec::with_capacity(pods.len()),
            node: Netns::create(&name("node"))?,
            index,
        };
        topology.node.set_up_node(index, v6)?;
        for (host, pod) in (2_u8..).zip(pods) {
            let pod = Pod {
                netns: Netns::create(&name(pod))?,
                v4: pod_v4(index, host),
                v6: v6.then(|| pod_v6(index, host)),
            };
            topology.plug(&pod, host)?;
            topology.pods.push(pod);
        }
        Ok(topology)
    }

    /// The pods, in the order of their names at [`Topology::create`].
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The namespace that plays the node.
    #[must_use]
    pub fn node(&self) -> &Netns {
        &self.node
    }

    /// Connects a pod to the bridge and gives it addresses and a default route.
    fn plug(&self, pod: &Pod, host: u8) -> Result<()> {
        let node = self.node.name();
        let port = format!("pod{host}");
        let gateway = pod_v4(self.index, 1);
        let mut batch = format!(
            "link set lo up\n\
             link add {INTERFACE} type veth peer name {port} netns {node}\n\
             link set {INTERFACE} up\n\
             address add {}/24 dev {INTERFACE}\n\
             route add default via {gateway}\n",
            pod.v4
        );
        if let Some(v6) = pod.v6 {
            pod.netns.sysctl("net/ipv6/conf/all/disable_ipv6", "0")?;
            // Without duplicate address detection the address is usable at once.
            batch += &format!("address add {v6}/64 dev {INTERFACE} nodad\n");
            batch += &format!(
                "route add default via {} dev {INTERFACE}\n",
                pod_v6(self.index, 1)
            );
        }
        pod.netns.ip(&batch)?;
        let [first, last] = ports::CLIENTS;
        pod.netns
            .sysctl("net/ipv4/ip_local_port_range", &format!("{first} {last}"))?;
        self.node
            .ip(&format!("link set {port} master {BRIDGE}\nlink set {port} up\n"))
    }
}

impl Netns {
    /// Makes this namespace a node: a bridge that is the pods' gateway, and forwarding.
    fn set_up_node(&self, index: u8, v6: bool) -> Result<()> {
        let mut batch = format!(
            "link set lo up\n\
             link add {BRIDGE} type bridge stp_state 0 forward_delay 0\n\
             address add {}/24 dev {BRIDGE}\n",
            pod_v4(index, 1)
        );
        self.forward(v6)?;
        // A Service is reached by the bridge that it came from, which the node would otherwise advise against.
        self.sysctl("net/ipv4/conf/all/send_redirects", "0")?;
        self.sysctl("net/ipv4/conf/default/send_redirects", "0")?;
        if v6 {
            batch += &format!("address add {}/64 dev {BRIDGE} nodad\n", pod_v6(index, 1));
        }
        batch += &format!("link set {BRIDGE} up\n");
        self.ip(&batch)
    }

    /// Lets this namespace pass packets on that are not its own.
    fn forward(&self, v6: bool) -> Result<()> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        if v6 {
            self.sysctl("net/ipv6/conf/all/disable_ipv6", "0")?;
            self.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        Ok(())
    }
}

/// The address of a host of a node's subnet: 1 is the node.
const fn pod_v4(node: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, host)
}

/// fd63:7761:7369 is "cwasi" in the 40 random bits of a unique local prefix.
const fn pod_v6(node: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd63, 0x7761, 0x7369, node as u16, 0, 0, 0, host as u16)
}

fn has_v6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// The process that a namespace's name ends with, when it is a name of this crate.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    let mut parts = rest.rsplit('-');
    let (pid, number, part) = (parts.next()?, parts.next()?, parts.next()?);
    number.parse::<u32>().ok()?;
    (!part.is_empty()).then(|| pid.parse().ok())?
}

/// Names of all network namespaces that have one.
fn named() -> Vec<String> {
    let entries = fs::read_dir(cwasi_client::netns::NAMED)
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::process::Process;

    /// A topology, or `None` with a line on stderr that says what is missing.
    pub(super) fn topology(pods: &[&str]) -> Option<Topology> {
        match Topology::create(pods) {
            Ok(topology) => Some(topology),
            Err(error @ (Error::NotRoot | Error::Spawn { .. })) => {
                eprintln!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// What a connection from a pod to `address` reads, and the peer that the listener `at` saw.
    pub(super) fn greet(from: &Pod, address: SocketAddr, to: &Pod, at: SocketAddr) -> (String, IpAddr) {
        let listener = cwasi_client::netns::run(to.netns(), || TcpListener::bind(at).unwrap()).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(b"hello").unwrap();
            peer.ip()
        });
        let text = cwasi_client::netns::run(from.netns(), || {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        })
        .unwrap();
        (text, server.join().unwrap())
    }

    #[test]
    fn pods_reach_each_other_and_services() {
        let Some(topology) = topology(&["a", "b"]) else {
            return;
        };
        let [a, b] = topology.pods() else {
            panic!("two pods")
        };
        let at = SocketAddr::from((b.v4, 7000));
        assert_eq!(greet(a, at, b, at), ("hello".to_owned(), a.v4.into()));

        let service = Service::v4(10, 80);
        topology.expose(service, at).unwrap();
        // The node stands for the client, as kube-proxy's masquerade does: answers find their way back.
        assert_eq!(
            greet(a, service.address(), b, at),
            ("hello".to_owned(), pod_v4(0, 1).into())
        );

        let Some(v6) = b.v6 else {
            eprintln!("skipped: this host has no IPv6");
            return;
        };
        let at = SocketAddr::from((v6, 7000));
        assert_eq!(greet(a, at, b, at).0, "hello");
        let service = Service::v6(10, 80);
        topology.expose(service, at).unwrap();
        assert_eq!(greet(a, service.address(), b, at).0, "hello");
    }

    #[test]
    fn the_host_keeps_nothing() {
        let links = || fs::read_to_string("/proc/net/dev").unwrap().lines().count();
        let before = links();
        let Some(topology) = topology(&["gone"]) else {
            return;
        };
        let names = [
            topology.node().name().to_owned(),
            topology.pods()[0].name().to_owned(),
        ];
        assert_eq!(links(), before);
        assert!(names.iter().all(|name| named().contains(name)));
        let sleeper = Process::spawn(
            Command::new("sleep").arg("1000"),
            Some(topology.pods()[0].netns()),
        )
        .unwrap();
        drop(topology);
        assert_eq!(links(), before);
        assert!(names.iter().all(|name| !named().contains(name)));
        // Killed with its pod.
        assert!(matches!(
            sleeper.wait(Duration::from_secs(10)),
            Err(Error::Failed { .. })
        ));
    }

    #[test]
    fn names_tell_their_process() {
        assert_eq!(owner("cwasi-node-0-77"), Some(77));
        assert_eq!(owner("cwasi-a-b-12-77"), Some(77));
        for other in [
            "cwasi-77",
            "cwasi-0-77",
            "other-node-0-77",
            "cwasi-node-x-77",
            "cwasi-node-0-",
        ] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
