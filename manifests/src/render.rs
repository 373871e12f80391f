//! What Helm and Kustomize make of the manifests.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use xtask::kubernetes::Tools;
use xtask::{commands::manifests, paths};

/// Runs a command in the repository's root.
///
/// # Errors
/// What it said on stderr, when it fails.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .current_dir(paths::root())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// The objects of the chart, with values in the form of Helm's `--set`, for a release of Kubernetes.
///
/// # Errors
/// What Helm says.
pub fn chart(tools: &Tools, values: &str, release: &str) -> Result<Vec<Value>, String> {
    let mut helm = tools.helm();
    helm.args(["template", "cwasi", manifests::CHART]).args([
        "--namespace",
        "cwasi-system",
        "--kube-version",
        release,
    ]);
    if !values.is_empty() {
        helm.args(["--set", values]);
    }
    objects(&run(&mut helm)?)
}

/// The objects of a directory of Kustomize.
///
/// # Errors
/// What Kustomize says.
pub fn kustomization(tools: &Tools, directory: &Path) -> Result<Vec<Value>, String> {
    objects(&run(tools.kubectl().arg("kustomize").arg(directory))?)
}

/// The objects of a text of YAML documents; documents of comments alone are none.
///
/// # Errors
/// It is no YAML.
pub fn objects(yaml: &str) -> Result<Vec<Value>, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).map_err(|error| error.to_string())?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// The object of a kind and name, if it is there.
#[must_use]
pub fn find<'o>(objects: &'o [Value], kind: &str, name: &str) -> Option<&'o Value> {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}
