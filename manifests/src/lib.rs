//! What the tests of the manifests share.
//!
//! - [`render`]: the objects that Helm and Kustomize make of them.
//! - [`schema`]: Kubernetes' JSON schemas. [`crds`]: those of the Prometheus operator.
//!
//! The chart is `helm/cwasi`; `cargo xtask manifests` writes `kustomize` from it.

pub mod crds;
pub mod render;
pub mod schema;

use std::fmt::Display;
use std::io::Write;

/// Says on stderr why a test does nothing. Not by `eprintln!`, which the test harness keeps to itself when a test passes.
pub fn skipped(reason: &dyn Display) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
