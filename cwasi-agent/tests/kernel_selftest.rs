//! The live self-test, on the kernel that runs this test.

mod support;

use cwasi_agent::kernel::selftest::{self, Check};
use cwasi_agent::probe::probe;
use cwasi_ebpf_common::offsets::QueueMeasure;
use support::probe::{UNACCEPTED, held_off, skipped};

/// Whether these are what a kernel shows that keeps connections which nobody accepted, and is known for it.
fn keeps_unaccepted(checks: &[Check]) -> bool {
    held_off().is_some()
        && checks
            .iter()
            .all(|check| check.passed == (check.name != UNACCEPTED))
        && probe(&support::node::directory())
            .rows
            .iter()
            .any(|row| row.name == "known fixes" && row.detail.contains("nobody accepted"))
}

#[test]
fn some_measure_of_the_queue_passes_every_check() {
    needs_root!();
    let report = selftest::run();
    assert_eq!(
        report.checks.iter().map(|check| check.name).collect::<Vec<_>>(),
        selftest::CHECKS
    );
    if keeps_unaccepted(&report.checks) {
        assert_eq!(report.measure, None);
        return skipped("this kernel keeps connections that nobody accepted");
    }
    assert!(
        report.checks.iter().all(|check| check.passed),
        "{:#?}",
        report.checks
    );
    assert!(report.measure.is_some());
}

#[test]
fn bytes_since_empty_work_on_every_kernel() {
    needs_root!();
    let checks = selftest::try_measure(QueueMeasure::SinceEmpty);
    if keeps_unaccepted(&checks) {
        return skipped("this kernel keeps connections that nobody accepted");
    }
    assert!(checks.iter().all(|check| check.passed), "{checks:#?}");
}

/// Some kernels redirect without charging the receiver (5.10): a measure that sees nothing must not be believed.
#[test]
fn a_queue_that_is_not_charged_is_found_out() {
    needs_root!();
    let checks = selftest::try_measure(QueueMeasure::ReceiveMemory);
    let failed = checks.iter().find(|check| !check.passed);
    let Some(failed) = failed else {
        return skipped("this kernel charges what is redirected");
    };
    assert_eq!(failed.name, "queue_charged", "{checks:#?}");
    // On a small machine the memory that TCP may have is used up before, by other tests too.
    let signs = ["grew to", "Cannot allocate memory"];
    assert!(
        signs.iter().any(|sign| failed.detail.contains(sign)),
        "{}",
        failed.detail
    );
}
