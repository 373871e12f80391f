//! The network inside a process: which of its functions listens where, and the connections between them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cwasi_client::netns;
use cwasi_client::process_report::{
    MAX_CONNECTIONS, ProcessConnection, ProcessEnd, ProcessReport, ProcessTotals,
};

use super::backlog::Backlog;
use super::flow::Passed;
use super::pipe::{Party, Pipe};

/// What the functions of one process share so that their connections to each other stay in it.
#[derive(Clone, Debug, Default)]
pub struct LocalNetwork(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// By port.
    listeners: Mutex<HashMap<u16, Vec<Weak<Listening>>>>,
    connections: Mutex<Connections>,
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Connections {
    open: Vec<Weak<Pipe>>,
    /// When so many are in `open`, those that are over are swept out.
    sweep_at: usize,
    opened: u64,
    /// What passed through those that are over.
    over: Passed,
}

/// A function that listens, as the others of its process find it.
#[derive(Debug)]
pub(super) struct Listening {
    function: Arc<str>,
    address: SocketAddr,
    pub(super) backlog: Backlog,
    network: LocalNetwork,
}

impl Listening {
    /// Its end of a connection that was dialled at `dialled`.
    pub(super) fn party(&self, dialled: SocketAddr) -> Party {
        Party {
            function: Arc::clone(&self.function),
            address: dialled,
        }
    }

    /// The listener is gone: nobody finds it any more, whoever still waits is refused.
    pub(super) fn close(&self) {
        self.network.forget(self);
        self.backlog.close();
    }
}

/// A connection inside the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalConnection {
    /// Name of the function that connected, and its address.
    pub client: (Arc<str>, SocketAddr),
    /// Name of the function that listened, and the address that was dialled.
    pub server: (Arc<str>, SocketAddr),
    /// Writes and bytes to the server.
    pub to_server: (u64, u64),
    /// Writes and bytes to the client.
    pub to_client: (u64, u64),
    /// When it was made, as [`monotonic_ns`](cwasi_client::process_report::monotonic_ns) counts.
    pub established_ns: u64,
}

/// The connections inside a process at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalTraffic {
    /// Connections that were ever made.
    pub opened: u64,
    /// Writes through all of them.
    pub messages: u64,
    /// Bytes through all of them.
    pub bytes: u64,
    /// Those that are open, in the order in which they were made.
    pub open: Vec<LocalConnection>,
}

impl LocalNetwork {
    /// Makes `function` found at `address`, to which it is bound and listens in the kernel, too: until what is given is dropped.
    pub(super) fn listen(&self, function: &Arc<str>, address: SocketAddr, backlog: u32) -> Arc<Listening> {
        let listening = Arc::new(Listening {
            function: Arc::clone(function),
            address,
            backlog: Backlog::new(backlog),
            network: self.clone(),
        });
        let mut listeners = lock(&self.0.listeners);
        let of_port = listeners.entry(address.port()).or_default();
        of_port.push(Arc::downgrade(&listening));
        listening
    }

    fn forget(&self, listening: &Listening) {
        let port = listening.address.port();
        let mut listeners = lock(&self.0.listeners);
        if let Some(of_port) = listeners.get_mut(&port) {
            of_port.retain(|other| !std::ptr::eq(other.as_ptr(), listening));
            if of_port.is_empty() {
                listeners.remove(&port);
            }
        }
    }

    /// Who listens at `address` in this process.
    pub(super) fn find(&self, address: SocketAddr) -> Option<Arc<Listening>> {
        let listeners = lock(&self.0.listeners);
        let of_port: Vec<_> = listeners
            .get(&address.port())?
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        drop(listeners);
        // As in the kernel, who names the address comes before who takes any.
        of_port
            .iter()
            .find(|listening| listening.address.ip() == address.ip())
            .or_else(|| {
                of_port
                    .iter()
                    .find(|listening| takes_any(listening.address, address) && is_own(address.ip()))
            })
            .cloned()
    }

