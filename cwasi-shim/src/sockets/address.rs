//! Which addresses a guest may name.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use wasmtime_wasi::p2::bindings::sockets::network::IpAddressFamily;

/// Whether a socket of `family` can be bound to `ip`. IPv4 in IPv6, mapped or in the deprecated compatible form, is neither.
pub(super) fn can_bind(ip: IpAddr, family: IpAddressFamily) -> bool {
    match (family, ip) {
        (IpAddressFamily::Ipv4, IpAddr::V4(ip)) => !ip.is_multicast() && !ip.is_broadcast(),
        (IpAddressFamily::Ipv6, IpAddr::V6(ip)) => {
            !ip.is_multicast() && ip.to_ipv4_mapped().is_none() && !is_compatible(ip)
        }
        _ => false,
    }
}

/// Whether a socket of `family` can be connected to `address`.
pub(super) fn can_connect(address: SocketAddr, family: IpAddressFamily) -> bool {
    can_bind(address.ip(), family) && !address.ip().is_unspecified() && address.port() != 0
}

fn is_compatible(ip: Ipv6Addr) -> bool {
    matches!(ip.segments(), [0, 0, 0, 0, 0, 0, _, _])
        && ip != Ipv6Addr::UNSPECIFIED
        && ip != Ipv6Addr::LOCALHOST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bindable(ip: &str) -> (bool, bool) {
        let ip = ip.parse().unwrap();
        (
            can_bind(ip, IpAddressFamily::Ipv4),
            can_bind(ip, IpAddressFamily::Ipv6),
        )
    }

    #[test]
    fn an_address_is_of_its_own_family_only() {
        assert_eq!(bindable("192.0.2.1"), (true, false));
        assert_eq!(bindable("0.0.0.0"), (true, false));
        assert_eq!(bindable("2001:db8::1"), (false, true));
        assert_eq!(bindable("::"), (false, true));
        assert_eq!(bindable("::1"), (false, true));
    }

    #[test]
    fn groups_and_disguised_addresses_are_nobodys() {
        for ip in [
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "::ffff:192.0.2.1",
            "::192.0.2.1",
        ] {
            assert_eq!(bindable(ip), (false, false), "{ip}");
        }
    }

    #[test]
    fn a_peer_has_an_address_and_a_port() {
        let connectable = |address: &str| can_connect(address.parse().unwrap(), IpAddressFamily::Ipv4);
        assert!(connectable("192.0.2.1:80"));
        assert!(!connectable("192.0.2.1:0"));
        assert!(!connectable("0.0.0.0:80"));
    }
}
