//! Keys and values of the BPF maps. The maps are pinned, and outlive an agent: change [`LAYOUT`] with any type here.

use crate::reason::REASONS;

/// Version of everything that pinned maps hold; part of the name of the bpffs directory.
pub const LAYOUT: u32 = 3;

/// Names of the maps, as pinned.
pub mod names {
    /// Cgroup id → [`super::FunctionEntry`].
    pub const FUNCTIONS: &str = "FUNCTIONS";
    /// IPv6-mapped prefix → [`super::Locality`].
    pub const LOCALITY: &str = "LOCALITY";
    /// [`super::PairKey`] → [`super::PairEnd`]: ends that wait for their other end.
    pub const PAIRS: &str = "PAIRS";
    /// Socket cookie → socket.
    pub const SOCKETS: &str = "SOCKETS";
    /// Address of the `struct sock` → [`super::Flow`].
    pub const FLOWS: &str = "FLOWS";
    /// [`super::TrafficKey`] → [`super::TrafficEntry`]: sums over closed connections.
    pub const TRAFFIC: &str = "TRAFFIC";
    /// [`super::ListenerKey`] → [`super::Listener`].
    pub const LISTENERS: &str = "LISTENERS";
    /// [`super::Destination`] → [`crate::learn::Record`].
    pub const LEARNED: &str = "LEARNED";
    /// One [`super::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// Ring of [`super::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// Per-CPU count of events that found the ring full.
    pub const LOST_EVENTS: &str = "LOST_EVENTS";

    /// Every map, in order of dependence.
    pub const ALL: [&str; 11] = [
        FUNCTIONS,
        LOCALITY,
        PAIRS,
        SOCKETS,
        FLOWS,
        TRAFFIC,
        LISTENERS,
        LEARNED,
        CONFIG,
        EVENTS,
        LOST_EVENTS,
    ];
}

/// Number of functions that fit on a node.
pub const MAX_FUNCTIONS: u32 = 4096;
/// Number of locality prefixes that fit.
pub const MAX_LOCALITY: u32 = 16384;
/// Number of enrolled sockets that fit; a connection between two functions has two.
pub const MAX_SOCKETS: u32 = 65536;
/// Number of function pairs whose traffic is kept apart; more are summed up under [`TrafficKey::OTHER`].
pub const MAX_TRAFFIC: u32 = 16384;
/// Number of destinations of which the kernel remembers what they gained.
pub const MAX_LEARNED: u32 = 16384;
/// Number of listening sockets that are remembered.
pub const MAX_LISTENERS: u32 = 4096;
/// Size of the event ring, in bytes.
pub const EVENT_RING_BYTES: u32 = 256 * 1024;

/// What the agent can change while flows are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Not 0: redirect. First in every layout: an agent of another one switches it off.
    pub enabled: u32,
    /// Bytes in a receiver's redirect queue above which the sender goes back to TCP.
    pub budget: u32,
    /// Writes of fewer bytes are small: TCP coalesces a stream of them.
    pub small_write: u32,
    /// Writes of fewer bytes are not small when TCP_NODELAY is set: TCP does them worse.
    pub tiny_write: u32,
    /// Number of small writes in a row, without an answer, that make a stream of small writes.
    pub small_streak: u32,
    /// Not 0: destinations that gain nothing are no longer enrolled.
    pub learn: u32,
}

impl Config {
    /// The budget that the agent uses unless told otherwise, in bytes.
    pub const DEFAULT_BUDGET: u32 = 4 << 20;
    /// The smallest budget: under it, 6.18.15 stalls 0.2 s a spill for a window update.
    pub const MIN_BUDGET: u32 = 256 << 10;
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: 1,
            budget: Self::DEFAULT_BUDGET,
            small_write: 4096,
            tiny_write: 128,
            small_streak: 16,
            learn: 1,
        }
    }
}

/// A registered function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FunctionEntry {
    /// Id that the agent gave, from 1.
    pub id: u32,
    /// A [`Sockets`].
    pub sockets: u32,
}

/// Which sockets of a function may be enrolled, and redirected to.
///
/// Of functions that their launcher does not vouch for, redirection leaves alone what could notice it:
///
/// - A read that sleeps in the kernel on an enrolled socket returns EAGAIN when it wakes without data: on a signal (SIGSTOP,
///   a tracer, a freezer), on the ACK of its own FIN, on space in its send queue (net/ipv4/tcp_bpf.c, `tcp_bpf_recvmsg`,
///   every kernel up to 6.18). Programs that wait in poll or epoll never see it.
/// - A read can come short although there is more, see [`crate::reader`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Sockets {
    /// Those that are non-blocking when the connection is made; accepted ones, when their listener is. They are redirected to
    /// when they are polled level-triggered.
    #[default]
    NonBlocking = 0,
    /// All: the launcher promises that none is read blocking, or EAGAIN is handled and no read waits for more than there is
    /// (`MSG_WAITALL`, `SO_RCVLOWAT`: it would take later bytes of TCP before redirected ones); and that a short read is not taken
    /// for the last one: who waits edge-triggered reads until EAGAIN.
    All = 1,
}

