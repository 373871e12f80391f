//! One message at its sender: observe, decide, redirect. The decision is `cwasi_ebpf_common::redirect::decide`.

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::bindings::{BPF_F_INGRESS, BPF_TCP_CLOSE_WAIT, BPF_TCP_ESTABLISHED, sk_msg_md};
use aya_ebpf::programs::SkMsgContext;
use cwasi_ebpf_common::maps::{Config, Flow, ListenerKey, PairKey, Role, Sockets};
use cwasi_ebpf_common::memory::{Memory, PROMPT};
use cwasi_ebpf_common::offsets::QueueMeasure;
use cwasi_ebpf_common::reason::Reason;
use cwasi_ebpf_common::redirect::{Observe, State, Streak, Verdict, decide};

use crate::kernel::Sock;
use crate::maps::{CONFIG, FLOWS, LISTENERS, SOCKETS, offsets};
use crate::sock_ops::take_end;

/// Messages that are sent before the other end is given up: it pairs in the handshake, or with the first bytes it gets.
const PATIENCE: u64 = 64;
/// Messages of an accepted socket at which its mode is looked at.
const FIRST: u64 = 4;

/// Decides on one message, under the sender's lock.
#[inline(always)]
pub fn handle(ctx: SkMsgContext) {
    let Some(config) = CONFIG.get(0) else { return };
    // SAFETY: the context is valid for the whole program.
    let key = unsafe { sock_of(ctx.msg) };
    let Some(found) = FLOWS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: only this socket's own callbacks write or remove the entry, and they hold its lock as this program does.
    let flow = unsafe { &mut *found };
    find_peer(flow);
    check_accepted(flow);

    let bytes = ctx.size();
    let small_stream = is_small_stream(flow, config, bytes);

    let seen = Seen {
        flow,
        state: context_state(&ctx),
    };
    let state = State::from_value(flow.state);
    let verdict = decide(state, config, small_stream, &seen).and_then(|()| redirect(&ctx, flow.peer_cookie));
    match verdict {
        Ok(()) => {
            if state == State::Tcp {
                flow.state = State::Redirect as u32;
                flow.sent.to_redirect += 1;
                #[cfg(feature = "log")]
                aya_log_ebpf::debug!(&ctx, "socket {}: to redirect, {} bytes", flow.cookie, bytes);
            }
            flow.sent.redirect_messages += 1;
            flow.sent.redirect_bytes += u64::from(bytes);
            if offsets().measure == QueueMeasure::SinceEmpty as u32 {
                let queued = Sock(flow.peer_sock).queued(flow.since_empty).unwrap_or(0);
                flow.since_empty = queued.saturating_add(bytes);
            }
        }
        Err(reason) => {
            if state == State::Tcp && reason == Reason::EdgeTriggered {
                // Counted once, and remembered by it: see `Seen::reader`.
                flow.fallbacks[reason.index()] = 1;
            }
            if state == State::Redirect {
                flow.state = State::Tcp as u32;
                flow.sent.to_tcp += 1;
                flow.fallbacks[reason.index()] += 1;
                #[cfg(feature = "log")]
                aya_log_ebpf::debug!(
                    &ctx,
                    "socket {}: to TCP, reason {}, {} bytes",
                    flow.cookie,
                    reason as u32,
                    bytes
                );
            }
            flow.reason = reason as u32;
            flow.sent.tcp_messages += 1;
            flow.sent.tcp_bytes += u64::from(bytes);
        }
    }
}

/// The address of the message's socket, as a key.
///
/// # Safety
/// `msg` is the context of the running program.
#[inline(always)]
unsafe fn sock_of(msg: *mut sk_msg_md) -> u64 {
    // SAFETY: see above.
    unsafe { (*msg).__bindgen_anon_3.sk as u64 }
}

/// The TCP state of the message's socket.
#[inline(always)]
fn context_state(ctx: &SkMsgContext) -> u32 {
    // SAFETY: the context is valid for the whole program, and a message always has a socket.
    unsafe { (*(*ctx.msg).__bindgen_anon_3.sk).state }
}

/// The active end learns of its peer here, with the first message that finds the peer's offer.
#[inline(always)]
fn find_peer(flow: &mut Flow) {
    if flow.peer_cookie != 0 || flow.sent.tcp_messages >= PATIENCE {
        return;
    }
    let key = PairKey {
        role: Role::Passive as u32,
        ..flow.pair
    };
    if let Some(end) = take_end(&key) {
        flow.peer_cookie = end.cookie;
        flow.peer_sock = end.sock;
        flow.peer_function = end.function;
    }
}

