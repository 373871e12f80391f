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

/// Where a socket's wait queue tells who waits on it, and how. Offsets in bytes; all 0 where the kernel's BTF lacks one of them.
///
/// The entries of a wait queue are parts of larger structs, of which nothing says what they are. An entry is taken for one of a
/// kind when that struct names both this wait queue and the socket's own file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct WaitOffsets {
    /// `struct sock`: `sk_wq`.
    pub sock_wq: u32,
    /// `struct socket_wq`: `wait`, a `wait_queue_head_t`.
    pub wq_head: u32,
    /// `struct socket_wq`: `wait.head`, the list of entries.
    pub wq_list: u32,
    /// `struct eppoll_entry`: `wait.entry`, its place in that list.
    pub epoll_link: u32,
    /// `struct eppoll_entry`: `whead`.
    pub epoll_head: u32,
    /// `struct eppoll_entry`: `base`, a `struct epitem`.
    pub epoll_base: u32,
    /// `struct epitem`: `ffd.file`.
    pub epitem_file: u32,
    /// `struct epitem`: `event.events`.
    pub epitem_events: u32,
    /// `struct poll_table_entry`: `wait.entry`, its place in that list.
    pub poll_link: u32,
    /// `struct poll_table_entry`: `wait_address`.
    pub poll_head: u32,
    /// `struct poll_table_entry`: `filp`.
    pub poll_file: u32,
    /// `struct poll_table_entry`: `key`, the events waited for.
    pub poll_events: u32,
}

/// Lists of pages in a zone (`NR_LRU_LISTS`).
pub const LISTS: u32 = 5;
/// Kinds of pages in a generation (`ANON_AND_FILE`): those of none, those of files.
pub const KINDS: u32 = 2;

/// Where the kernel keeps account of the memory of TCP and of cgroups. Offsets in bytes; `sock_memcg` is 0 where there is no account of
/// cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemoryOffsets {
    /// `struct sock`: `__sk_common.skc_prot`, a `struct proto`.
    pub sock_prot: u32,
    /// `struct proto`: `memory_allocated`, a pointer to an `atomic_long_t`.
    pub proto_memory_allocated: u32,
    /// `struct proto`: `sysctl_mem`, a pointer to three `long`.
    pub proto_sysctl_mem: u32,
    /// `struct sock`: `sk_memcg`, a `struct mem_cgroup` (`CONFIG_MEMCG`).
    pub sock_memcg: u32,
    /// `struct mem_cgroup`: `memory`, a `struct page_counter`.
    pub memcg_memory: u32,
    /// `struct page_counter`: `usage.counter`.
    pub counter_usage: u32,
    /// `struct page_counter`: `max`.
    pub counter_max: u32,
    /// `struct page_counter`: `parent`.
    pub counter_parent: u32,
    /// `struct mem_cgroup`: `nodeinfo`, pointers to `struct mem_cgroup_per_node`.
    pub memcg_nodes: u32,
    /// `struct mem_cgroup_per_node`: `lru_zone_size`, pages in each list of each zone.
    pub node_lru: u32,
    /// Number of zones, 0 where it is not known.
    pub zones: u32,
    /// `struct mem_cgroup_per_node`: `lruvec.lrugen.nr_pages`, pages of each generation, of none and of files, in each zone (6.1,
    /// `CONFIG_LRU_GEN`).
    pub node_generations: u32,
    /// Number of generations, 0 where there are none.
    pub generations: u32,
}

#[cfg(feature = "user")]
const _: () = assert!(size_of::<Offsets>() == 18 * 4);
#[cfg(feature = "user")]
const _: () = assert!(size_of::<WaitOffsets>() == 12 * 4 && size_of::<MemoryOffsets>() == 13 * 4);
#[cfg(feature = "user")]
#[expect(
    unsafe_code,
    reason = "aya asks for the promise that the type is plain old data"
)]
// SAFETY: repr(C), u32 only, and the size assertion above leaves no room for padding.
unsafe impl aya::Pod for Offsets {}
#[cfg(feature = "user")]
#[expect(
    unsafe_code,
    reason = "aya asks for the promise that the type is plain old data"
)]
// SAFETY: as above.
unsafe impl aya::Pod for WaitOffsets {}
#[cfg(feature = "user")]
#[expect(
    unsafe_code,
    reason = "aya asks for the promise that the type is plain old data"
)]
// SAFETY: as above.
unsafe impl aya::Pod for MemoryOffsets {}