/// A listening socket: how the sockets that it accepts will be read can only be told from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ListenerKey {
    /// Id of the listening function.
    pub function: u32,
    /// Port listened on.
    pub port: u32,
}

/// What is known of a listening socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Listener {
    /// Address of its `struct sock`.
    pub sock: u64,
    /// Its cookie.
    pub cookie: u64,
    /// Not 0: connections that were accepted on the port were seen to block.
    pub blocking: u32,
    /// Not 0: the listening socket was non-blocking when it was last looked at.
    pub non_blocking: u32,
}

/// Where a destination is, as far as an address can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Locality {
    /// An endpoint of this node.
    Local = 1,
    /// May be on this node: a Service address.
    Maybe = 2,
    /// On another node.
    Remote = 3,
}

impl Locality {
    /// The locality of a value read from the map.
    #[must_use]
    pub const fn from_value(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::Local),
            2 => Some(Self::Maybe),
            3 => Some(Self::Remote),
            _ => None,
        }
    }

    /// Label in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Maybe => "maybe",
            Self::Remote => "remote",
        }
    }
}

/// An address as the maps hold it: IPv6, with IPv4 mapped (`::ffff:a.b.c.d`), in network order.
pub type Addr = [u8; 16];

/// Which end of the handshake a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// The end that connected.
    Active = 0,
    /// The end that accepted.
    Passive = 1,
}

/// The initial sequence numbers of a handshake, which both ends see alike through any NAT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PairKey {
    /// First sequence number of the active end's data.
    pub active: u32,
    /// First sequence number of the passive end's data.
    pub passive: u32,
    /// The end described by the value: a [`Role`].
    pub role: u32,
}

/// A destination as a function dials it: what the gains of connections are learned by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Destination {
    /// Address dialled.
    pub addr: Addr,
    /// Id of the dialling function.
    pub function: u32,
    /// Port dialled.
    pub port: u32,
}

/// An end that waits for its other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PairEnd {
    /// The entry's own key: proof, after the fields below were copied, that they belong to it.
    pub key: PairKey,
    /// Id of the end's function.
    pub function: u32,
    /// Cookie of the end's socket.
    pub cookie: u64,
    /// Address of the end's `struct sock`.
    pub sock: u64,
    /// What the active end dialled.
    pub destination: Destination,
}

/// What one end sent, by path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Messages redirected.
    pub redirect_messages: u64,
    /// Bytes redirected.
    pub redirect_bytes: u64,
    /// Messages handed to TCP.
    pub tcp_messages: u64,
    /// Bytes handed to TCP; a non-blocking sender may be refused a part and offer it again.
    pub tcp_bytes: u64,
    /// Changes from TCP to redirect.
    pub to_redirect: u64,
    /// Changes from redirect to TCP.
    pub to_tcp: u64,
}

impl Counters {
    /// All zero, as a constant.
    pub const EMPTY: Self = Self {
        redirect_messages: 0,
        redirect_bytes: 0,
        tcp_messages: 0,
        tcp_bytes: 0,
        to_redirect: 0,
        to_tcp: 0,
    };
}

/// One enrolled socket: what its end sends, and to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// Address of the socket's `struct sock`: the entry's own key, as a number that the verifier lets us add to.
    pub sock: u64,
    /// Cookie of the socket: its key in the sockhash.
    pub cookie: u64,
    /// Cookie of the peer's socket, 0 until the peer is known.
    pub peer_cookie: u64,
    /// Address of the peer's `struct sock`.
    pub peer_sock: u64,
    /// Monotonic time of the handshake, in nanoseconds since boot.
    pub established_ns: u64,
    /// Messages that the peer had sent when this end last sent one.
    pub peer_messages: u64,
    /// Messages that were part of a stream of small writes.
    pub small_messages: u64,
    /// What this end sent.
    pub sent: Counters,
    /// The handshake, with this end's role.
    pub pair: PairKey,
    /// Id of this end's function.
    pub function: u32,
    /// Id of the peer's function, 0 until known.
    pub peer_function: u32,
    /// A [`crate::redirect::State`].
    pub state: u32,
    /// The [`crate::reason::Reason`] of the last message that went by TCP.
    pub reason: u32,
    /// Small messages sent in a row without an answer, with Nagle on.
    pub streak: u32,
    /// Bytes redirected since the peer's queue was last seen empty.
    pub since_empty: u32,
    /// The [`Sockets`] of the function.
    pub sockets: u32,
    /// Changes to TCP, by [`crate::reason::Reason`].
    pub fallbacks: [u32; REASONS],
    /// Address of this end.
    pub local_addr: Addr,
    /// Address of the peer as this end sees it.
    pub remote_addr: Addr,
    /// Port of this end.
    pub local_port: u32,
    /// Port of the peer as this end sees it.
    pub remote_port: u32,
    /// What the active end dialled.
    pub destination: Destination,
}

