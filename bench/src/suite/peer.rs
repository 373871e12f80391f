//! Who runs the two ends of a workload, and what lies between them.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::stats;

/// A way to run functions that talk to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// Wasm in a stock wasmtime-wasi host, over veth
    Stock,
    /// Wasm in cwasi-run without an agent, over veth
    Off,
    /// Wasm in cwasi-run with the agent: in the kernel
    Kernel,
    /// Wasm, both functions in one cwasi-run
    Process,
    /// Wasm in a stock host, through Redis in a third pod
    Redis,
    /// Wasm in a stock host, by HTTP
    Http,
    /// Native C, over veth
    C,
    /// Native C as functions of the agent: in the kernel
    CKernel,
    /// Native Rust, over veth
    Rust,
    /// Native Rust as functions of the agent: in the kernel
    RustKernel,
    /// Native Rust over AF_UNIX
    Unix,
}

/// What carries a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A connection between the two.
    Connection,
    /// A list of Redis.
    Redis,
    /// HTTP.
    Http,
}

/// What runs a program, which decides how its command line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// `cwasi-stock-run`.
    Stock,
    /// `cwasi-run`.
    Runner,
    /// `cwasi-native`.
    Rust,
    /// `cwasi-native-c`.
    C,
}

impl Peer {
    /// Every peer, in the order of tables.
    pub const ALL: [Self; 11] = [
        Self::Stock,
        Self::Off,
        Self::Kernel,
        Self::Process,
        Self::Redis,
        Self::Http,
        Self::C,
        Self::CKernel,
        Self::Rust,
        Self::RustKernel,
        Self::Unix,
    ];

    /// Its short name, in tables and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Off => "off",
            Self::Kernel => "kernel",
            Self::Process => "process",
            Self::Redis => "redis",
            Self::Http => "http",
            Self::C => "c",
            Self::CKernel => "c-kernel",
            Self::Rust => "rust",
            Self::RustKernel => "rust-kernel",
            Self::Unix => "unix",
        }
    }

    /// What it is, in a phrase.
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::Stock => "Wasm in a stock wasmtime-wasi host, two pods, TCP over veth",
            Self::Off => "Wasm in cwasi-run without an agent, two pods, TCP over veth",
            Self::Kernel => "Wasm in cwasi-run with the agent, two pods, in the kernel",
            Self::Process => "Wasm, both functions in one cwasi-run process",
            Self::Redis => "Wasm in a stock host, three pods: messages go through a list of Redis, over veth",
            Self::Http => {
                "Wasm in a stock host, two pods: messages are bodies of HTTP/1.1 requests, over veth"
            }
            Self::C => "native C, two pods, TCP over veth",
            Self::CKernel => "native C with the agent, two pods, in the kernel",
            Self::Rust => "native Rust of the guests' own source, two pods, TCP over veth",
            Self::RustKernel => "the same with the agent, two pods, in the kernel",
            Self::Unix => "the same by AF_UNIX, which leaves no pod",
        }
    }

    /// Its colour in charts, and whether its lines are broken: the same colour for the same code, broken where bytes go
    /// by the network stack and it has a peer for which they do not.
    #[must_use]
    pub const fn colour(self) -> (usize, bool) {
        match self {
            Self::Stock => (0, false),
            Self::Off => (1, true),
            Self::Kernel => (1, false),
            Self::Process => (2, false),
            Self::Redis => (5, false),
            Self::Http => (6, false),
            Self::C => (4, true),
            Self::CKernel => (4, false),
            Self::Rust => (3, true),
            Self::RustKernel => (3, false),
            Self::Unix => (7, false),
        }
    }

    /// What runs its programs.
    #[must_use]
    pub const fn host(self) -> Host {
        match self {
            Self::Stock | Self::Redis | Self::Http => Host::Stock,
            Self::Off | Self::Kernel | Self::Process => Host::Runner,
            Self::Rust | Self::RustKernel | Self::Unix => Host::Rust,
            Self::C | Self::CKernel => Host::C,
        }
    }

    /// What carries its messages.
    #[must_use]
    pub const fn carrier(self) -> Carrier {
        match self {
            Self::Redis => Carrier::Redis,
            Self::Http => Carrier::Http,
            _ => Carrier::Connection,
        }
    }

    /// Whether its programs are Wasm components.
    #[must_use]
    pub const fn is_wasm(self) -> bool {
        matches!(self.host(), Host::Stock | Host::Runner)
    }

    /// Whether its ends are functions of the agent.
    #[must_use]
    pub const fn enrolled(self) -> bool {
        matches!(
            self,
            Self::Kernel | Self::Process | Self::CKernel | Self::RustKernel
        )
    }

    /// Whether the kernel program is to move its bytes.
    #[must_use]
    pub const fn redirected(self) -> bool {
        matches!(self, Self::Kernel | Self::CKernel | Self::RustKernel)
    }

    /// The peer of the same code whose connections stay with TCP, for a peer whose connections are redirected.
    #[must_use]
    pub const fn plain(self) -> Option<Self> {
        match self {
            Self::Kernel => Some(Self::Off),
            Self::CKernel => Some(Self::C),
            Self::RustKernel => Some(Self::Rust),
            _ => None,
        }
    }
}

/// These peers in the order of a round: each is first in turn, and every second round goes the other way. Otherwise each but the first
/// would always run on what the same other left behind, one in the kernel on what its own code by plain TCP did.
#[must_use]
pub fn order(peers: &[Peer], round: usize) -> Vec<Peer> {
    let mut order = stats::rotated(peers.to_vec(), round / 2);
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_is_listed_once_by_its_name_on_the_command_line() {
        assert_eq!(Peer::ALL, Peer::value_variants());
        for peer in Peer::ALL {
            assert_eq!(Peer::from_str(peer.name(), false), Ok(peer));
            assert_eq!(serde_json::to_value(peer).unwrap(), peer.name());
        }
    }

    #[test]
    fn a_plain_peer_is_of_the_same_host() {
        for peer in Peer::ALL {
            assert_eq!(peer.plain().is_some(), peer.redirected());
            if let Some(plain) = peer.plain() {
                assert_eq!(plain.host(), peer.host());
                assert!(!plain.enrolled());
                assert_eq!(plain.colour(), (peer.colour().0, true));
            }
        }
    }

    #[test]
    fn every_peer_is_first_in_turn() {
        let first: Vec<_> = (0..Peer::ALL.len())
            .map(|turn| order(&Peer::ALL, 2 * turn)[0])
            .collect();
        assert_eq!(first, Peer::ALL);
        assert_eq!(order(&[], 3), []);
    }

    #[test]
    fn of_two_peers_each_runs_before_the_other_equally_often() {
        let rounds = 4;
        for one in Peer::ALL {
            for other in Peer::ALL.into_iter().filter(|other| *other != one) {
                let before = (0..rounds).filter(|round| {
                    let order = order(&Peer::ALL, *round);
                    let place = |peer| order.iter().position(|there| *there == peer);
                    place(one) < place(other)
                });
                assert_eq!(before.count(), rounds / 2, "{one:?}, {other:?}");
            }
        }
    }
}
