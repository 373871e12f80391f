//! Which peers a guest may connect to.
//!
//! Like a container's, a guest's network is confined by its network namespace and the cluster's NetworkPolicy; this
//! policy can only take away from that. It judges the peers that the guest chooses: TCP connections and outgoing
//! datagrams. Binding, listening, accepting and receiving stay open, and so does the host's name resolution.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::{IpNet, Ipv4Net};
use wasmtime_wasi::sockets::SocketAddrUse;

/// Most refused peers that one guest's run reports; what a guest tries must not fill a log.
const MAX_REPORTED: usize = 64;

/// Peers that a guest may choose: `all`, `ADDR`, `ADDR:PORT` (`[ADDR]:PORT` for IPv6) or a CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Every peer.
    All,
    /// Any port of the addresses of a range.
    Net(IpNet),
    /// One address and port.
    Socket(SocketAddr),
}

/// Why a peer's description cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePeerError {
    /// a peer is ADDR, ADDR:PORT, `[ADDR]:PORT`, a CIDR such as 10.0.0.0/8, or `all`; names are not resolved
    #[error(
        "a peer is ADDR, ADDR:PORT, [ADDR]:PORT, a CIDR such as 10.0.0.0/8, or `all`; names are not resolved"
    )]
    Form,
}

impl FromStr for Peer {
    type Err = ParsePeerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(IpNet::from(address.to_canonical())));
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self::Socket(canonical(socket)));
        }
        text.parse()
            .map(|net| Self::Net(canonical_net(net)))
            .map_err(|_| ParsePeerError::Form)
    }
}

impl Peer {
    fn matches(&self, peer: SocketAddr) -> bool {
        match self {
            Self::All => true,
            Self::Net(net) => net.contains(&peer.ip()),
            Self::Socket(socket) => socket.ip() == peer.ip() && socket.port() == peer.port(),
        }
    }
}

/// The same peer, whether the guest reaches it as IPv4 or as v4-mapped IPv6.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// A range of v4-mapped addresses as the IPv4 range that it is.
fn canonical_net(net: IpNet) -> IpNet {
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(v4), Some(len)) => Ipv4Net::new(v4, len).map_or(net, IpNet::V4),
        _ => net,
    }
}

/// Which peers a guest may connect and send to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    allowed: Option<Vec<Peer>>,
}

impl NetworkPolicy {
    /// Everything that the network namespace offers.
    #[must_use]
    pub const fn unrestricted() -> Self {
        Self { allowed: None }
    }

    /// Only `peers`; none at all when empty.
    #[must_use]
    pub const fn only(peers: Vec<Peer>) -> Self {
        Self { allowed: Some(peers) }
    }

    /// Whether the guest may use `address` in this way.
    #[must_use]
    pub fn permits(&self, address: SocketAddr, used_for: SocketAddrUse) -> bool {
        let Some(peers) = &self.allowed else { return true };
        match used_for {
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend => {
                let peer = canonical(address);
                peers.iter().any(|allowed| allowed.matches(peer))
            }
            SocketAddrUse::TcpBind
            | SocketAddrUse::TcpListen
            | SocketAddrUse::TcpAccept
            | SocketAddrUse::UdpBind
            | SocketAddrUse::UdpReceive => true,
        }
    }
}

/// Tells the peers that were refused, each once, and at most 64 of them.
#[derive(Clone)]
pub struct Refusals {
    tell: Arc<dyn Fn(SocketAddr) + Send + Sync>,
    told: Arc<Mutex<HashSet<SocketAddr>>>,
}

impl Refusals {
    /// Calls `tell` with each peer on its first refusal.
    pub fn new(tell: impl Fn(SocketAddr) + Send + Sync + 'static) -> Self {
        Self {
            tell: Arc::new(tell),
            told: Arc::default(),
        }
    }

    /// Notes that `peer` was refused.
    pub fn add(&self, peer: SocketAddr) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MAX_REPORTED && told.insert(peer) {
            (self.tell)(peer);
        }
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Refusals")
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn policy(peers: &[&str]) -> NetworkPolicy {
        NetworkPolicy::only(peers.iter().map(|peer| peer.parse().unwrap()).collect())
    }

    fn connects(policy: &NetworkPolicy, to: &str) -> bool {
        policy.permits(to.parse().unwrap(), SocketAddrUse::TcpConnect)
    }