impl Flow {
    /// All zero, as a constant.
    pub const EMPTY: Self = Self {
        sock: 0,
        cookie: 0,
        peer_cookie: 0,
        peer_sock: 0,
        established_ns: 0,
        peer_messages: 0,
        small_messages: 0,
        sent: Counters::EMPTY,
        pair: PairKey {
            active: 0,
            passive: 0,
            role: 0,
        },
        function: 0,
        peer_function: 0,
        state: 0,
        reason: 0,
        streak: 0,
        since_empty: 0,
        sockets: 0,
        fallbacks: [0; REASONS],
        local_addr: [0; 16],
        remote_addr: [0; 16],
        local_port: 0,
        remote_port: 0,
        destination: Destination {
            addr: [0; 16],
            function: 0,
            port: 0,
        },
    };
}

/// A pair of functions, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct TrafficKey {
    /// Id of the sending function.
    pub src: u32,
    /// Id of the receiving function, 0 when it is not known.
    pub dst: u32,
}

impl TrafficKey {
    /// Where the traffic of pairs goes that no longer fit.
    pub const OTHER: Self = Self { src: 0, dst: 0 };
}

/// Sums over the closed connections of a pair of functions, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TrafficEntry {
    /// What was sent.
    pub sent: Counters,
    /// Enrolled connections that were closed.
    pub connections: u64,
    /// Changes to TCP and connections left to TCP, by [`crate::reason::Reason`].
    pub fallbacks: [u64; REASONS],
}

impl TrafficEntry {
    /// All zero, as a constant.
    pub const EMPTY: Self = Self {
        sent: Counters::EMPTY,
        connections: 0,
        fallbacks: [0; REASONS],
    };
}

/// What an [`Event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A socket was enrolled.
    Enrolled = 1,
    /// An enrolled socket was closed; the event has its final counters.
    Closed = 2,
    /// A function's connection was left to TCP.
    LeftToTcp = 3,
}

impl EventKind {
    /// The kind of a value read from the ring.
    #[must_use]
    pub const fn from_value(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::Enrolled),
            2 => Some(Self::Closed),
            3 => Some(Self::LeftToTcp),
            _ => None,
        }
    }
}

/// An event of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// An [`EventKind`].
    pub kind: u32,
    /// The [`crate::reason::Reason`] of [`EventKind::LeftToTcp`].
    pub reason: u32,
    /// Monotonic time, in nanoseconds since boot.
    pub ns: u64,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Id of the socket's function.
    pub function: u32,
    /// Id of the peer's function, 0 when not known.
    pub peer_function: u32,
    /// Address of this end.
    pub local_addr: Addr,
    /// Address of the peer as this end sees it.
    pub remote_addr: Addr,
    /// Port of this end.
    pub local_port: u32,
    /// Port of the peer as this end sees it.
    pub remote_port: u32,
    /// What was sent, for [`EventKind::Closed`].
    pub sent: Counters,
}

#[cfg(feature = "user")]
mod pod {
    //! Every type here is `repr(C)`, made of integers, and has no padding: checked below.
    use super::*;

    macro_rules! pod {
        ($($type:ty = $size:expr),+ $(,)?) => {$(
            const _: () = assert!(size_of::<$type>() == $size);
            #[expect(unsafe_code, reason = "aya asks for the promise that the type is plain old data")]
            // SAFETY: repr(C), integers only, and the size assertion above leaves no room for padding.
            unsafe impl aya::Pod for $type {}
        )+};
    }

    const COUNTERS: usize = 6 * 8;
    const DESTINATION: usize = 16 + 2 * 4;
    pod!(
        Config = 6 * 4,
        FunctionEntry = 2 * 4,
        ListenerKey = 2 * 4,
        Listener = 2 * 8 + 2 * 4,
        PairKey = 3 * 4,
        Destination = DESTINATION,
        PairEnd = 4 * 4 + 2 * 8 + DESTINATION,
        Counters = COUNTERS,
        Flow = 7 * 8 + COUNTERS + (3 + 7 + REASONS) * 4 + 2 * 16 + 2 * 4 + DESTINATION,
        TrafficKey = 2 * 4,
        TrafficEntry = COUNTERS + 8 + REASONS * 8,
        Event = 2 * 4 + 2 * 8 + 2 * 4 + 2 * 16 + 2 * 4 + COUNTERS,
    );
}
