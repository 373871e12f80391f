//! The live self-test, on the kernel that runs this test.

use cwasi_agent::kernel::selftest;
use cwasi_ebpf_common::offsets::QueueMeasure;

/// Why kernel tests cannot run here, if they cannot.
fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root");
    }
    (!std::path::Path::new("/sys/kernel/btf/vmlinux").exists()).then_some("the kernel has no BTF")
}

#[test]
fn some_measure_of_the_queue_passes_every_check() {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let report = selftest::run();
    assert_eq!(
        report.checks.iter().map(|check| check.name).collect::<Vec<_>>(),
        selftest::CHECKS
    );
    assert!(
        report.checks.iter().all(|check| check.passed),
        "{:#?}",
        report.checks
    );
    assert!(report.measure.is_some());
}

#[test]
fn bytes_since_empty_work_on_every_kernel() {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let checks = selftest::try_measure(QueueMeasure::SinceEmpty);
    assert!(checks.iter().all(|check| check.passed), "{checks:#?}");
}
