//! What the tests of the manifests share.
//!
//! - [`render`]: the objects that Helm and Kustomize make of them.
//! - [`schema`]: Kubernetes' JSON schemas. [`crds`]: those of the Prometheus operator.
//!
//! The chart is `helm/cwasi`; `cargo xtask manifests` writes `kustomize` from it.

pub mod crds;
pub mod render;
pub mod schema;

/// Says on stderr that a test is skipped, and why.
pub fn skipped(reason: &dyn std::fmt::Display) {
    eprintln!("skipped: {reason}");
}
