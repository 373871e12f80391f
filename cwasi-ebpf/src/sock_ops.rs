//! Pairing, enrolment and clean-up.
//!
//! The two ends of a connection find each other by the initial sequence numbers of the handshake, which both see alike
//! through any NAT. On one node the active end always comes first: its ACK is what makes the passive end.

use aya_ebpf::bindings::{
    BPF_ANY, BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE,
    bpf_sock_ops,
};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SockOpsContext;
use cwasi_ebpf_common::maps::{
    Addr, Destination, EventKind, Flow, FunctionEntry, Listener, ListenerKey, Locality, PairEnd, PairKey,
    Role, Sockets,
};
use cwasi_ebpf_common::reason::Reason;

use crate::account;
use crate::kernel::{Sock, address_of};
use crate::maps::{CONFIG, FLOWS, FUNCTIONS, LEARNED, LISTENERS, LOCALITY, PAIRS, SOCKETS};

const AF_INET: u32 = 2;
/// In read-only data: 280 bytes that need not fit on the stack.
static EMPTY: Flow = Flow::EMPTY;
const EBUSY: i32 = 16;
const E2BIG: i32 = 7;

/// Reads a field of the context, always, and at its own offset: the verifier forbids the offset that LLVM computes when it
/// merges the reads of two branches.
macro_rules! context {
    ($ctx:ident.$field:ident) => {
        // SAFETY: the context is valid for the whole program.
        unsafe { core::ptr::read_volatile(&raw const (*$ctx.ops).$field) }
    };
    ($ctx:ident.$field:ident[4]) => {
        // SAFETY: as above.
        unsafe {
            let words = (&raw const (*$ctx.ops).$field).cast::<u32>();
            [
                core::ptr::read_volatile(words),
                core::ptr::read_volatile(words.add(1)),
                core::ptr::read_volatile(words.add(2)),
                core::ptr::read_volatile(words.add(3)),
            ]
        }
    };
}

/// Handles one callback of the socket layer, under the socket's lock.
#[inline(always)]
pub fn handle(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => active(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => passive(ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listening(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => closed(ctx),
        _ => {}
    }
}

/// The connecting end: enrolled when its function is known, the destination may be on this node, and it pays.
#[inline(always)]
fn active(ctx: &SockOpsContext) {
    let Some((sock, function)) = socket_of_function(ctx) else {
        return;
    };
    let (addr, port) = remote(ctx);
    let destination = Destination {
        addr,
        function: function.id,
        port,
    };
    if let Err(reason) = admit(&destination, sock, function) {
        account::left_to_tcp(function.id, reason);
        return;
    }
    let (snd_nxt, rcv_nxt) = (context!(ctx.snd_nxt), context!(ctx.rcv_nxt));
    let pair = PairKey {
        active: snd_nxt,
        passive: rcv_nxt,
        role: Role::Active as u32,
    };
    enrol(
        ctx,
        sock,
        function,
        pair,
        &PairEnd {
            destination,
            ..PairEnd::default()
        },
    );
}

/// The accepting end: enrolled when the active end was, which is proof that it is on this node.
#[inline(always)]
fn passive(ctx: &SockOpsContext) {
    let (snd_nxt, rcv_nxt) = (context!(ctx.snd_nxt), context!(ctx.rcv_nxt));
    let active = PairKey {
        active: rcv_nxt,
        passive: snd_nxt,
        role: Role::Active as u32,
    };
    let Some(peer) = take_end(&active) else { return };
    let Some((sock, function)) = socket_of_function(ctx) else {
        return;
    };
    if function.sockets != Sockets::All as u32 && !accepts_non_blocking(function.id, context!(ctx.local_port))
    {
        account::left_to_tcp(function.id, Reason::Blocking);
        return;
    }
    enrol(
        ctx,
        sock,
        function,
        PairKey {
            role: Role::Passive as u32,
            ..active
        },
        &peer,
    );
}

/// A socket that begins to listen is remembered: an accepted socket has no file yet when its connection is made.
#[inline(always)]
fn listening(ctx: &SockOpsContext) {
    let Some((sock, function)) = socket_of_function(ctx) else {
        return;
    };
    let key = ListenerKey {
        function: function.id,
        port: context!(ctx.local_port),
    };
    // SAFETY: the helper takes the context of a sock_ops program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    let listener = Listener {
        sock: sock.0,
        cookie,
        blocking: 0,
        non_blocking: u32::from(sock.non_blocking() == Some(true)),
    };
    // A full LRU map evicts: connections to what is lost go by TCP.
    let _ = LISTENERS.insert(key, listener, u64::from(BPF_ANY));
}

/// Whether the sockets that a function accepts on a port are likely to be read without blocking.
///
/// Of several listeners on one port the last is looked at, and what it was like is remembered when it is gone: the workers of
/// a server are alike.
#[inline(always)]
fn accepts_non_blocking(function: u32, port: u32) -> bool {
    let Some(found) = LISTENERS.get_ptr_mut(ListenerKey { function, port }) else {
        return false;
    };
    // SAFETY: a live map value; it may be replaced while it is read, and the cookie tells whether the address still holds.
    let listener = unsafe { &mut *found };
    let sock = Sock(listener.sock);
    // A closed socket keeps its cookie until its memory is another's, but not its file.
    if sock.cookie() == Some(listener.cookie)
        && let Some(non_blocking) = sock.non_blocking()
    {
        listener.non_blocking = u32::from(non_blocking);
    }
    listener.blocking == 0 && listener.non_blocking != 0
}

/// The end of an enrolled socket, in whatever way it came.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    // SAFETY: the context is valid for the whole program.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return;
    }
    let key = sk as u64;
    let Some(found) = FLOWS.get_ptr(key) else { return };
    // SAFETY: only this socket's own callbacks remove the entry, and they hold its lock.
    let flow = unsafe { &*found };
    account::closed(flow);
    account::learn(flow);
    account::event(EventKind::Closed, flow, 0);
    // This end's offer, if nobody took it.
    let _ = PAIRS.remove(flow.pair);
    let _ = FLOWS.remove(key);
}

