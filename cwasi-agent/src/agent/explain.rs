//! Which path a connection would take, step by step as the programs decide it.

use std::net::{IpAddr, SocketAddr};

use cwasi_client::protocol::{ApiError, ErrorCode, Explanation, Sockets};
use cwasi_ebpf_common::learn::PROBE_EVERY;
use cwasi_ebpf_common::maps::{Destination, Locality};
use ipnet::IpNet;

use super::view::{KERNEL, NETWORK, PROCESS};
use super::{Agent, Entry, error, internal, longest_match, mapped_addr, unmapped};
use crate::plane::Plane;

/// The path of an explanation where only the handshake can tell.
const DEPENDS: &str = "depends";

/// An explanation in the making.
#[derive(Default)]
struct Steps {
    steps: Vec<String>,
    matched: Option<IpNet>,
}

impl Steps {
    fn say(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    fn end(self, path: &str) -> Explanation {
        Explanation {
            path: path.to_owned(),
            steps: self.steps,
            matched: self.matched,
        }
    }

    fn end_with(mut self, path: &str, step: impl Into<String>) -> Explanation {
        self.say(step);
        self.end(path)
    }
}

/// What a caller of `explain` connects to.
struct Target {
    ip: IpAddr,
    port: Option<u16>,
}

impl Agent {
    /// Which path a connection from `src` (name or address of a function) to `dst` (address, address and port, or name of a
    /// function) would take, and why.
    ///
    /// # Errors
    /// A name is no function's, or the kernel's maps cannot be read.
    pub fn explain(&self, src: &str, dst: &str) -> Result<Explanation, ApiError> {
        let mut steps = Steps::default();
        let Some(source) = self.source(src, &mut steps)? else {
            return Ok(steps.end_with(
                NETWORK,
                format!("{src} is no address of a registered function: plain TCP"),
            ));
        };
        let Some(target) = self.target(source, dst, &mut steps)? else {
            let step = "both run in one process: a listener of the one is reached by the other inside of it";
            return Ok(steps.end_with(PROCESS, step));
        };
        let spec = &source.saved.spec;
        if !spec.members.is_empty() && (target.ip.is_loopback() || spec.addresses.contains(&target.ip)) {
            let step = format!(
                "{} has several functions: where one of them listens on {}, the bytes stay inside of the process",
                source.title(),
                target.ip
            );
            return Ok(steps.end_with(DEPENDS, step));
        }
        let (accelerated, reason) = self.acceleration(source);
        let Some(plane) = self.plane.as_deref().filter(|_| accelerated) else {
            let reason = reason.unwrap_or_default();
            return Ok(steps.end_with(
                NETWORK,
                format!("{} is not accelerated: {reason}", source.title()),
            ));
        };
        steps.say(format!(
            "{} is registered as function {} and accelerated",
            source.title(),
            source.saved.id
        ));
        self.towards(plane, source, &target, steps)
    }

    /// The part of the decision that looks at the destination.
    fn towards(
        &self,
        plane: &dyn Plane,
        source: &Entry,
        target: &Target,
        mut steps: Steps,
    ) -> Result<Explanation, ApiError> {
        let entries = plane.localities().map_err(|error| internal(&error))?;
        let matched = longest_match(&entries, target.ip);
        steps.matched = matched.map(|(prefix, _)| unmapped(prefix));
        let sure = match matched {
            Some((prefix, Locality::Local)) => {
                steps.say(format!(
                    "{} is on this node: {} is local",
                    target.ip,
                    unmapped(prefix)
                ));
                true
            }
            Some((prefix, Locality::Maybe)) => {
                let prefix = unmapped(prefix);
                steps.say(format!(
                    "{} may be on this node: {prefix} is a Service range",
                    target.ip
                ));
                false
            }
            Some((prefix, Locality::Remote)) => {
                let step = format!(
                    "{} is not on this node: {} is remote",
                    target.ip,
                    unmapped(prefix)
                );
                return Ok(steps.end_with(NETWORK, step));
            }
            None => {
                let step = format!(
                    "{} is not on this node, as far as the agent knows: no prefix of the locality map holds it",
                    target.ip
                );
                return Ok(steps.end_with(NETWORK, step));
            }
        };
        if self.learned(plane, source, target, &mut steps)? {
            let step = format!(
                "earlier connections to it gained nothing: 1 in {PROBE_EVERY} is tried, the rest is plain TCP"
            );
            return Ok(steps.end_with(NETWORK, step));
        }
        if !sure {
            let step = "redirected if the handshake ends at a function of this node, whatever its address; plain TCP if not";
            return Ok(steps.end_with(DEPENDS, step));
        }
        Ok(self.peer(source, target.ip, steps))
    }

