//! Memory of idle functions: the proportional set sizes (PSS) of all their processes.
//!
//! Of a page that processes share, each counts its part: the sum is what the functions hold together. Every function is a
//! pod, so that its shim, what the shim forks, and the pod's pause program belong to it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use cwasi_bench::error::IoContext;
use nix::errno::Errno;

use crate::start::{address, first_answer};
use crate::{Peer, Result, Stage};

/// Port of every function.
const PORT: u16 = 7000;

/// How long functions are left alone before they are looked at.
const IDLE: Duration = Duration::from_secs(1);

/// MiB per function, of `functions` echoes that have each answered one request.
///
/// # Errors
/// A function does not start, or a process cannot be looked at.
pub fn measure(stage: &Stage, peer: Peer, functions: u16) -> Result<f64> {
    let node = stage.node();
    let before = processes(node.name())?;
    let mut pods = Vec::new();
    for number in 0..functions {
        let pod = node.pod(&peer.pod(&format!("idle-{number}")))?;
        pod.run(&peer.echo("echo", stage.image(peer), PORT))?;
        first_answer(stage, address(&pod, PORT)?, &AtomicBool::new(false))?;
        pods.push(pod);
    }
    thread::sleep(IDLE);
    let mut kib = 0;
    for pid in processes(node.name())?.difference(&before) {
        kib += pss(*pid)?;
    }
    for pod in pods {
        pod.remove()?;
    }
    Ok(per_function(kib, functions))
}

#[allow(clippy::cast_precision_loss)] // 2⁵² KiB are more than any machine has.
fn per_function(kib: u64, functions: u16) -> f64 {
    kib as f64 / 1024.0 / f64::from(functions)
}

/// The processes of a node: their cgroups are all below one of its name, in some hierarchy.
fn processes(node: &str) -> Result<BTreeSet<i32>> {
    let entries = fs::read_dir("/proc").action(|| "list /proc")?;
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Those that ended meanwhile have no file.
    Ok(pids
        .filter(|pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| is_below(&text, node))
        })
        .collect())
}

/// Whether a `/proc/PID/cgroup` names a cgroup below that of `node`.
fn is_below(text: &str, node: &str) -> bool {
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|path| path.split('/').any(|part| part == node))
}

/// The PSS of a process in KiB, 0 when it has ended. `smaps_rollup` is in Linux 4.14.
fn pss(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    match fs::read_to_string(&path) {
        Ok(text) => pss_of(&text).ok_or_else(|| {
            let detail = "no line `Pss:`".to_owned();
            cwasi_bench::Error::Output {
                program: path,
                detail,
            }
            .into()
        }),
        Err(error) if is_gone(&error) => Ok(0),
        Err(error) => Err(error).action(|| format!("read {path}"))?,
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

fn pss_of(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_of_a_node_are_told_from_others() {
        let guest = "4:memory:/cwasi-node-7-0/abc\n0::/cwasi/k8s.io-abc\n";
        assert!(is_below(guest, "cwasi-node-7-0"));
        assert!(is_below("0::/cwasi-node-7-0/runtime\n", "cwasi-node-7-0"));
        assert!(!is_below("0::/cwasi-node-7-01/runtime\n", "cwasi-node-7-0"));
        assert!(!is_below("0::/\n", "cwasi-node-7-0"));
    }

    #[test]
    fn pss_is_in_a_rollup() {
        let rollup =
            "55aa000-7ffe000 ---p 0 00:00 0 [rollup]\nRss:   1500 kB\nPss:    1234 kB\nPss_Dirty:  9 kB\n";
        assert_eq!(pss_of(rollup), Some(1234));
        assert_eq!(pss_of("Rss: 1 kB\n"), None);
        assert_eq!(per_function(20 * 2048, 20), 2.0);
    }

    #[test]
    fn the_own_process_has_memory_and_the_dead_have_none() {
        assert!(pss(std::process::id().cast_signed()).unwrap() > 0);
        // Above the kernel's limit for pids.
        assert_eq!(pss(1 << 23).unwrap(), 0);
    }
}
