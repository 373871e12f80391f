//! Program types, map types and helpers, as libbpf finds them by trying.

#[cfg(not(feature = "libbpf"))]
pub(super) use without::rows;

#[cfg(feature = "libbpf")]
pub(super) use with::rows;

#[cfg(not(feature = "libbpf"))]
mod without {
    use crate::probe::{Finding, Row};

    pub(in crate::probe) fn rows(_capable: bool) -> Vec<Row> {
        let detail = "not probed (built without libbpf)";
        ["program", "map", "helper"]
            .map(|group| Row::new(group, "all", Finding::NotProbed, detail))
            .into()
    }
}

#[cfg(feature = "libbpf")]
mod with {
    use std::ffi::c_int;
    use std::ptr;

    use libbpf_sys as sys;

    use crate::probe::{Finding, NOT_CAPABLE, Row};

    const PROGRAMS: [(&str, u32); 2] = [
        ("sock_ops", sys::BPF_PROG_TYPE_SOCK_OPS),
        ("sk_msg", sys::BPF_PROG_TYPE_SK_MSG),
    ];

    const MAPS: [(&str, u32); 7] = [
        ("array", sys::BPF_MAP_TYPE_ARRAY),
        ("percpu_array", sys::BPF_MAP_TYPE_PERCPU_ARRAY),
        ("hash", sys::BPF_MAP_TYPE_HASH),
        ("lru_hash", sys::BPF_MAP_TYPE_LRU_HASH),
        ("lpm_trie", sys::BPF_MAP_TYPE_LPM_TRIE),
        ("sockhash", sys::BPF_MAP_TYPE_SOCKHASH),
        ("ringbuf", sys::BPF_MAP_TYPE_RINGBUF),
    ];

    /// What both programs call.
    const COMMON: [(&str, u32); 3] = [
        ("bpf_map_lookup_elem", sys::BPF_FUNC_map_lookup_elem),
        ("bpf_map_delete_elem", sys::BPF_FUNC_map_delete_elem),
        ("bpf_probe_read_kernel", sys::BPF_FUNC_probe_read_kernel),
    ];

    const SOCK_OPS: [(&str, u32); 7] = [
        ("bpf_map_update_elem", sys::BPF_FUNC_map_update_elem),
        ("bpf_ktime_get_ns", sys::BPF_FUNC_ktime_get_ns),
        ("bpf_sock_hash_update", sys::BPF_FUNC_sock_hash_update),
        ("bpf_sock_ops_cb_flags_set", sys::BPF_FUNC_sock_ops_cb_flags_set),
        ("bpf_get_socket_cookie", sys::BPF_FUNC_get_socket_cookie),
        ("bpf_ringbuf_reserve", sys::BPF_FUNC_ringbuf_reserve),
        ("bpf_ringbuf_submit", sys::BPF_FUNC_ringbuf_submit),
    ];

    const SK_MSG: [(&str, u32); 1] = [("bpf_msg_redirect_hash", sys::BPF_FUNC_msg_redirect_hash)];

    pub(in crate::probe) fn rows(capable: bool) -> Vec<Row> {
        if !capable {
            // libbpf takes the kernel's refusal for a lack.
            let row = |group| Row::new(group, "all", Finding::NotProbed, NOT_CAPABLE);
            return ["program", "map", "helper"].map(row).into();
        }
        // SAFETY: libbpf takes a null callback, which silences what it prints of programs that are refused on purpose.
        unsafe { sys::libbpf_set_print(None) };
        let mut rows = Vec::new();
        for (name, kind) in PROGRAMS {
            // SAFETY: tries to load a program that libbpf makes; the options are unused and null.
            let tried = unsafe { sys::libbpf_probe_bpf_prog_type(kind, ptr::null()) };
            rows.push(row("program", name.to_owned(), tried));
        }
        for (name, kind) in MAPS {
            // SAFETY: tries to make a map of its own; the options are unused and null.
            let tried = unsafe { sys::libbpf_probe_bpf_map_type(kind, ptr::null()) };
            rows.push(row("map", name.to_owned(), tried));
        }
        for ((program, kind), own) in PROGRAMS.into_iter().zip([&SOCK_OPS[..], &SK_MSG[..]]) {
            for (name, helper) in COMMON.iter().chain(own) {
                // SAFETY: tries to load a program that libbpf makes; the options are unused and null.
                let tried = unsafe { sys::libbpf_probe_bpf_helper(kind, *helper, ptr::null()) };
                rows.push(row("helper", format!("{name} in {program}"), tried));
            }
        }
        rows
    }

    /// libbpf answers 1 for yes, 0 for no, and a negative errno when it cannot tell.
    fn row(group: &'static str, name: String, tried: c_int) -> Row {
        match tried {
            1 => Row::new(group, name, Finding::Ok, "supported"),
            0 => Row::new(group, name, Finding::Missing, "the kernel does not have it")
                .remedy("use a kernel of docs/kernel-policy.md, built with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_NET_SOCK_MSG"),
            error => {
                let errno = std::io::Error::from_raw_os_error(-error);
                Row::new(group, name, Finding::NotProbed, format!("libbpf could not try: {errno}"))
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_no_kernel_has_is_missing() {
            if !crate::probe::host::capable() {
                return eprintln!("skipped: loading programs needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
            }
            let rows = rows(true);
            assert_eq!(rows.len(), 2 + 7 + 2 * 3 + 7 + 1);
            // SAFETY: as in `rows`.
            let nonsense =
                unsafe { sys::libbpf_probe_bpf_helper(sys::BPF_PROG_TYPE_SK_MSG, 9999, ptr::null()) };
            assert_eq!(nonsense, 0);
            // SAFETY: as in `rows`. The redirect of messages is for sk_msg programs only.
            let elsewhere = unsafe {
                sys::libbpf_probe_bpf_helper(
                    sys::BPF_PROG_TYPE_SOCK_OPS,
                    sys::BPF_FUNC_msg_redirect_hash,
                    ptr::null(),
                )
            };
            assert_eq!(elsewhere, 0);
        }
    }
}