    /// A connection from `client` to `server`.
    pub(super) fn connect(&self, client: Party, server: Party) -> Arc<Pipe> {
        let pipe = Pipe::new(client, server, self.clone(), &self.0.waiting);
        let mut connections = lock(&self.0.connections);
        connections.opened += 1;
        if connections.open.len() >= connections.sweep_at {
            connections.open.retain(|pipe| pipe.strong_count() > 0);
            connections.sweep_at = 2 * connections.open.len() + 16;
        }
        connections.open.push(Arc::downgrade(&pipe));
        pipe
    }

    /// Counts what passed through a connection that is over.
    pub(super) fn over(&self, passed: Passed) {
        lock(&self.0.connections).over += passed;
    }

    /// What was and is connected.
    #[must_use]
    pub fn traffic(&self) -> LocalTraffic {
        let connections = lock(&self.0.connections);
        let open: Vec<Arc<Pipe>> = connections.open.iter().filter_map(Weak::upgrade).collect();
        let (opened, mut passed) = (connections.opened, connections.over);
        // A pipe that is dropped below counts itself.
        drop(connections);
        let open = open.iter().map(|pipe| {
            let (to_server, to_client) = pipe.passed();
            passed += to_server;
            passed += to_client;
            let party = |party: &Party| (Arc::clone(&party.function), party.address);
            LocalConnection {
                client: party(&pipe.client),
                server: party(&pipe.server),
                to_server: (to_server.messages, to_server.bytes),
                to_client: (to_client.messages, to_client.bytes),
                established_ns: pipe.established_ns,
            }
        });
        let open = open.collect();
        LocalTraffic {
            opened,
            messages: passed.messages,
            bytes: passed.bytes,
            open,
        }
    }
}

/// What the agent is told of connections inside a process; of many open ones it lists those that were made last.
impl From<LocalTraffic> for ProcessReport {
    fn from(traffic: LocalTraffic) -> Self {
        let end = |(function, address): &(Arc<str>, SocketAddr), (messages, bytes)| ProcessEnd {
            function: function.to_string(),
            address: *address,
            messages,
            bytes,
        };
        let open = traffic.open.len();
        let listed = traffic.open.iter().skip(open.saturating_sub(MAX_CONNECTIONS));
        Self {
            totals: ProcessTotals {
                connections: traffic.opened,
                messages: traffic.messages,
                bytes: traffic.bytes,
            },
            open: open as u64,
            connections: listed
                .map(|connection| ProcessConnection {
                    client: end(&connection.client, connection.to_server),
                    server: end(&connection.server, connection.to_client),
                    established_ns: connection.established_ns,
                })
                .collect(),
        }
    }
}

/// Whether `listener` is bound to any address of the family of `dialled`. IPv6 sockets of WASI take no IPv4.
fn takes_any(listener: SocketAddr, dialled: SocketAddr) -> bool {
    listener.ip().is_unspecified() && listener.is_ipv4() == dialled.is_ipv4()
}

/// Whether `ip` is an address of this network namespace. One that cannot be told is left to the kernel.
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || netns::addresses().is_ok_and(|own| own.contains(&ip))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_told_all_that_passed_and_the_newest_connections() {
        let address = |port: usize| SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        let connection = |port| LocalConnection {
            client: ("a".into(), address(port)),
            server: ("b".into(), address(80)),
            to_server: (1, 10),
            to_client: (2, 20),
            established_ns: 7,
        };
        let traffic = LocalTraffic {
            opened: 1000,
            messages: 3,
            bytes: 30,
            open: (1..=MAX_CONNECTIONS + 1).map(connection).collect(),
        };
        let report = ProcessReport::from(traffic);
        assert_eq!(
            (
                report.totals.connections,
                report.totals.messages,
                report.totals.bytes
            ),
            (1000, 3, 30)
        );
        assert_eq!(
            (report.open, report.connections.len()),
            (MAX_CONNECTIONS as u64 + 1, MAX_CONNECTIONS)
        );
        let last = report.connections.last().unwrap();
        assert_eq!(
            (last.client.function.as_str(), last.client.address),
            ("a", address(MAX_CONNECTIONS + 1))
        );
        assert_eq!(
            (last.client.bytes, last.server.bytes, last.established_ns),
            (10, 20, 7)
        );
    }
}