    /// Whether the kernel has learned to leave the destination alone.
    fn learned(
        &self,
        plane: &dyn Plane,
        source: &Entry,
        target: &Target,
        steps: &mut Steps,
    ) -> Result<bool, ApiError> {
        if plane.config().map_err(|error| internal(&error))?.learn == 0 {
            return Ok(false);
        }
        let Some(port) = target.port else {
            steps.say("no port given: what was learned of a destination is by port, and not looked at");
            return Ok(false);
        };
        let destination = Destination {
            addr: mapped_addr(target.ip).octets(),
            function: source.saved.id,
            port: u32::from(port),
        };
        let Some(record) = plane.learned(&destination).map_err(|error| internal(&error))? else {
            steps.say(format!(
                "nothing is learned of connections to {}:{port} yet",
                target.ip
            ));
            return Ok(false);
        };
        steps.say(format!(
            "recent connections to {}:{port}: {}, gains less costs {}",
            target.ip, record.connections, record.balance
        ));
        Ok(!record.admit().0)
    }

    /// The other end of a connection to an address of this node.
    fn peer(&self, source: &Entry, ip: IpAddr, mut steps: Steps) -> Explanation {
        let peers: Vec<&Entry> = self.by_address(ip).collect();
        match peers.as_slice() {
            [] => {
                let step = "no function registered that address: redirected if the socket that accepts is a function's";
                steps.end_with(DEPENDS, step)
            }
            [peer] => {
                let (accelerated, reason) = self.acceleration(peer);
                if accelerated {
                    let title = peer.title();
                    steps.say(format!(
                        "{ip} is {title}, function {}, accelerated",
                        peer.saved.id
                    ));
                    for end in [source, peer]
                        .into_iter()
                        .filter(|end| end.saved.spec.sockets == Sockets::NonBlocking)
                    {
                        steps.say(format!(
                            "the socket of {} must be non-blocking when the connection is made; an accepted one, its listener",
                            end.title()
                        ));
                        steps.say(format!(
                            "{} must be seen to wait for bytes level-triggered before any are redirected to it",
                            end.title()
                        ));
                    }
                    steps.end_with(
                        KERNEL,
                        "redirected, once the receiver has read what was sent by TCP before",
                    )
                } else {
                    let reason = reason.unwrap_or_default();
                    steps.end_with(NETWORK, format!("{} is not accelerated: {reason}", peer.title()))
                }
            }
            many => {
                let step = format!(
                    "{} functions share {ip}: redirected if one of them accepts",
                    many.len()
                );
                steps.end_with(DEPENDS, step)
            }
        }
    }

    /// The connecting function, `None` for an address that is no function's.
    fn source(&self, src: &str, steps: &mut Steps) -> Result<Option<&Entry>, ApiError> {
        match src.parse::<IpAddr>() {
            Ok(ip) => Ok(first(self.by_address(canonical(ip)), src, steps)),
            Err(_) => self.named(src, steps).map(Some),
        }
    }

    /// Where a connection of `source` to `dst` goes, `None` for a function of its own process.
    fn target(&self, source: &Entry, dst: &str, steps: &mut Steps) -> Result<Option<Target>, ApiError> {
        if let Ok(address) = dst.parse::<SocketAddr>() {
            return Ok(Some(Target {
                ip: canonical(address.ip()),
                port: Some(address.port()),
            }));
        }
        if let Ok(ip) = dst.parse::<IpAddr>() {
            return Ok(Some(Target {
                ip: canonical(ip),
                port: None,
            }));
        }
        let entry = self.named(dst, steps)?;
        if entry.saved.id == source.saved.id && !source.saved.spec.members.is_empty() {
            return Ok(None);
        }
        let Some(ip) = entry.saved.spec.addresses.first() else {
            let message = format!(
                "{} has no address but loopback: give the address to connect to",
                entry.title()
            );
            return Err(error(ErrorCode::Invalid, message));
        };
        steps.say(format!("{} is reached at {ip}", entry.title()));
        Ok(Some(Target { ip: *ip, port: None }))
    }

    fn by_address(&self, ip: IpAddr) -> impl Iterator<Item = &Entry> {
        self.functions
            .values()
            .filter(move |entry| entry.saved.spec.addresses.contains(&ip))
    }

    /// The function `namespace/name`, or `name` in the namespace `default`; of several in one process, their registration.
    fn named(&self, text: &str, steps: &mut Steps) -> Result<&Entry, ApiError> {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        let named = self.functions.values().filter(|entry| {
            let spec = &entry.saved.spec;
            spec.namespace == namespace
                && (spec.name == name || spec.members.iter().any(|member| member == name))
        });
        first(named, text, steps).ok_or_else(|| {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(120).collect();
            let message = format!("no function is called {shown}; `cwasi-agent functions` lists them");
            error(ErrorCode::NotFound, message)
        })
    }
}

/// The first of several functions that a name or address means, saying so.
fn first<'a>(
    mut entries: impl Iterator<Item = &'a Entry>,
    text: &str,
    steps: &mut Steps,
) -> Option<&'a Entry> {
    let entry = entries.next()?;
    let more = entries.count();
    if more > 0 {
        steps.say(format!(
            "{text} means {} functions; this is about number {}",
            more + 1,
            entry.saved.id
        ));
    }
    Some(entry)
}

/// An IPv4 address even if it was written as IPv6-mapped.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
