//! Which destinations may be on this node: the desired content of the kernel's locality map.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cwasi_ebpf_common::maps::Locality;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A prefix as the locality map holds it: IPv4 as `::ffff:a.b.c.d/96+n`, host bits cleared.
///
/// # Examples
/// `10.1.2.3/8` → `::ffff:10.0.0.0/104`; `fd00::1/64` → `fd00::/64`.
#[must_use]
pub fn mapped(net: IpNet) -> Ipv6Net {
    let (addr, length) = match net {
        IpNet::V4(v4) => (v4.addr().to_ipv6_mapped(), v4.prefix_len() + 96),
        IpNet::V6(v6) => (v6.addr(), v6.prefix_len()),
    };
    Ipv6Net::new_assert(addr, length).trunc()
}

/// The address as the maps hold it.
#[must_use]
pub fn mapped_addr(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// The prefix as people write it, IPv4 where it is IPv4.
#[must_use]
pub fn unmapped(net: Ipv6Net) -> IpNet {
    match (net.addr().to_ipv4_mapped(), net.prefix_len().checked_sub(96)) {
        (Some(v4), Some(length)) => IpNet::V4(Ipv4Net::new_assert(v4, length)),
        _ => IpNet::V6(net),
    }
}

/// The longest prefix that holds the address, as the kernel's LPM trie would match it.
#[must_use]
pub fn longest_match(entries: &[(Ipv6Net, Locality)], addr: IpAddr) -> Option<(Ipv6Net, Locality)> {
    let addr = mapped_addr(addr);
    let holding = entries.iter().filter(|(prefix, _)| prefix.contains(&addr));
    holding.max_by_key(|(prefix, _)| prefix.prefix_len()).copied()
}

/// The desired locality of prefixes: what the operator said, and the addresses of registered functions.
#[derive(Clone, Debug)]
pub struct Localities {
    fixed: BTreeMap<Ipv6Net, Locality>,
    /// Functions that an address belongs to, counted: functions of one pod share theirs.
    held: BTreeMap<Ipv6Net, usize>,
}

impl Localities {
    /// Loopback and the `local` prefixes are of this node, the `service` prefixes may be.
    #[must_use]
    pub fn new(local: &[IpNet], service: &[IpNet]) -> Self {
        let loopback = [
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
        ];
        let maybe = service.iter().map(|net| (mapped(*net), Locality::Maybe));
        let sure = loopback
            .iter()
            .chain(local)
            .map(|net| (mapped(*net), Locality::Local));
        Self {
            fixed: maybe.chain(sure).collect(),
            held: BTreeMap::new(),
        }
    }

    fn host(addr: IpAddr) -> Ipv6Net {
        Ipv6Net::new_assert(mapped_addr(addr), 128)
    }

    /// Counts one more function at the address. Returns its prefix when its locality changes by that.
    pub fn hold(&mut self, addr: IpAddr) -> Option<Ipv6Net> {
        let prefix = Self::host(addr);
        let before = self.get(prefix);
        *self.held.entry(prefix).or_default() += 1;
        (before != self.get(prefix)).then_some(prefix)
    }

    /// Counts one function less at the address. Returns its prefix when its locality changes by that.
    pub fn release(&mut self, addr: IpAddr) -> Option<Ipv6Net> {
        let prefix = Self::host(addr);
        let before = self.get(prefix);
        if let Some(count) = self.held.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&prefix);
            }
        }
        (before != self.get(prefix)).then_some(prefix)
    }

    /// The desired locality of exactly this prefix, `None` for no entry.
    #[must_use]
    pub fn get(&self, prefix: Ipv6Net) -> Option<Locality> {
        if self.held.contains_key(&prefix) {
            return Some(Locality::Local);
        }
        self.fixed.get(&prefix).copied()
    }

    /// Every desired entry.
    #[must_use]
    pub fn desired(&self) -> BTreeMap<Ipv6Net, Locality> {
        let held = self.held.keys().map(|prefix| (*prefix, Locality::Local));
        self.fixed
            .iter()
            .map(|(prefix, locality)| (*prefix, *locality))
            .chain(held)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_are_mapped_and_back() {
        for (text, there, back) in [
            ("10.1.2.3/8", "::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("0.0.0.0/0", "::ffff:0:0/96", "0.0.0.0/0"),
            ("1.2.3.4/32", "::ffff:1.2.3.4/128", "1.2.3.4/32"),
            ("fd00::1/64", "fd00::/64", "fd00::/64"),
            ("::/0", "::/0", "::/0"),
        ] {
            let mapped = mapped(net(text));
            assert_eq!(IpNet::V6(mapped), net(there));
            assert_eq!(unmapped(mapped), net(back));
        }
    }

    #[test]
    fn a_shared_address_stays_until_its_last_function_goes() {
        let mut localities = Localities::new(&[], &[]);
        let pod = addr("10.0.0.5");
        let prefix = localities.hold(pod).unwrap();
        assert_eq!(localities.get(prefix), Some(Locality::Local));
        assert_eq!(localities.hold(pod), None);
        assert_eq!(localities.release(pod), None);
        assert_eq!(localities.release(pod), Some(prefix));
        assert_eq!(localities.get(prefix), None);
        assert_eq!(localities.release(pod), None, "released once too often");
    }

    #[test]
    fn a_function_at_a_service_address_is_local_while_it_lives() {
        let mut localities = Localities::new(&[], &[net("10.96.0.1/32")]);
        let prefix = mapped(net("10.96.0.1/32"));
        assert_eq!(localities.get(prefix), Some(Locality::Maybe));
        assert_eq!(localities.hold(addr("10.96.0.1")), Some(prefix));
        assert_eq!(localities.get(prefix), Some(Locality::Local));
        assert_eq!(localities.release(addr("10.96.0.1")), Some(prefix));
        assert_eq!(localities.get(prefix), Some(Locality::Maybe));
    }

    #[test]
    fn the_longest_prefix_matches() {
        let localities = Localities::new(&[net("10.0.0.0/24")], &[net("10.0.0.0/8")]);
        let entries: Vec<_> = localities.desired().into_iter().collect();
        let found = |text| longest_match(&entries, addr(text)).map(|(_, locality)| locality);
        assert_eq!(found("10.0.0.9"), Some(Locality::Local));
        assert_eq!(found("10.0.1.9"), Some(Locality::Maybe));
        assert_eq!(found("127.8.8.8"), Some(Locality::Local));
        assert_eq!(found("::1"), Some(Locality::Local));
        assert_eq!(found("::ffff:10.0.0.9"), Some(Locality::Local));
        assert_eq!(found("192.0.2.1"), None);
    }

    proptest! {
        #[test]
        fn changes_add_up_to_what_is_desired(steps in prop::collection::vec((any::<bool>(), 0_u8..6), 0..40)) {
            let mut localities = Localities::new(&[], &[net("10.0.0.2/31")]);
            let mut kernel = localities.desired();
            let mut count = [0_u32; 6];
            for (hold, host) in steps {
                let address = IpAddr::from([10, 0, 0, host]);
                let changed = if hold {
                    count[usize::from(host)] += 1;
                    localities.hold(address)
                } else if count[usize::from(host)] > 0 {
                    count[usize::from(host)] -= 1;
                    localities.release(address)
                } else {
                    None
                };
                if let Some(prefix) = changed {
                    match localities.get(prefix) {
                        Some(locality) => kernel.insert(prefix, locality),
                        None => kernel.remove(&prefix),
                    };
                }
                prop_assert_eq!(&kernel, &localities.desired());
            }
        }
    }
}
