//! Reads of kernel memory, by the offsets of the running kernel. Every read may fail: a stale address is an answer, not a fault.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use cwasi_ebpf_common::offsets::{Offsets, QueueMeasure};

use crate::maps::offsets;

/// The file flag of x86-64, arm64 and riscv64.
const O_NONBLOCK: u32 = 0o4000;
/// `TCP_NAGLE_OFF` of `struct tcp_sock`'s `nonagle`: TCP_NODELAY is set.
const TCP_NAGLE_OFF: u8 = 1;
/// Low bits of `sk_user_data` that are flags (`SK_USER_DATA_PTRMASK`; two bits before 6.0, which pointers leave 0 too).
const USER_DATA_FLAGS: u64 = 7;

/// Address of a `struct sock`.
#[derive(Clone, Copy)]
pub struct Sock(pub u64);

#[inline(always)]
fn read<T: Copy>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: bpf_probe_read_kernel takes any address and fails on those that are not mapped.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// The number behind a pointer that the verifier does not let us add to.
#[inline(always)]
pub fn address_of<T>(pointer: *const T) -> Option<u64> {
    let on_stack = pointer as u64;
    // SAFETY: reads eight bytes of this program's own stack; what the helper copies is a number to the verifier.
    unsafe { bpf_probe_read_kernel(core::ptr::from_ref(&on_stack)) }.ok()
}

impl Sock {
    /// The socket's cookie, 0 when it has none; `None` when the address holds no memory any more.
    #[inline(always)]
    pub fn cookie(self) -> Option<u64> {
        read(self.0, offsets().sock_cookie)
    }

    /// Whether reads of the socket return at once (`O_NONBLOCK`); `None` when the socket has no file any more.
    #[inline(always)]
    pub fn non_blocking(self) -> Option<bool> {
        let offsets = offsets();
        let file = read::<u64>(self.0, offsets.sock_socket)
            .and_then(|socket| read::<u64>(socket, offsets.socket_file));
        let flags = file.and_then(|file| read::<u32>(file, offsets.file_flags));
        flags.map(|flags| flags & O_NONBLOCK != 0)
    }

    /// Id of the cgroup that the socket was created in (accepted sockets: their listener).
    #[inline(always)]
    pub fn cgroup_id(self) -> Option<u64> {
        let offsets = offsets();
        let cgroup: u64 = read(self.0, offsets.sock_cgroup)?;
        let node: u64 = read(cgroup, offsets.cgroup_kn)?;
        read(node, offsets.kn_id)
    }

    /// Sequence number after the last byte that the application handed to TCP.
    #[inline(always)]
    pub fn write_seq(self) -> Option<u32> {
        read(self.0, offsets().tcp_write_seq)
    }

    /// Sequence number after the last byte that the application took from TCP.
    #[inline(always)]
    pub fn copied_seq(self) -> Option<u32> {
        read(self.0, offsets().tcp_copied_seq)
    }

    /// Whether an upper layer protocol is set; `true` where it cannot be told.
    #[inline(always)]
    pub fn upper_layer(self) -> bool {
        read::<u64>(self.0, offsets().icsk_ulp_ops) != Some(0)
    }

    /// Whether Nagle's algorithm is on.
    #[inline(always)]
    pub fn nagle(self) -> bool {
        let offsets = offsets();
        match read::<u8>(self.0, offsets.tcp_nonagle) {
            Some(byte) => {
                (byte >> (offsets.tcp_nonagle_shift & 7)) & offsets.tcp_nonagle_mask as u8 & TCP_NAGLE_OFF
                    == 0
            }
            None => false,
        }
    }

    /// Unread redirected bytes; `since_empty` is what was redirected since the queue was last seen empty.
    #[inline(always)]
    pub fn queued(self, since_empty: u32) -> Option<u32> {
        let offsets = offsets();
        if offsets.measure == QueueMeasure::ReceiveMemory as u32 {
            return read(self.0, offsets.sock_rmem_alloc);
        }
        let psock = self.psock(&offsets)?;
        if offsets.measure == QueueMeasure::MessageTotal as u32 {
            return read(psock, offsets.psock_msg_tot_len);
        }
        let head = psock + u64::from(offsets.psock_ingress_msg);
        let first: u64 = read(head, 0)?;
        Some(if first == head { 0 } else { since_empty })
    }

    #[inline(always)]
    fn psock(self, offsets: &Offsets) -> Option<u64> {
        match read::<u64>(self.0, offsets.sock_user_data)? & !USER_DATA_FLAGS {
            0 => None,
            psock => Some(psock),
        }
    }
}
