//! What is remembered of a connection when it ends, or is left to TCP: traffic sums, gains, events.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::{BPF_NOEXIST, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use cwasi_ebpf_common::learn::Sent;
use cwasi_ebpf_common::maps::{Event, EventKind, Flow, Role, TrafficEntry, TrafficKey};
use cwasi_ebpf_common::reason::{REASONS, Reason};

use crate::maps::{EVENTS, LEARNED, LOST_EVENTS, TRAFFIC};

/// An all-zero entry in read-only data: 192 bytes that need not fit on the stack.
static EMPTY: TrafficEntry = TrafficEntry::EMPTY;

/// Nanoseconds since boot.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes no arguments and touches no memory.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn add(counter: *mut u64, value: u64) {
    // SAFETY: points into a map value, which stays allocated until this program ends; other CPUs add atomically too.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

#[inline(always)]
fn traffic(key: TrafficKey) -> Option<*mut TrafficEntry> {
    if let Some(entry) = TRAFFIC.get_ptr_mut(key) {
        return Some(entry);
    }
    // Another CPU may be first, or the map may be full: the look-up that follows tells.
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "by value it would be copied to the stack"
    )]
    let _ = TRAFFIC.insert(key, &EMPTY, u64::from(BPF_NOEXIST));
    TRAFFIC
        .get_ptr_mut(key)
        .or_else(|| TRAFFIC.get_ptr_mut(TrafficKey::OTHER))
}

/// Counts a connection of `function` that is left to TCP.
#[inline(always)]
pub fn left_to_tcp(function: u32, reason: Reason) {
    if let Some(entry) = traffic(TrafficKey {
        src: function,
        dst: 0,
    }) {
        // SAFETY: a live map value, and the index of a reason is within the array.
        add(unsafe { &raw mut (*entry).fallbacks[reason.index()] }, 1);
    }
}

/// Adds a closed flow to the sums of its functions.
#[inline(never)]
pub fn closed(flow: &Flow) {
    let Some(entry) = traffic(TrafficKey {
        src: flow.function,
        dst: flow.peer_function,
    }) else {
        return;
    };
    // SAFETY: a live map value.
    unsafe {
        add(
            &raw mut (*entry).sent.redirect_messages,
            flow.sent.redirect_messages,
        );
        add(&raw mut (*entry).sent.redirect_bytes, flow.sent.redirect_bytes);
        add(&raw mut (*entry).sent.tcp_messages, flow.sent.tcp_messages);
        add(&raw mut (*entry).sent.tcp_bytes, flow.sent.tcp_bytes);
        add(&raw mut (*entry).sent.to_redirect, flow.sent.to_redirect);
        add(&raw mut (*entry).sent.to_tcp, flow.sent.to_tcp);
        add(&raw mut (*entry).connections, 1);
    }
    for reason in 0..REASONS {
        let count = flow.fallbacks[reason];
        if count != 0 {
            // SAFETY: a live map value, and the loop stays within the array.
            add(unsafe { &raw mut (*entry).fallbacks[reason] }, u64::from(count));
        }
    }
}

/// Adds what a closed flow gained to the record of its destination.
#[inline(always)]
pub fn learn(flow: &Flow) {
    let sent = Sent {
        redirected: flow.sent.redirect_messages,
        small: flow.small_messages,
    };
    let active = flow.pair.role == Role::Active as u32;
    // SAFETY: the record may be replaced while it is read; it is a hint, and any mix of two records is one too.
    let record = unsafe { LEARNED.get(flow.destination) }
        .copied()
        .unwrap_or_default();
    let next = if active {
        record.closed_active(sent)
    } else {
        record.closed_passive(sent)
    };
    // A full LRU map evicts: what is lost is learned again.
    let _ = LEARNED.insert(flow.destination, next, 0);
}

/// Tells user space about a flow. Nobody is woken: the agent looks when it is its time.
#[inline(never)]
pub fn event(kind: EventKind, flow: &Flow, reason: u32) {
    let Some(mut entry) = EVENTS.reserve_untyped::<Event>(0) else {
        if let Some(lost) = LOST_EVENTS.get_ptr_mut(0) {
            // SAFETY: a live per-CPU map value.
            add(lost, 1);
        }
        return;
    };
    // SAFETY: reserved memory of this size; every field is written before it is submitted.
    let event = unsafe { &mut *entry.as_mut_ptr() };
    event.kind = kind as u32;
    event.reason = reason;
    event.ns = now();
    event.cookie = flow.cookie;
    event.function = flow.function;
    event.peer_function = flow.peer_function;
    event.local_addr = flow.local_addr;
    event.remote_addr = flow.remote_addr;
    event.local_port = flow.local_port;
    event.remote_port = flow.remote_port;
    event.sent = flow.sent;
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}
