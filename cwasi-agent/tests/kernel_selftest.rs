//! The live self-test, on the kernel that runs this test.

mod support;

use cwasi_agent::kernel::selftest;
use cwasi_ebpf_common::offsets::QueueMeasure;

#[test]
fn some_measure_of_the_queue_passes_every_check() {
    needs!();
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
    needs!();
    let checks = selftest::try_measure(QueueMeasure::SinceEmpty);
    assert!(checks.iter().all(|check| check.passed), "{checks:#?}");
}

/// Some kernels redirect without charging the receiver (5.10): a measure that sees nothing must not be believed.
#[test]
fn a_queue_that_is_not_charged_is_found_out() {
    needs!();
    let checks = selftest::try_measure(QueueMeasure::ReceiveMemory);
    let failed = checks.iter().find(|check| !check.passed);
    let Some(failed) = failed else {
        return support::probe::skipped("this kernel charges what is redirected");
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