    #[test]
    fn without_a_list_everything_is_open() {
        assert!(connects(&NetworkPolicy::unrestricted(), "192.0.2.1:80"));
        assert!(connects(&policy(&["all"]), "192.0.2.1:80"));
    }

    #[test]
    fn an_empty_list_allows_no_peer() {
        assert!(!connects(&policy(&[]), "127.0.0.1:80"));
    }

    #[test]
    fn addresses_ports_and_ranges() {
        let policy = policy(&[
            "192.0.2.1",
            "192.0.2.2:80",
            "10.0.0.0/8",
            "::1",
            "[2001:db8::1]:443",
            "fd00::/8",
        ]);
        for peer in [
            "192.0.2.1:1",
            "192.0.2.2:80",
            "10.9.8.7:6",
            "[::1]:9",
            "[2001:db8::1]:443",
            "[fd12::1]:1",
        ] {
            assert!(connects(&policy, peer), "{peer}");
        }
        for peer in [
            "192.0.2.2:81",
            "192.0.2.3:80",
            "11.0.0.1:1",
            "[::2]:9",
            "[2001:db8::1]:80",
            "[fe00::1]:1",
        ] {
            assert!(!connects(&policy, peer), "{peer}");
        }
    }

    #[test]
    fn mapped_addresses_are_the_ipv4_peer() {
        assert!(connects(&policy(&["10.0.0.0/8"]), "[::ffff:10.0.0.1]:80"));
        assert!(connects(&policy(&["::ffff:192.0.2.1"]), "192.0.2.1:80"));
        assert!(connects(&policy(&["[::ffff:192.0.2.1]:80"]), "192.0.2.1:80"));
        assert!(!connects(&policy(&["10.0.0.0/8"]), "[::ffff:11.0.0.1]:80"));
        assert!(connects(&policy(&["::ffff:10.0.0.0/104"]), "10.1.2.3:80"));
        assert!(!connects(&policy(&["::ffff:10.0.0.0/104"]), "11.1.2.3:80"));
    }

    #[test]
    fn only_peers_that_the_guest_chooses_are_judged() {
        let policy = policy(&["10.0.0.0/8"]);
        let address = "0.0.0.0:80".parse().unwrap();
        for used_for in [
            SocketAddrUse::TcpBind,
            SocketAddrUse::TcpListen,
            SocketAddrUse::TcpAccept,
            SocketAddrUse::UdpBind,
            SocketAddrUse::UdpReceive,
        ] {
            assert!(policy.permits(address, used_for), "{used_for:?}");
        }
        assert!(!policy.permits(address, SocketAddrUse::UdpSend));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "host",
            "host:80",
            "10.0.0.0/33",
            "10.0.0.1:",
            "::1/200",
            "ALL",
            "10.0.0.0/8:80",
        ] {
            assert_eq!(text.parse::<Peer>(), Err(ParsePeerError::Form), "{text:?}");
        }
    }

    #[test]
    fn refusals_are_told_once_and_not_without_end() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let refusals = Refusals::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        for port in [1, 1, 2] {
            refusals.add(SocketAddr::from(([192, 0, 2, 1], port)));
        }
        assert_eq!(count.load(Ordering::Relaxed), 2);
        for port in 0..1000 {
            refusals.add(SocketAddr::from(([192, 0, 2, 1], port)));
        }
        assert_eq!(count.load(Ordering::Relaxed), MAX_REPORTED);
    }

    proptest! {
        #[test]
        fn a_range_allows_exactly_its_addresses(net: u32, len in 0u8..=32, peer: u32, port: u16) {
            let text = format!("{}/{len}", std::net::Ipv4Addr::from(net));
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            let to = SocketAddr::from((std::net::Ipv4Addr::from(peer), port));
            let allowed = policy(&[&text]).permits(to, SocketAddrUse::TcpConnect);
            prop_assert_eq!(allowed, net & mask == peer & mask);
        }

        #[test]
        fn an_address_with_a_port_is_a_socket(address: u32, port: u16) {
            let socket = SocketAddr::from((std::net::Ipv4Addr::from(address), port));
            prop_assert_eq!(socket.to_string().parse(), Ok(Peer::Socket(socket)));
            prop_assert_eq!(socket.ip().to_string().parse(), Ok(Peer::Net(IpNet::from(socket.ip()))));
        }
    }
}
