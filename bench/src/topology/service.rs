//! Service addresses: destination NAT on the node, as kube-proxy sets it up for a ClusterIP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Topology;
use crate::Result;

/// Range of the IPv4 Service addresses, for an agent's `--service-cidr`.
pub const SERVICE_CIDR_V4: &str = "10.96.0.0/16";

/// Range of the IPv6 Service addresses.
pub const SERVICE_CIDR_V6: &str = "fd63:7761:7369:96::/112";

/// An address and port that stand for a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service(SocketAddr);

impl Service {
    /// 10.96.0.`number`:`port`.
    #[must_use]
    pub fn v4(number: u8, port: u16) -> Self {
        Self(SocketAddr::from((Ipv4Addr::new(10, 96, 0, number), port)))
    }

    /// [fd63:7761:7369:96::`number`]:`port`.
    #[must_use]
    pub fn v6(number: u8, port: u16) -> Self {
        let address = Ipv6Addr::new(0xfd63, 0x7761, 0x7369, 0x96, 0, 0, 0, number.into());
        Self(SocketAddr::from((address, port)))
    }

    /// What clients connect to.
    #[must_use]
    pub const fn address(self) -> SocketAddr {
        self.0
    }
}

impl Topology {
    /// Makes the node translate connections to a Service into connections to `target`, of the same address family.
    ///
    /// Pods share the node's bridge, so that a pod's answer would reach the client past the node, which then could not
    /// translate it back: the node also puts itself in the client's place, as kube-proxy's masquerade does.
    ///
    /// # Errors
    /// `nft` is missing or fails, for instance on a kernel without nf_nat.
    pub fn expose(&self, service: Service, target: SocketAddr) -> Result<()> {
        self.node().nft(&rules(service.address(), target))
    }
}

/// Tables and chains are added when missing and left alone when there.
fn rules(service: SocketAddr, target: SocketAddr) -> String {
    let family = match service.ip() {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    };
    format!(
        "add table inet services\n\
         add chain inet services prerouting {{ type nat hook prerouting priority dstnat; }}\n\
         add chain inet services postrouting {{ type nat hook postrouting priority srcnat; }}\n\
         flush chain inet services postrouting\n\
         add rule inet services postrouting ct status dnat masquerade\n\
         add rule inet services prerouting {family} daddr {} tcp dport {} dnat {family} to {target}\n",
        service.ip(),
        service.port()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_the_family_and_bracket_ipv6() {
        let target = "[fd00::2]:7000".parse().unwrap();
        let text = rules(Service::v6(1, 80).address(), target);
        assert!(text.ends_with(
            "prerouting ip6 daddr fd63:7761:7369:96::1 tcp dport 80 dnat ip6 to [fd00::2]:7000\n"
        ));
        let text = rules(Service::v4(1, 80).address(), "10.0.0.2:7000".parse().unwrap());
        assert!(text.ends_with("prerouting ip daddr 10.96.0.1 tcp dport 80 dnat ip to 10.0.0.2:7000\n"));
    }
}
