//! What is compared.

use clap::ValueEnum;
use cwasi_bench::stats;
use cwasi_testnode::{ContainerSpec, PodSpec};

/// A way to run a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// A Wasm function of this shim, compiled before
    Cwasi,
    /// The same, with nothing compiled before
    Cold,
    /// A Wasm function of a stock shim (containerd-shim-wasm with wasmtime's defaults), compiled before
    Stock,
    /// A static C program of runc
    Runc,
}

impl Peer {
    /// Every peer.
    pub const ALL: [Self; 4] = [Self::Cwasi, Self::Cold, Self::Stock, Self::Runc];

    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cwasi => "cwasi",
            Self::Cold => "cwasi cold",
            Self::Stock => "stock",
            Self::Runc => "runc",
        }
    }

    /// Its place in [`Peer::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether it is a Wasm function.
    #[must_use]
    pub fn is_wasm(self) -> bool {
        self != Self::Runc
    }

    /// The runtime that its pods ask for.
    #[must_use]
    pub const fn handler(self) -> &'static str {
        match self {
            Self::Cwasi | Self::Cold => "cwasi",
            Self::Stock => "stock",
            Self::Runc => "runc",
        }
    }

    /// A pod of its runtime.
    #[must_use]
    pub fn pod(self, name: &str) -> PodSpec {
        PodSpec::new(name).runtime(self.handler())
    }

    /// A container of `image` that prints a few lines and ends.
    #[must_use]
    pub fn printing(self, name: &str, image: &str) -> ContainerSpec {
        let argument = if self.is_wasm() { "--help" } else { "print" };
        ContainerSpec::new(name, image).args([argument])
    }

    /// A container of `image` that sends back what it gets on a TCP port.
    #[must_use]
    pub fn echo(self, name: &str, image: &str, port: u16) -> ContainerSpec {
        let arguments = if self.is_wasm() {
            vec![format!("0.0.0.0:{port}")]
        } else {
            vec!["echo".to_owned(), port.to_string()]
        };
        ContainerSpec::new(name, image).args(arguments)
    }

    /// These peers in the order of a round, so that none always comes first.
    #[must_use]
    pub fn order(peers: &[Self], round: usize) -> Vec<Self> {
        stats::rotated(peers.to_vec(), round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_is_at_its_index() {
        for (index, peer) in Peer::ALL.into_iter().enumerate() {
            assert_eq!(peer.index(), index);
        }
    }

    #[test]
    fn every_peer_is_first_once_in_as_many_rounds() {
        let first: Vec<_> = (0..4).map(|round| Peer::order(&Peer::ALL, round)[0]).collect();
        assert_eq!(first, Peer::ALL);
        assert_eq!(Peer::order(&[Peer::Stock], 7), [Peer::Stock]);
        assert_eq!(Peer::order(&[], 7), []);
    }
}
