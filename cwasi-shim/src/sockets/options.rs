//! Options of a guest's socket, as WASI names them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};

use super::error::code;

/// Redirected bytes do not pass conntrack, whose entries for a connection end when it seems idle, the shortest that are
/// common after some minutes: keepalive probes, which TCP carries, keep the entries.
const KEEP_ALIVE_IDLE: Duration = Duration::from_mins(1);

/// Shortest and longest keepalive times that Linux takes, in nanoseconds.
const KEEP_ALIVE_TIMES: (u64, u64) = (1_000_000_000, i16::MAX as u64 * 1_000_000_000);
/// Fewest and most keepalive probes that Linux takes.
const KEEP_ALIVE_COUNTS: (u32, u32) = (1, i8::MAX as u32);

/// Sets what every socket of a guest has from its beginning.
pub(super) fn prepare(socket: &OwnedFd) -> io::Result<()> {
    // A guest has no way to ask for it. What it writes in one call is one message.
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE_IDLE)?;
    Ok(sockopt::set_socket_keepalive(socket, true)?)
}

/// The options that a socket inherits from the listener that accepts it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inherited {
    keep_alive: bool,
    idle: Duration,
    interval: Duration,
    count: u32,
    receive_buffer: usize,
    send_buffer: usize,
    hop_limit: HopLimit,
}

#[derive(Clone, Copy, Debug)]
enum HopLimit {
    Ipv4(u32),
    Ipv6(u8),
}

impl Inherited {
    pub(super) fn of(listener: impl AsFd, ipv4: bool) -> io::Result<Self> {
        Ok(Self {
            keep_alive: sockopt::socket_keepalive(&listener)?,
            idle: sockopt::tcp_keepidle(&listener)?,
            interval: sockopt::tcp_keepintvl(&listener)?,
            count: sockopt::tcp_keepcnt(&listener)?,
            receive_buffer: sockopt::socket_recv_buffer_size(&listener)?,
            send_buffer: sockopt::socket_send_buffer_size(&listener)?,
            hop_limit: if ipv4 {
                HopLimit::Ipv4(sockopt::ip_ttl(&listener)?)
            } else {
                HopLimit::Ipv6(sockopt::ipv6_unicast_hops(&listener)?)
            },
        })
    }

    pub(super) fn give(&self, socket: impl AsFd) -> io::Result<()> {
        sockopt::set_socket_keepalive(&socket, self.keep_alive)?;
        sockopt::set_tcp_keepidle(&socket, self.idle)?;
        sockopt::set_tcp_keepintvl(&socket, self.interval)?;
        sockopt::set_tcp_keepcnt(&socket, self.count)?;
        // The kernel doubles what it is given.
        sockopt::set_socket_recv_buffer_size(&socket, self.receive_buffer / 2)?;
        sockopt::set_socket_send_buffer_size(&socket, self.send_buffer / 2)?;
        match self.hop_limit {
            HopLimit::Ipv4(hops) => sockopt::set_ip_ttl(&socket, hops)?,
            HopLimit::Ipv6(hops) => sockopt::set_ipv6_unicast_hops(&socket, Some(hops))?,
        }
        Ok(())
    }
}

/// The keepalive that a guest sees: what it set, and otherwise what a socket has by default. What the host set for itself
/// is not to be seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeepAlive {
    enabled: Option<bool>,
    idle_is_set: bool,
}

impl KeepAlive {
    pub(super) fn enabled(self) -> bool {
        self.enabled.unwrap_or(false)
    }

    pub(super) fn set_enabled(&mut self, socket: impl AsFd, enabled: bool) -> Result<(), ErrorCode> {
        if !self.idle_is_set {
            sockopt::set_tcp_keepidle(&socket, default_idle()?).map_err(code)?;
        }
        sockopt::set_socket_keepalive(socket, enabled).map_err(code)?;
        self.enabled = Some(enabled);
        Ok(())
    }

    /// Nanoseconds.
    pub(super) fn idle_time(self, socket: impl AsFd) -> Result<u64, ErrorCode> {
        let idle = if self.idle_is_set {
            sockopt::tcp_keepidle(socket).map_err(code)?
        } else {
            default_idle()?
        };
        Ok(nanos(idle))
    }

