//! The ports of a pod: some are for its servers, the others are what the kernel gives to its clients.

use std::ops::Range;

/// Ports that are given to servers in turn: connections of earlier runs, in TIME_WAIT, have others.
const SERVERS: Range<u16> = 7000..9000;

/// First and last port of connections and of sockets that ask for any: a connection has its port for as long as it waits in TIME_WAIT,
/// and a server could not listen there. As many as there can be: many short connections would run out of them.
pub(super) const CLIENTS: [u16; 2] = [SERVERS.end, u16::MAX];

/// Ports for servers, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports(u16);

impl Ports {
    /// From the first one on.
    #[must_use]
    pub const fn new() -> Self {
        Self(SERVERS.start)
    }

    /// The next one; after the last one the first one again.
    pub fn take(&mut self) -> u16 {
        let port = self.0;
        self.0 = if port + 1 < SERVERS.end {
            port + 1
        } else {
            SERVERS.start
        };
        port
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::tests::topology;
    use super::*;

    #[test]
    fn each_port_is_taken_before_one_is_taken_again() {
        let mut ports = Ports::new();
        for _ in 0..2 {
            let round: Vec<u16> = SERVERS.map(|_| ports.take()).collect();
            assert!(round.iter().copied().eq(SERVERS));
        }
    }

    #[test]
    fn clients_are_not_given_the_ports_of_servers() {
        let Some(topology) = topology(&["a"]) else {
            return;
        };
        // Of all ports from 1024 on, some of so many would be a server's.
        let sockets: Vec<TcpListener> = cwasi_client::netns::run(topology.pods()[0].netns(), || {
            (0..500)
                .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
                .collect()
        })
        .unwrap();
        for socket in sockets {
            let port = socket.local_addr().unwrap().port();
            assert!(!SERVERS.contains(&port), "{port}");
        }
    }
}
