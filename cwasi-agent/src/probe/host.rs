//! What files and mounts of the node tell.

use std::fs;
use std::path::{Path, PathBuf};

use cwasi_client::cgroup;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Finding, Row, fixes};
use crate::capabilities::{Capability, Held, NEEDED, SYS_ADMIN, SYS_RESOURCE};
use crate::kernel::btf::Btf;
use crate::kernel::readers;

/// Kernel release, as `uname -r` says.
pub(super) fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The release that the running kernel was made from, as far as it tells.
pub(super) fn upstream(release: &str) -> Option<(u32, u32, u32)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    fixes::upstream(
        release,
        &read("/proc/sys/kernel/version"),
        &read("/proc/version_signature"),
    )
}

pub(super) fn rows(bpffs: &Path, release: &str) -> Vec<Row> {
    let mut rows = vec![btf(), readers(), bpffs_mounted(bpffs), cgroup_v2()];
    rows.extend(capabilities(Held::now(), release));
    rows.push(lockdown());
    rows.push(unprivileged());
    rows
}

fn row(name: &str, finding: Finding, detail: impl Into<String>) -> Row {
    Row::new("host", name, finding, detail)
}

fn btf() -> Row {
    match Btf::of_kernel() {
        Ok(_) => row("kernel BTF", Finding::Ok, "/sys/kernel/btf/vmlinux"),
        Err(error) => row("kernel BTF", Finding::Missing, error.to_string())
            .remedy("use a kernel built with CONFIG_DEBUG_INFO_BTF=y"),
    }
}

fn readers() -> Row {
    match readers::told() {
        Ok(()) => row(
            readers::READERS,
            Finding::Ok,
            "the BTF tells how epoll and poll wait",
        ),
        Err(error) => row(readers::READERS, Finding::Warning, error.to_string()).remedy(readers::REMEDY),
    }
}

fn bpffs_mounted(bpffs: &Path) -> Row {
    let name = "bpffs";
    let existing = bpffs
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    let mounted = statfs(existing).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC);
    if mounted {
        row(name, Finding::Ok, format!("{} is on one", bpffs.display()))
    } else if bpffs.starts_with("/sys/fs/bpf") {
        row(name, Finding::Warning, "not mounted on /sys/fs/bpf")
            .remedy("none: the agent mounts it when it starts")
    } else {
        row(
            name,
            Finding::Missing,
            format!("{} is on another file system", bpffs.display()),
        )
        .remedy("give a --bpffs below /sys/fs/bpf, or mount one: mount -t bpf bpf DIR")
    }
}

fn cgroup_v2() -> Row {
    match cgroup::unified_root() {
        Ok(root) => row("cgroup v2", Finding::Ok, root.display().to_string()),
        Err(error) => row("cgroup v2", Finding::Missing, error.to_string())
            .remedy("mount it: mount -t cgroup2 none /sys/fs/cgroup/unified"),
    }
}

fn capabilities(held: Held, release: &str) -> Vec<Row> {
    let mut wanted = NEEDED.map(|needed| (needed, Finding::Missing)).to_vec();
    // The agent itself does without where launchers tell addresses, and bpffs is mounted.
    wanted.push((SYS_ADMIN, Finding::Warning));
    // From 5.11 on, maps are charged to the memory cgroup.
    if fixes::parse(release).is_some_and(|version| version < (5, 11, 0)) {
        wanted.push((SYS_RESOURCE, Finding::Missing));
    }
    let judge = |(capability, lacking): (Capability, Finding)| {
        let finding = if held.has(capability) {
            Finding::Ok
        } else {
            lacking
        };
        row(capability.name, finding, capability.purpose).remedy(held.remedy(capability))
    };
    wanted.into_iter().map(judge).collect()
}

/// Whether this process may load and attach programs.
pub(super) fn capable() -> bool {
    Held::now().missing().next().is_none()
}

fn lockdown() -> Row {
    let path = PathBuf::from("/sys/kernel/security/lockdown");
    let text = fs::read_to_string(&path).unwrap_or_default();
    match selected(&text) {
        Some("confidentiality") => row(
            "lockdown",
            Finding::Missing,
            "confidentiality: programs may not read kernel memory",
        )
        .remedy("boot with lockdown=integrity or lockdown=none"),
        Some(mode) => row("lockdown", Finding::Ok, mode),
        None => row(
            "lockdown",
            Finding::Ok,
            "not built in, or securityfs is not mounted",
        ),
    }
}

/// The word in brackets of a list such as `none [integrity] confidentiality`.
fn selected(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(word, _)| word)
}

fn unprivileged() -> Row {
    let name = "unprivileged bpf";
    match fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")
        .unwrap_or_default()
        .trim()
    {
        "0" => row(
            name,
            Finding::Warning,
            "allowed: any user may load programs, which the agent does not need",
        )
        .remedy("sysctl kernel.unprivileged_bpf_disabled=1"),
        "" => row(name, Finding::NotProbed, "no such sysctl"),
        _ => row(name, Finding::Ok, "not allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lockdown_mode_is_the_word_in_brackets() {
        assert_eq!(selected("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(selected(""), None);
    }

    #[test]
    fn memlock_matters_before_5_11() {
        let named = |release| {
            capabilities(Held::default(), release)
                .into_iter()
                .any(|row| row.name == "CAP_SYS_RESOURCE")
        };
        assert!(named("5.10.262"));
        assert!(!named("5.11.0"));
        assert!(!named("6.18.44"));
    }
}