    pub(super) fn set_idle_time(&mut self, socket: impl AsFd, nanos: u64) -> Result<(), ErrorCode> {
        sockopt::set_tcp_keepidle(socket, keep_alive_time(nanos)?).map_err(code)?;
        self.idle_is_set = true;
        Ok(())
    }
}

/// What the network namespace gives to new sockets.
fn default_idle() -> Result<Duration, ErrorCode> {
    use rustix::net::{AddressFamily, SocketType};
    let fresh = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).map_err(code)?;
    sockopt::tcp_keepidle(fresh).map_err(code)
}

/// Nanoseconds.
pub(super) fn keep_alive_interval(socket: impl AsFd) -> Result<u64, ErrorCode> {
    sockopt::tcp_keepintvl(socket).map(nanos).map_err(code)
}

pub(super) fn set_keep_alive_interval(socket: impl AsFd, nanos: u64) -> Result<(), ErrorCode> {
    sockopt::set_tcp_keepintvl(socket, keep_alive_time(nanos)?).map_err(code)
}

pub(super) fn keep_alive_count(socket: impl AsFd) -> Result<u32, ErrorCode> {
    sockopt::tcp_keepcnt(socket).map_err(code)
}

pub(super) fn set_keep_alive_count(socket: impl AsFd, count: u32) -> Result<(), ErrorCode> {
    not_zero(count.into())?;
    let (least, most) = KEEP_ALIVE_COUNTS;
    sockopt::set_tcp_keepcnt(socket, count.clamp(least, most)).map_err(code)
}

pub(super) fn hop_limit(socket: impl AsFd, family: IpAddressFamily) -> Result<u8, ErrorCode> {
    match family {
        IpAddressFamily::Ipv4 => {
            let ttl = sockopt::ip_ttl(socket).map_err(code)?;
            u8::try_from(ttl).map_err(|_| ErrorCode::NotSupported)
        }
        IpAddressFamily::Ipv6 => sockopt::ipv6_unicast_hops(socket).map_err(code),
    }
}

pub(super) fn set_hop_limit(socket: impl AsFd, family: IpAddressFamily, hops: u8) -> Result<(), ErrorCode> {
    not_zero(hops.into())?;
    match family {
        IpAddressFamily::Ipv4 => sockopt::set_ip_ttl(socket, hops.into()).map_err(code),
        IpAddressFamily::Ipv6 => sockopt::set_ipv6_unicast_hops(socket, Some(hops)).map_err(code),
    }
}

/// Bytes.
pub(super) fn receive_buffer_size(socket: impl AsFd) -> Result<u64, ErrorCode> {
    sockopt::socket_recv_buffer_size(socket).map(halved).map_err(code)
}

pub(super) fn set_receive_buffer_size(socket: impl AsFd, bytes: u64) -> Result<(), ErrorCode> {
    not_zero(bytes)?;
    sockopt::set_socket_recv_buffer_size(socket, buffer_size(bytes)).map_err(code)
}

/// Bytes.
pub(super) fn send_buffer_size(socket: impl AsFd) -> Result<u64, ErrorCode> {
    sockopt::socket_send_buffer_size(socket).map(halved).map_err(code)
}

pub(super) fn set_send_buffer_size(socket: impl AsFd, bytes: u64) -> Result<(), ErrorCode> {
    not_zero(bytes)?;
    sockopt::set_socket_send_buffer_size(socket, buffer_size(bytes)).map_err(code)
}

/// Refuses what no option can be.
pub(super) fn not_zero(value: u64) -> Result<(), ErrorCode> {
    if value == 0 {
        return Err(ErrorCode::InvalidArgument);
    }
    Ok(())
}

fn keep_alive_time(nanos: u64) -> Result<Duration, ErrorCode> {
    not_zero(nanos)?;
    let (least, most) = KEEP_ALIVE_TIMES;
    Ok(Duration::from_nanos(nanos.clamp(least, most)))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn buffer_size(bytes: u64) -> usize {
    // The kernel takes an int, and caps it at what the system allows.
    usize::try_from(bytes.min(i32::MAX.unsigned_abs().into())).unwrap_or(usize::MAX)
}

/// Linux doubles what it is given, for its own bookkeeping, and says so when asked.
fn halved(bytes: usize) -> u64 {
    u64::try_from(bytes / 2).unwrap_or(u64::MAX)
}