/// The socket, and its function.
#[inline(always)]
fn socket_of_function(ctx: &SockOpsContext) -> Option<(Sock, FunctionEntry)> {
    // SAFETY: the context is valid for the whole program.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    let sock = Sock(address_of(sk)?);
    let Some(cgroup) = sock.cgroup_id() else {
        account::left_to_tcp(0, Reason::NotAFunction);
        return None;
    };
    // SAFETY: the agent replaces entries whole; an id read while it does is the old or the new one.
    match unsafe { FUNCTIONS.get(cgroup) } {
        Some(entry) => Some((sock, *entry)),
        None => {
            account::left_to_tcp(0, Reason::NotAFunction);
            None
        }
    }
}

/// Whether a connection to the destination is worth enrolling.
#[inline(always)]
fn admit(destination: &Destination, sock: Sock, function: FunctionEntry) -> Result<(), Reason> {
    let config = CONFIG.get(0).ok_or(Reason::Disabled)?;
    if config.enabled == 0 {
        return Err(Reason::Disabled);
    }
    let locality = LOCALITY
        .get(&Key::new(128, destination.addr))
        .copied()
        .unwrap_or(Locality::Remote as u32);
    if locality != Locality::Local as u32 && locality != Locality::Maybe as u32 {
        return Err(Reason::Remote);
    }
    if function.sockets != Sockets::All as u32 && sock.non_blocking() != Some(true) {
        return Err(Reason::Blocking);
    }
    if config.learn == 0 {
        return Ok(());
    }
    let Some(found) = LEARNED.get_ptr_mut(destination) else {
        return Ok(());
    };
    // SAFETY: a live map value; the record is a hint, and a lost update of it costs one probe more or less.
    let (enrol, next) = unsafe { *found }.admit();
    // SAFETY: as above.
    unsafe { *found = next };
    if enrol { Ok(()) } else { Err(Reason::Learned) }
}

/// Enrols the socket, or counts why it could not be. `peer` is the other end, as far as it is known.
#[inline(always)]
fn enrol(ctx: &SockOpsContext, sock: Sock, function: FunctionEntry, pair: PairKey, peer: &PairEnd) {
    // An entry left by a socket whose programs were detached before it closed is overwritten.
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "by value it would be copied to the stack"
    )]
    let inserted = FLOWS.insert(sock.0, &EMPTY, u64::from(BPF_ANY));
    let Some(found) = FLOWS.get_ptr_mut(sock.0).filter(|_| inserted.is_ok()) else {
        account::left_to_tcp(function.id, Reason::FlowsFull);
        return;
    };
    // SAFETY: the socket's lock is held, and until it is in the sockhash no other program looks for its entry.
    let flow = unsafe { &mut *found };
    // SAFETY: the helper takes the context of a sock_ops program.
    flow.cookie = unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    flow.sock = sock.0;
    flow.established_ns = account::now();
    flow.pair = pair;
    flow.function = function.id;
    flow.sockets = function.sockets;
    flow.reason = Reason::Unpaired as u32;
    (flow.local_addr, flow.local_port) = local(ctx);
    (flow.remote_addr, flow.remote_port) = remote(ctx);
    flow.peer_cookie = peer.cookie;
    flow.peer_sock = peer.sock;
    flow.peer_function = peer.function;
    flow.destination = peer.destination;
    match publish(ctx, flow) {
        Ok(()) => {
            #[cfg(feature = "log")]
            aya_log_ebpf::info!(
                ctx,
                "socket {} of function {}: enrolled, role {}",
                flow.cookie,
                flow.function,
                flow.pair.role
            );
            account::event(EventKind::Enrolled, flow, 0);
        }
        Err(reason) => {
            #[cfg(feature = "log")]
            aya_log_ebpf::info!(
                ctx,
                "socket {} of function {}: reason {}",
                flow.cookie,
                flow.function,
                reason as u32
            );
            account::left_to_tcp(function.id, reason);
            account::event(EventKind::LeftToTcp, flow, reason as u32);
            let _ = FLOWS.remove(sock.0);
        }
    }
}

