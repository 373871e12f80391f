//! A kernel under lockdown for confidentiality, which lends the programs no helper that reads its memory.
//!
//! Lockdown cannot be taken back before a reboot: `cargo xtask test --kernel` locks its virtual machines after all other tests.

mod support;

use std::fs;

use cwasi_agent::kernel::{KernelPlane, Options, PlaneError, selftest};
use cwasi_agent::probe::{Finding, Row, probe};
use cwasi_ebpf_common::offsets::QueueMeasure;
use support::node;

/// Why the tests cannot run here, if they cannot.
fn unlocked() -> Option<&'static str> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    (!modes.contains("[confidentiality]")).then_some("the kernel is not locked down for confidentiality")
}

/// Ends the test, visibly, on a kernel that is not locked.
macro_rules! needs_lockdown {
    () => {
        needs_root!();
        if let Some(reason) = unlocked() {
            return support::probe::skipped(reason);
        }
    };
}

#[test]
fn the_probe_names_the_lockdown_and_the_helper() {
    needs_lockdown!();
    let report = probe(&node::directory());
    assert!(!report.usable);
    assert_eq!(report.queue_measure, None);
    let row = |name: &str| -> &Row {
        let found = report.rows.iter().find(|row| row.name == name);
        found.unwrap_or_else(|| panic!("no row {name}: {:#?}", report.rows))
    };
    assert_eq!(row("lockdown").finding, Finding::Missing);
    assert!(row("lockdown").detail.contains("confidentiality"));
    let remedy = row("lockdown").remedy.as_deref().unwrap_or_default();
    assert!(remedy.contains("lockdown=integrity"), "{remedy}");
    assert_eq!(row("redirect").finding, Finding::Missing);
    // libbpf is not in every build.
    if report.rows.iter().any(|row| row.name == "sk_msg") {
        assert_eq!(row("bpf_probe_read_kernel in sk_msg").finding, Finding::Missing);
        assert_eq!(row("bpf_msg_redirect_hash in sk_msg").finding, Finding::Ok);
    }
}

#[test]
fn the_self_test_fails_at_its_first_check() {
    needs_lockdown!();
    let report = selftest::run();
    assert_eq!(report.measure, None);
    assert!(
        report.checks.iter().all(|check| !check.passed),
        "{:#?}",
        report.checks
    );
}

#[test]
fn the_plane_is_refused_with_what_to_do() {
    needs_lockdown!();
    let options = Options::new(node::directory(), QueueMeasure::SinceEmpty);
    let bpffs = options.bpffs.clone();
    let error = match KernelPlane::open(options) {
        Ok(_) => panic!("a plane was opened"),
        Err(error) => error,
    };
    let _ = fs::remove_dir_all(bpffs);
    assert!(matches!(error, PlaneError::Program { .. }), "{error}");
    assert!(error.remedy().contains("cwasi-agent probe"), "{}", error.remedy());
}
