//! The offsets that the programs need, taken from the kernel's BTF.

use cwasi_ebpf_common::offsets::{KINDS, LISTS, MemoryOffsets, Offsets, QueueMeasure, WaitOffsets};

use super::btf::{Btf, Member};
use super::error::PlaneError;

/// Finds the offsets in the running kernel, for a way to measure the peer's queue.
///
/// # Errors
/// The kernel has no BTF, or lacks a field without which nothing may be redirected.
pub(super) fn offsets(btf: &Btf, measure: QueueMeasure) -> Result<Offsets, PlaneError> {
    let nonagle = member(btf, "tcp_sock", "nonagle")?;
    let offsets = Offsets {
        sock_cookie: bytes(btf, "sock", "__sk_common.skc_cookie")?,
        sock_user_data: bytes(btf, "sock", "sk_user_data")?,
        sock_socket: bytes(btf, "sock", "sk_socket")?,
        socket_file: bytes(btf, "socket", "file")?,
        file_flags: bytes(btf, "file", "f_flags")?,
        sock_rmem_alloc: bytes(btf, "sock", "sk_backlog.rmem_alloc")?,
        // Up to 5.10.218 the pointer shares its place with a tagged `val`: a tagged one is no address, and fails to be read.
        sock_cgroup: bytes(btf, "sock", "sk_cgrp_data.cgroup")
            .or_else(|_| bytes(btf, "sock", "sk_cgrp_data.val"))?,
        cgroup_kn: bytes(btf, "cgroup", "kn")?,
        kn_id: bytes(btf, "kernfs_node", "id")?,
        icsk_ulp_ops: bytes(btf, "inet_connection_sock", "icsk_ulp_ops")?,
        tcp_write_seq: bytes(btf, "tcp_sock", "write_seq")?,
        tcp_copied_seq: bytes(btf, "tcp_sock", "copied_seq")?,
        tcp_nonagle: nonagle.bit_offset / 8,
        tcp_nonagle_shift: nonagle.bit_offset % 8,
        tcp_nonagle_mask: mask(nonagle.bitfield_bits),
        psock_msg_tot_len: optional(btf, "sk_psock", "msg_tot_len"),
        psock_ingress_msg: bytes(btf, "sk_psock", "ingress_msg")?,
        measure: measure as u32,
    };
    match measure {
        QueueMeasure::MessageTotal if offsets.psock_msg_tot_len == 0 => Err(PlaneError::MissingField {
            field: "sk_psock.msg_tot_len".to_owned(),
        }),
        _ => Ok(offsets),
    }
}

/// Finds where the running kernel keeps account of the memory of TCP and of cgroups.
///
/// # Errors
/// The kernel's BTF lacks the account of TCP.
pub(super) fn memory_offsets(btf: &Btf) -> Result<MemoryOffsets, PlaneError> {
    let node = "mem_cgroup_per_node";
    let (lists, generations) = ("lru_zone_size", "lruvec.lrugen.nr_pages");
    let zones = btf.length(node, lists).map_or(0, |length| length / LISTS);
    Ok(MemoryOffsets {
        sock_prot: bytes(btf, "sock", "__sk_common.skc_prot")?,
        proto_memory_allocated: bytes(btf, "proto", "memory_allocated")?,
        proto_sysctl_mem: bytes(btf, "proto", "sysctl_mem")?,
        sock_memcg: optional(btf, "sock", "sk_memcg"),
        memcg_memory: optional(btf, "mem_cgroup", "memory"),
        counter_usage: optional(btf, "page_counter", "usage"),
        counter_max: optional(btf, "page_counter", "max"),
        counter_parent: optional(btf, "page_counter", "parent"),
        memcg_nodes: optional(btf, "mem_cgroup", "nodeinfo"),
        node_lru: optional(btf, node, lists),
        zones,
        node_generations: optional(btf, node, generations),
        generations: btf
            .length(node, generations)
            .and_then(|length| length.checked_div(KINDS * zones))
            .unwrap_or(0),
    })
}

/// Finds where the running kernel keeps who waits on a socket.
///
/// # Errors
/// The kernel's BTF lacks a field: nobody can be seen to wait then, and only functions that their launchers vouch for are
/// redirected to.
pub(super) fn wait_offsets(btf: &Btf) -> Result<WaitOffsets, PlaneError> {
    Ok(WaitOffsets {
        sock_wq: bytes(btf, "sock", "sk_wq")?,
        wq_head: bytes(btf, "socket_wq", "wait")?,
        wq_list: bytes(btf, "socket_wq", "wait.head")?,
        epoll_link: bytes(btf, "eppoll_entry", "wait.entry")?,
        epoll_head: bytes(btf, "eppoll_entry", "whead")?,
        epoll_base: bytes(btf, "eppoll_entry", "base")?,
        epitem_file: bytes(btf, "epitem", "ffd.file")?,
        epitem_events: bytes(btf, "epitem", "event.events")?,
        poll_link: bytes(btf, "poll_table_entry", "wait.entry")?,
        poll_head: bytes(btf, "poll_table_entry", "wait_address")?,
        poll_file: bytes(btf, "poll_table_entry", "filp")?,
        poll_events: bytes(btf, "poll_table_entry", "key")?,
    })
}

fn member(btf: &Btf, structure: &str, path: &str) -> Result<Member, PlaneError> {
    btf.member(structure, path)
        .ok_or_else(|| PlaneError::MissingField {
            field: format!("{structure}.{path}"),
        })
}

fn bytes(btf: &Btf, structure: &str, path: &str) -> Result<u32, PlaneError> {
    Ok(member(btf, structure, path)?.bit_offset / 8)
}

fn optional(btf: &Btf, structure: &str, path: &str) -> u32 {
    btf.member(structure, path)
        .map_or(0, |member| member.bit_offset / 8)
}

fn mask(bits: u32) -> u32 {
    if bits == 0 { 0xff } else { (1 << bits) - 1 }
}
