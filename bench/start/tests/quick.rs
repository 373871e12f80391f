//! Every kind of figure, with as few functions as can be, of containers that need no shim of ours.

use std::io::Write;

use clap::ValueEnum;
use cwasi_bench_start::group::Scale;
use cwasi_bench_start::{Error, Group, Peer, Stage};

#[test]
fn every_kind_is_taken_of_runc() {
    let stage = match Stage::new(&[Peer::Runc]) {
        Err(reason @ (Error::NoNode(_) | Error::Node(cwasi_testnode::Error::Missing { .. }))) => {
            // Not by `eprintln!`, which the test harness keeps to itself when a test passes.
            writeln!(std::io::stderr(), "skipped: {reason}").unwrap();
            return;
        }
        stage => stage.unwrap(),
    };
    let groups = Group::value_variants().iter();
    for group in groups.filter(|group| group.includes(Peer::Runc)) {
        let figures = group.run(&stage, Peer::Runc, &Scale::QUICK).unwrap();
        assert_eq!(figures.len(), group.measures(&Scale::QUICK).len());
        assert!(
            figures.iter().all(|figure| *figure > 0.0),
            "{group:?}: {figures:?}"
        );
    }
    let sizes = stage.images().iter();
    assert!(sizes.clone().all(|image| image.bytes > 0) && sizes.len() == 3);
    stage.node().settle().unwrap();
}
