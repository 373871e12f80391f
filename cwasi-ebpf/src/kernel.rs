//! Reads of kernel memory, by the offsets of the running kernel. Every read may fail: a stale address is an answer, not a fault.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use cwasi_ebpf_common::memory::{DEPTH, Limit, Memory, make_room};
use cwasi_ebpf_common::offsets::{KINDS, LISTS, MemoryOffsets, Offsets, QueueMeasure, WaitOffsets};
use cwasi_ebpf_common::reader::{MOST_WAITERS, Waiter, Waiters};
use cwasi_ebpf_common::redirect::Verdict;

use crate::maps::{memory_offsets, offsets, wait_offsets};

/// The file flag of x86-64, arm64 and riscv64.
const O_NONBLOCK: u32 = 0o4000;
/// `TCP_NAGLE_OFF` of `struct tcp_sock`'s `nonagle`: TCP_NODELAY is set.
const TCP_NAGLE_OFF: u8 = 1;
/// Low bits of `sk_memcg` that are flags (`SK_BPF_MEMCG_FLAG_MASK`, later than 6.18; pointers leave them 0).
const MEMCG_FLAGS: u64 = 7;
/// Place of the list of inactive pages of files among the lists of a zone; that of the active ones follows.
const INACTIVE_FILE: u32 = 2;
/// Place of the pages of files among the kinds of a generation.
const OF_FILES: u32 = 1;
/// Size of a `long`.
const LONG: u32 = 8;
/// Zones that are looked at.
const MOST_ZONES: u32 = 8;
/// Generations that are looked at.
const MOST_GENERATIONS: u32 = 4;
/// Low bits of `sk_user_data` that are flags (`SK_USER_DATA_PTRMASK`; two bits before 6.0, which pointers leave 0 too).
const USER_DATA_FLAGS: u64 = 7;

/// Address of a `struct sock`.
#[derive(Clone, Copy)]
pub struct Sock(pub u64);

/// What is at an address of the kernel's, which all have their highest bit set: where a CPU can do 57-bit addresses and the kernel does
/// not, 5.10 warns of itself at a read of what is neither the kernel's nor a process's.
#[inline(always)]
fn read<T: Copy>(base: u64, offset: u32) -> Option<T> {
    if base >> 63 == 0 {
        return None;
    }
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
        let flags: u32 = read(self.file()?, offsets().file_flags)?;
        Some(flags & O_NONBLOCK != 0)
    }

    /// Address of the socket's `struct file`; `None` when it has none: not accepted yet, or closed.
    #[inline(always)]
    fn file(self) -> Option<u64> {
        let offsets = offsets();
        let socket: u64 = read(self.0, offsets.sock_socket)?;
        read(socket, offsets.socket_file).filter(|file| *file != 0)
    }

    /// Whether the socket's reader is seen to wait in a way that redirection may begin.
    ///
    /// The wait queue may change meanwhile: what is read of an entry that is gone names neither the queue nor the file, and a walk
    /// that does not come back to the head was not complete.
    #[inline(always)]
    pub fn reader(self) -> Verdict {
        let mut seen = Waiters::default();
        let queue = wait_offsets().and_then(|offsets| Queue::of(self, offsets));
        let Some(queue) = queue else {
            return seen.verdict(false);
        };
        let end = queue.head + u64::from(queue.offsets.wq_list - queue.offsets.wq_head);
        let mut link = end;
        for _ in 0..=MOST_WAITERS {
            let Some(next) = read::<u64>(link, 0) else { break };
            if next == end {
                return seen.verdict(true);
            }
            seen = seen.and(queue.waiter(next));
            link = next;
        }
        seen.verdict(false)
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

    /// The machine's memory for the socket's protocol.
    #[inline(always)]
    pub fn memory(self) -> Option<Memory> {
        let offsets = memory_offsets();
        let protocol: u64 = read(self.0, offsets.sock_prot)?;
        let allocated: u64 = read(protocol, offsets.proto_memory_allocated)?;
        let limits: u64 = read(protocol, offsets.proto_sysctl_mem)?;
        let [free, pressure] = read(limits, 0)?;
        Some(Memory {
            allocated: read(allocated, 0)?,
            free,
            pressure,
        })
    }

    /// Whether a message could be one too many for the cgroup that the socket's memory is charged to, or for those above where the
    /// socket is `lagging`. A socket of none has none.
    #[inline(always)]
    pub fn cgroup_is_full(self, lagging: bool) -> bool {
        let offsets = memory_offsets();
        let Some(memcg) = self.memcg(&offsets) else {
            return false;
        };
        let mut counter = memcg + u64::from(offsets.memcg_memory);
        for _ in 0..DEPTH {
            let (Some(used), Some(most)) = (
                read(counter, offsets.counter_usage),
                read(counter, offsets.counter_max),
            ) else {
                return false;
            };
            if (Limit { used, most }).is_near() {
                return lagging || !make_room(files(memcg, &offsets));
            }
            if !lagging {
                return false;
            }
            match read(counter, offsets.counter_parent) {
                Some(parent) if parent != 0 => counter = parent,
                _ => return false,
            }
        }
        false
    }

    /// Address of the `struct mem_cgroup` that the socket's memory is charged to.
    #[inline(always)]
    fn memcg(self, offsets: &MemoryOffsets) -> Option<u64> {
        if offsets.sock_memcg == 0 {
            return None;
        }
        match read::<u64>(self.0, offsets.sock_memcg)? & !MEMCG_FLAGS {
            0 => None,
            memcg => Some(memcg),
        }
    }

    #[inline(always)]
    fn psock(self, offsets: &Offsets) -> Option<u64> {
        match read::<u64>(self.0, offsets.sock_user_data)? & !USER_DATA_FLAGS {
            0 => None,
            psock => Some(psock),
        }
    }
}

