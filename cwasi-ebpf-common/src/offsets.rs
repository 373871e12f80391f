//! Where the running kernel keeps the fields that the programs read: user space takes them from the kernel's BTF and sets
//! them as read-only data before the load. Rust has no CO-RE relocations.

/// How the receiver's unread redirected bytes are measured, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum QueueMeasure {
    /// `psock->msg_tot_len`: exact (6.12.117, 6.18).
    MessageTotal = 1,
    /// `sk_backlog.rmem_alloc`, where redirection charges it (6.1 and later).
    ReceiveMemory = 2,
    /// Bytes since `psock->ingress_msg` was last seen empty (5.10): over-estimates when the queue never empties.
    SinceEmpty = 3,
}

impl QueueMeasure {
    /// Every measure, best first.
    pub const ALL: [Self; 3] = [Self::MessageTotal, Self::ReceiveMemory, Self::SinceEmpty];

    /// Name in `status` and in the labels of metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::MessageTotal => "msg_tot_len",
            Self::ReceiveMemory => "rmem_alloc",
            Self::SinceEmpty => "since_empty",
        }
    }
}

/// Offsets in bytes, from the start of the object named. 0 means that this kernel lacks the field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `struct sock`: `__sk_common.skc_cookie.counter`.
    pub sock_cookie: u32,
    /// `struct sock`: `sk_user_data`.
    pub sock_user_data: u32,
    /// `struct sock`: `sk_socket`.
    pub sock_socket: u32,
    /// `struct socket`: `file`.
    pub socket_file: u32,
    /// `struct file`: `f_flags`.
    pub file_flags: u32,
    /// `struct sock`: `sk_backlog.rmem_alloc.counter`.
    pub sock_rmem_alloc: u32,
    /// `struct sock`: `sk_cgrp_data.cgroup`.
    pub sock_cgroup: u32,
    /// `struct cgroup`: `kn`.
    pub cgroup_kn: u32,
    /// `struct kernfs_node`: `id`.
    pub kn_id: u32,
    /// `struct inet_connection_sock`: `icsk_ulp_ops`.
    pub icsk_ulp_ops: u32,
    /// `struct tcp_sock`: `write_seq`.
    pub tcp_write_seq: u32,
    /// `struct tcp_sock`: `copied_seq`.
    pub tcp_copied_seq: u32,
    /// `struct tcp_sock`: the byte that holds `nonagle`.
    pub tcp_nonagle: u32,
    /// Bits to shift that byte right by.
    pub tcp_nonagle_shift: u32,
    /// Mask of the bits of `nonagle` after the shift.
    pub tcp_nonagle_mask: u32,
    /// `struct sk_psock`: `msg_tot_len`.
    pub psock_msg_tot_len: u32,
    /// `struct sk_psock`: `ingress_msg`, a `struct list_head`.
    pub psock_ingress_msg: u32,
    /// The [`QueueMeasure`] in use.
    pub measure: u32,
}

#[cfg(feature = "user")]
const _: () = assert!(size_of::<Offsets>() == 18 * 4);
#[cfg(feature = "user")]
#[expect(
    unsafe_code,
    reason = "aya asks for the promise that the type is plain old data"
)]
// SAFETY: repr(C), u32 only, and the size assertion above leaves no room for padding.
unsafe impl aya::Pod for Offsets {}
