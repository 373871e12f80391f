//! Whether the kernel tests can run here, and what is missing if they cannot.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Ends the test, visibly, where something that every kernel test needs is missing, or one of the extra needs given.
#[macro_export]
macro_rules! needs {
    ($($need:expr),*) => {
        if let Some(reason) = $crate::support::probe::missing(&[$($need),*]) {
            return $crate::support::probe::skipped(&reason);
        }
    };
}

/// What a test needs besides root, BTF, cgroup v2 and `ip`.
#[derive(Clone, Copy)]
pub enum Need {
    /// The program `nft`.
    Nft,
}

/// Says on stderr why a test, after which the harness names its thread, does nothing: `skipped: TEST: REASON`. Not by `eprintln!`,
/// which the harness keeps to itself when a test passes; in one write, for other tests write too.
pub fn skipped(reason: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {reason}\n", thread.name().unwrap_or("?"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Why kernel tests cannot run here, `None` if they can.
pub fn missing(extra: &[Need]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)".to_owned());
    }
    if let Err(error) = cwasi_client::cgroup::unified_root() {
        return Some(error.to_string());
    }
    let programs = extra.iter().map(|need| match need {
        Need::Nft => ("nft", "nftables"),
    });
    std::iter::once(("ip", "iproute2"))
        .chain(programs)
        .find(|(program, _)| !runs(program))
        .map(|(program, package)| format!("no program `{program}`: install the package {package}"))
}

fn runs(program: &str) -> bool {
    Command::new(program)
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}