/// Pages of files that a cgroup has on the first node, which it can do without. They are in lists, or in generations.
#[inline(always)]
fn files(memcg: u64, offsets: &MemoryOffsets) -> i64 {
    let node = read::<u64>(memcg, offsets.memcg_nodes).unwrap_or(0);
    let zones = offsets.zones.min(MOST_ZONES);
    let mut pages = 0;
    for zone in 0..zones {
        let lists = offsets.node_lru + (zone * LISTS + INACTIVE_FILE) * LONG;
        let [inactive, active] = read::<[i64; 2]>(node, lists).unwrap_or_default();
        pages += inactive + active;
    }
    for generation in 0..offsets.generations.min(MOST_GENERATIONS) {
        for zone in 0..zones {
            let at = (generation * KINDS + OF_FILES) * offsets.zones + zone;
            pages += read::<i64>(node, offsets.node_generations + at * LONG).unwrap_or(0);
        }
    }
    pages
}

/// Who waits on a socket.
struct Queue {
    offsets: WaitOffsets,
    /// Address of the `wait_queue_head_t`.
    head: u64,
    /// Address of the socket's `struct file`.
    file: u64,
}

impl Queue {
    #[inline(always)]
    fn of(sock: Sock, offsets: WaitOffsets) -> Option<Self> {
        let queue: u64 = read(sock.0, offsets.sock_wq)?;
        Some(Self {
            head: queue + u64::from(offsets.wq_head),
            file: sock.file()?,
            offsets,
        })
    }

    /// What an entry is, by its place in the list.
    #[inline(always)]
    fn waiter(&self, link: u64) -> Waiter {
        let offsets = &self.offsets;
        // First, for the head of one of these is where that of the other kind would be, and what would be its item is no address.
        let poll = link.wrapping_sub(u64::from(offsets.poll_link));
        if read(poll, offsets.poll_head) == Some(self.head)
            && read(poll, offsets.poll_file) == Some(self.file)
            && let Some(events) = read(poll, offsets.poll_events)
        {
            return Waiter::Poll(events);
        }
        let epoll = link.wrapping_sub(u64::from(offsets.epoll_link));
        if read(epoll, offsets.epoll_head) == Some(self.head)
            && let Some(item) = read::<u64>(epoll, offsets.epoll_base)
            && read(item, offsets.epitem_file) == Some(self.file)
            && let Some(events) = read(item, offsets.epitem_events)
        {
            return Waiter::Epoll(events);
        }
        Waiter::Other
    }
}
