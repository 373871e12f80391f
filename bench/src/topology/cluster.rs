//! Several nodes with a router between them: what is on another node is reached by the network alone.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Netns, PREFIX, Topology, has_v6, pod_v4, pod_v6};
use crate::Result;

/// Name of a node's interface to the router.
const UPLINK: &str = "up0";

/// Most nodes of a cluster.
const MAX_NODES: usize = 200;

/// Nodes, each with a bridge and a subnet for its pods, whose packets to each other's pods pass a router. Dropping it kills what
/// runs in the pods and removes everything.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Topology>,
    router: Netns,
}

impl Cluster {
    /// Makes a node for each list of pods' names.
    ///
    /// # Errors
    /// As [`Topology::create`]; more than 200 nodes.
    pub fn create(nodes: &[&[&str]]) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            nodes.len() <= MAX_NODES,
            "a cluster has room for {MAX_NODES} nodes"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // The nodes come first: they say who is not root.
        let nodes = (0_u8..)
            .zip(nodes)
            .map(|(index, pods)| Topology::create_node(index, pods))
            .collect::<Result<_>>()?;
        let cluster = Self {
            nodes,
            router: Netns::create(&format!("{PREFIX}router-{number}-{}", process::id()))?,
        };
        cluster.router.forward(has_v6())?;
        cluster.router.ip("link set lo up\n")?;
        for node in &cluster.nodes {
            cluster.plug(node)?;
        }
        Ok(cluster)
    }

    /// The nodes, in the order of [`Cluster::create`].
    #[must_use]
    pub fn nodes(&self) -> &[Topology] {
        &self.nodes
    }

    /// Connects a node to the router, which then knows the way to its pods.
    fn plug(&self, node: &Topology) -> Result<()> {
        let index = node.index;
        let port = format!("node{index}");
        let [(router_v4, router_v6), (node_v4, node_v6)] = [1, 2].map(|end| uplink(index, end));
        let mut up = format!("address add {node_v4}/30 dev {UPLINK}\nroute add default via {router_v4}\n");
        let mut down = format!(
            "link set {port} up\n\
             address add {router_v4}/30 dev {port}\n\
             route add {}/24 via {node_v4}\n",
            pod_v4(index, 0)
        );
        if has_v6() {
            up +=
                &format!("address add {node_v6}/64 dev {UPLINK} nodad\nroute add default via {router_v6}\n");
            down += &format!(
                "address add {router_v6}/64 dev {port} nodad\n\
                 route add {}/64 via {node_v6}\n",
                pod_v6(index, 0)
            );
        }
        let router = self.router.name();
        node.node().ip(&format!(
            "link add {UPLINK} type veth peer name {port} netns {router}\nlink set {UPLINK} up\n"
        ))?;
        self.router.ip(&down)?;
        node.node().ip(&up)
    }
}

/// The addresses of an end of a node's link to the router: in the range for benchmarks of RFC 2544, and above those of pods.
const fn uplink(node: u8, end: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = Ipv6Addr::new(0xfd63, 0x7761, 0x7369, 0xff00 | node as u16, 0, 0, 0, end as u16);
    (Ipv4Addr::new(198, 18, node, end), v6)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::SocketAddr;

    use super::super::tests::greet;
    use super::*;
    use crate::Error;
    use crate::topology::Service;

    /// Bytes that an interface received.
    fn received(netns: &Netns, interface: &str) -> u64 {
        let read = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let table = cwasi_client::netns::run(netns.path(), read).unwrap();
        let line = table.lines().find_map(|line| {
            let (name, counters) = line.split_once(':')?;
            (name.trim() == interface).then_some(counters)
        });
        line.unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn pods_of_two_nodes_reach_each_other_through_the_router() {
        let cluster = match Cluster::create(&[&["a"], &["b", "c"]]) {
            Ok(cluster) => cluster,
            Err(error @ (Error::NotRoot | Error::Spawn { .. })) => {
                eprintln!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let [one, other] = cluster.nodes() else {
            panic!("two nodes")
        };
        let (a, c) = (&one.pods()[0], &other.pods()[1]);
        assert_eq!(c.v4.to_string(), "10.244.1.3");
        let at = SocketAddr::from((c.v4, 7000));
        assert_eq!(greet(a, at, c, at), ("hello".to_owned(), a.v4.into()));
        assert!(received(&cluster.router, "node0") > 0 && received(&cluster.router, "node1") > 0);
        // A Service of the client's node whose pod is on the other one.
        let service = Service::v4(1, 80);
        one.expose(service, at).unwrap();
        assert_eq!(greet(a, service.address(), c, at).0, "hello");
        let Some(v6) = c.v6 else {
            eprintln!("skipped: this host has no IPv6");
            return;
        };
        let at = SocketAddr::from((v6, 7000));
        assert_eq!(greet(a, at, c, at).0, "hello");
    }
}
