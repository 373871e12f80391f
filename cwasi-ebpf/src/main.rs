//! The eBPF programs of cwasi's data plane.
//!
//! [`sock_ops`] pairs the two ends of a connection and enrols them, [`sk_msg`] moves messages from one end to the other.
//! What they decide is in `cwasi-ebpf-common`, where the host can test it; here is what only the kernel can do.
#![no_std]
#![no_main]
// The target has no compare-and-swap, hence no `AtomicU64::fetch_add`; BPF's atomic add is the intrinsic.
#![feature(core_intrinsics)]
#![allow(
    internal_features,
    reason = "see above: the intrinsic has no stable form for this target"
)]

mod account;
mod kernel;
mod maps;
mod sk_msg;
mod sock_ops;

use aya_ebpf::macros::{sk_msg as sk_msg_program, sock_ops as sock_ops_program};
use aya_ebpf::programs::{SkMsgContext, SockOpsContext};

/// Enrols the connections of the cgroup it is attached to. The return value means nothing to the kernel.
#[sock_ops_program]
pub fn cwasi_sock_ops(ctx: SockOpsContext) -> u32 {
    sock_ops::handle(&ctx);
    1
}

/// Redirects a message, or lets it pass to TCP. It never drops one: a guest would see EACCES.
#[sk_msg_program]
pub fn cwasi_sk_msg(ctx: SkMsgContext) -> u32 {
    sk_msg::handle(ctx);
    aya_ebpf::bindings::sk_action::SK_PASS
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier rejects a program in which this can be reached.
    unsafe { core::hint::unreachable_unchecked() }
}

// bpf_probe_read_kernel and ring buffers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