/// Offers the flow to its other end, and puts the socket into the sockhash. On failure neither is done.
#[inline(always)]
fn publish(ctx: &SockOpsContext, flow: &Flow) -> Result<(), Reason> {
    let end = PairEnd {
        key: flow.pair,
        function: flow.function,
        cookie: flow.cookie,
        sock: flow.sock,
        destination: flow.destination,
    };
    PAIRS
        .insert(flow.pair, end, u64::from(BPF_NOEXIST))
        .map_err(|_| Reason::FlowsFull)?;
    // SAFETY: the context is valid for the whole program, and nobody else borrows it.
    let ops: &mut bpf_sock_ops = unsafe { &mut *ctx.ops };
    let inserted = SOCKETS.update(flow.cookie, ops, u64::from(BPF_NOEXIST));
    // The flags belong to every sock_ops program of the socket: add, never overwrite.
    let watched =
        inserted.and_then(|()| ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32));
    watched.map_err(|errno| {
        let _ = PAIRS.remove(flow.pair);
        match -errno {
            E2BIG => Reason::SockhashFull,
            EBUSY => Reason::SocketBusy,
            _ => Reason::SocketRefused,
        }
    })
}

/// Takes the offer of one end of a pair: copied, proven to be the pair's own, and removed.
#[inline(always)]
pub fn take_end(key: &PairKey) -> Option<PairEnd> {
    let found = PAIRS.get_ptr(key)?;
    // SAFETY: a live map value. It may be freed and filled for another pair while we copy: its key, read last, tells.
    let end = unsafe { core::ptr::read_volatile(found) };
    // SAFETY: as above.
    let owner = unsafe { core::ptr::read_volatile(&raw const (*found).key) };
    if owner != *key || !confirmed(&end, key) {
        return None;
    }
    let _ = PAIRS.remove(key);
    Some(end)
}

/// Whether the flow of the end that an offer names is that of the pair.
///
/// Where loads and stores keep their order the offer's own key is proof enough; a processor that reorders them can show the key of one
/// pair with the fields of another (cwasi-ebpf-common/tests/model/pairing.rs).
#[inline(always)]
fn confirmed(end: &PairEnd, key: &PairKey) -> bool {
    // SAFETY: a live map value; what is read of one that goes away meanwhile does not match.
    unsafe { FLOWS.get(end.sock) }.is_some_and(|flow| flow.cookie == end.cookie && flow.pair == *key)
}

#[inline(always)]
fn remote(ctx: &SockOpsContext) -> (Addr, u32) {
    let (v4, v6) = (context!(ctx.remote_ip4), context!(ctx.remote_ip6[4]));
    // The context keeps the remote port in network order.
    (
        if ctx.family() == AF_INET {
            mapped(v4)
        } else {
            plain(v6)
        },
        u32::from_be(context!(ctx.remote_port)),
    )
}

#[inline(always)]
fn local(ctx: &SockOpsContext) -> (Addr, u32) {
    let (v4, v6) = (context!(ctx.local_ip4), context!(ctx.local_ip6[4]));
    (
        if ctx.family() == AF_INET {
            mapped(v4)
        } else {
            plain(v6)
        },
        context!(ctx.local_port),
    )
}

/// An IPv4 address in network order as IPv6-mapped.
#[inline(always)]
fn mapped(addr: u32) -> Addr {
    plain([0, 0, 0xffff_u32.to_be(), addr])
}

/// Four words in network order as bytes.
#[inline(always)]
fn plain(words: [u32; 4]) -> Addr {
    // SAFETY: sixteen bytes are sixteen bytes.
    unsafe { core::mem::transmute(words) }
}
