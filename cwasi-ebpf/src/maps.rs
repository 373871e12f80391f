//! The maps and the read-only data of the programs. Shapes are in `cwasi_ebpf_common::maps`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash};
use aya_ebpf::macros::btf_map;
use cwasi_ebpf_common::learn::Record;
use cwasi_ebpf_common::maps::{
    Addr, Config, Destination, EVENT_RING_BYTES, Flow, FunctionEntry, Listener, ListenerKey, MAX_FUNCTIONS,
    MAX_LEARNED, MAX_LISTENERS, MAX_LOCALITY, MAX_SOCKETS, MAX_TRAFFIC, PairEnd, PairKey, TrafficEntry,
    TrafficKey,
};
use cwasi_ebpf_common::offsets::{MemoryOffsets, Offsets, WaitOffsets};

/// Entries are allocated when they are needed: an idle node pays for none.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static FUNCTIONS: HashMap<u64, FunctionEntry, { MAX_FUNCTIONS as usize }, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static LOCALITY: LpmTrie<Addr, u32, { MAX_LOCALITY as usize }> = LpmTrie::new();

#[btf_map]
pub static PAIRS: HashMap<PairKey, PairEnd, { MAX_SOCKETS as usize }, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static SOCKETS: SockHash<u64, { MAX_SOCKETS as usize }> = SockHash::new();

#[btf_map]
pub static FLOWS: HashMap<u64, Flow, { MAX_SOCKETS as usize }, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static TRAFFIC: HashMap<TrafficKey, TrafficEntry, { MAX_TRAFFIC as usize }, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static LISTENERS: LruHashMap<ListenerKey, Listener, { MAX_LISTENERS as usize }> = LruHashMap::new();

#[btf_map]
pub static LEARNED: LruHashMap<Destination, Record, { MAX_LEARNED as usize }> = LruHashMap::new();

#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();

#[btf_map]
pub static EVENTS: RingBuf<(), { EVENT_RING_BYTES as usize }> = RingBuf::new();

#[btf_map]
pub static LOST_EVENTS: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Set by user space before the load.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    sock_cookie: 0,
    sock_user_data: 0,
    sock_socket: 0,
    socket_file: 0,
    file_flags: 0,
    sock_rmem_alloc: 0,
    sock_cgroup: 0,
    cgroup_kn: 0,
    kn_id: 0,
    icsk_ulp_ops: 0,
    tcp_write_seq: 0,
    tcp_copied_seq: 0,
    tcp_nonagle: 0,
    tcp_nonagle_shift: 0,
    tcp_nonagle_mask: 0,
    psock_msg_tot_len: 0,
    psock_ingress_msg: 0,
    measure: 0,
};

/// Set by user space before the load.
#[unsafe(no_mangle)]
static WAIT_OFFSETS: WaitOffsets = WaitOffsets {
    sock_wq: 0,
    wq_head: 0,
    wq_list: 0,
    epoll_link: 0,
    epoll_head: 0,
    epoll_base: 0,
    epitem_file: 0,
    epitem_events: 0,
    poll_link: 0,
    poll_head: 0,
    poll_file: 0,
    poll_events: 0,
};

/// Set by user space before the load.
#[unsafe(no_mangle)]
static MEMORY_OFFSETS: MemoryOffsets = MemoryOffsets {
    sock_prot: 0,
    proto_memory_allocated: 0,
    proto_sysctl_mem: 0,
    sock_memcg: 0,
    memcg_memory: 0,
    counter_usage: 0,
    counter_max: 0,
    counter_parent: 0,
    memcg_nodes: 0,
    node_lru: 0,
    zones: 0,
    node_generations: 0,
    generations: 0,
};

/// The offsets of the running kernel. The verifier sees constants: what a kernel lacks is dead code there.
#[inline(always)]
pub fn offsets() -> Offsets {
    // SAFETY: a valid static; volatile, because the loader replaces what the compiler knows of it.
    unsafe { core::ptr::read_volatile(&raw const OFFSETS) }
}

/// Where the running kernel keeps who waits on a socket, `None` where that is not known.
#[inline(always)]
pub fn wait_offsets() -> Option<WaitOffsets> {
    // SAFETY: as above.
    let offsets = unsafe { core::ptr::read_volatile(&raw const WAIT_OFFSETS) };
    (offsets.sock_wq != 0).then_some(offsets)
}

/// Where the running kernel keeps account of memory.
#[inline(always)]
pub fn memory_offsets() -> MemoryOffsets {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const MEMORY_OFFSETS) }
}
