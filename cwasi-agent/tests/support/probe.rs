//! Whether the kernel tests can run here, and what is missing if they cannot.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use cwasi_agent::kernel::selftest::{self, Report};

/// Ends the test, visibly, where something that every kernel test needs is missing, or one of the extra needs given.
#[macro_export]
macro_rules! needs {
    ($($need:expr),*) => {
        needs_root!($($need),*);
        if let Some(reason) = $crate::support::probe::held_off() {
            return $crate::support::probe::skipped(&reason);
        }
    };
}

/// The same for a test that is about what the kernel lacks.
#[macro_export]
macro_rules! needs_root {
    ($($need:expr),*) => {
        if let Some(reason) = $crate::support::probe::missing(&[$($need),*]) {
            return $crate::support::probe::skipped(&reason);
        }
    };
}

/// What the self-test finds of this kernel.
pub fn self_test() -> &'static Report {
    static REPORT: OnceLock<Report> = OnceLock::new();
    REPORT.get_or_init(selftest::run)
}

/// Why nothing is redirected on this kernel, if that is what the policy says of it. Elsewhere a self-test that fails is a test that fails.
pub fn held_off() -> Option<String> {
    let report = self_test();
    let failed = report.checks.iter().find(|check| !check.passed)?;
    (report.measure.is_none() && failed.name == UNACCEPTED)
        .then(|| format!("the self-test holds off: {}: {}", failed.name, failed.detail))
}

/// The check that a kernel of the policy fails: 5.10 before 5.10.222.
pub const UNACCEPTED: &str = "unaccepted_removed";

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