/// An accepted socket shows with its first messages whether it blocks after all: then its listener's later ones are left alone.
#[inline(always)]
fn check_accepted(flow: &Flow) {
    let messages = flow.sent.redirect_messages + flow.sent.tcp_messages;
    let detect = flow.pair.role == Role::Passive as u32 && flow.sockets != Sockets::All as u32;
    if !detect || messages >= FIRST || Sock(flow.sock).non_blocking() != Some(false) {
        return;
    }
    let key = ListenerKey {
        function: flow.function,
        port: flow.local_port,
    };
    if let Some(listener) = LISTENERS.get_ptr_mut(key) {
        // SAFETY: a live map value, and every writer of the field writes the same.
        unsafe { (*listener).blocking = 1 };
    }
}

/// Keeps the streak of small writes, and tells whether this message is part of a stream of them.
#[inline(always)]
fn is_small_stream(flow: &mut Flow, config: &Config, bytes: u32) -> bool {
    if bytes >= config.small_write {
        flow.streak = 0;
        return false;
    }
    let nagle = Sock(flow.sock).nagle();
    let answered = answered(flow);
    let streak = Streak::after(flow.streak, config, bytes, nagle, answered);
    flow.streak = streak.length;
    let stream = streak.is_stream(config);
    if stream {
        flow.small_messages += 1;
    }
    stream
}

/// Whether the peer has sent something since this end last asked.
#[inline(always)]
fn answered(flow: &mut Flow) -> bool {
    if flow.peer_sock == 0 {
        return true;
    }
    // SAFETY: the peer's counters may change while they are read, or be another socket's: a wrong answer costs a message its path.
    let Some(peer) = (unsafe { FLOWS.get(flow.peer_sock) }) else {
        return true;
    };
    let messages = peer.sent.redirect_messages + peer.sent.tcp_messages;
    let answered = messages != flow.peer_messages;
    flow.peer_messages = messages;
    answered
}

/// Hands the message to the peer's socket.
#[inline(always)]
fn redirect(ctx: &SkMsgContext, peer: u64) -> Result<(), Reason> {
    // A miss is SK_DROP with nothing done: the socket left the sockhash because it is closing.
    if SOCKETS.redirect_msg(ctx, peer, u64::from(BPF_F_INGRESS)) == i64::from(SK_PASS) {
        Ok(())
    } else {
        Err(Reason::Closing)
    }
}

/// What the kernel says about the two sockets of a flow.
struct Seen<'a> {
    flow: &'a Flow,
    /// TCP state of the sender.
    state: u32,
}

impl Observe for Seen<'_> {
    #[inline(always)]
    fn sending(&self) -> bool {
        matches!(self.state, BPF_TCP_ESTABLISHED | BPF_TCP_CLOSE_WAIT)
    }

    #[inline(always)]
    fn peer(&self) -> Result<(), Reason> {
        match self.flow.peer_cookie {
            0 => Err(Reason::Unpaired),
            cookie if Sock(self.flow.peer_sock).cookie() == Some(cookie) => Ok(()),
            _ => Err(Reason::Closing),
        }
    }

    #[inline(always)]
    fn upper_layer(&self) -> bool {
        Sock(self.flow.sock).upper_layer() || Sock(self.flow.peer_sock).upper_layer()
    }

    #[inline(always)]
    fn queued(&self) -> Option<u32> {
        Sock(self.flow.peer_sock).queued(self.flow.since_empty)
    }

    #[inline(always)]
    fn scarce(&self, queued: u32) -> bool {
        let receiver = Sock(self.flow.peer_sock);
        // The sender's protocol is TCP as the receiver's is, and its socket is there for sure.
        Sock(self.flow.sock).memory().is_none_or(Memory::is_scarce)
            || receiver.cgroup_is_full(queued > PROMPT)
    }

    #[inline(always)]
    fn drained(&self) -> bool {
        match (
            Sock(self.flow.sock).write_seq(),
            Sock(self.flow.peer_sock).copied_seq(),
        ) {
            (Some(written), Some(consumed)) => written == consumed,
            _ => false,
        }
    }

    #[inline(always)]
    fn reader(&self) -> Verdict {
        if self.flow.fallbacks[Reason::EdgeTriggered.index()] != 0 {
            return Err(Reason::EdgeTriggered);
        }
        // SAFETY: the entry goes with the peer's socket, and then what is read of it matters no more: the redirect misses.
        let vouched =
            unsafe { FLOWS.get(self.flow.peer_sock) }.is_some_and(|peer| peer.sockets == Sockets::All as u32);
        if vouched {
            Ok(())
        } else {
            Sock(self.flow.peer_sock).reader()
        }
    }
}
