//! The forms in which a Wasm function is put into an image.

use super::component::World;
use super::{Blob, CONFIG, File, Image, Platform};
use crate::Result;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The media type that runwasi gives a component's layer.
pub const WASM_LAYER: &str = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";

const ARTIFACT_CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// The label with the digest of an image's module.
const MODULE_LABEL: &str = "dev.cwasi.module";

/// Where the module is in an image, or is said to be.
const APP: &str = "/app.wasm";

/// A form of image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A root filesystem with the module as its entrypoint: every tool handles it.
    Rootfs,
    /// An image of the platform `wasm`, as runwasi makes it: the module is a layer.
    Wasm,
    /// The CNCF's Wasm OCI artifact: the module is a layer, and the configuration describes the component.
    Artifact,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 3] = [Self::Rootfs, Self::Wasm, Self::Artifact];

    /// Its name, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rootfs => "rootfs",
            Self::Wasm => "wasm",
            Self::Artifact => "artifact",
        }
    }

    /// The name of a function's image: each form has a tag of its own, so that all can be imported side by side.
    #[must_use]
    pub fn reference(self, name: &str) -> String {
        match self {
            Self::Rootfs => format!("docker.io/local/{name}:1"),
            Self::Wasm | Self::Artifact => format!("docker.io/local/{name}:1-{}", self.name()),
        }
    }

    /// The image of a module in this form.
    ///
    /// # Errors
    /// [`Error::Wasm`](crate::Error::Wasm) when `wasm` is no WebAssembly.
    pub fn image(self, reference: &str, wasm: &[u8]) -> Result<Image> {
        let process = Process::new([APP]);
        // Said before an image of something else gets into a registry.
        wasmparser::Parser::new(0)
            .parse_all(wasm)
            .next()
            .transpose()
            .map_err(|error| crate::Error::Wasm(error.to_string()))?;
        Ok(match self {
            Self::Rootfs => {
                let file = File {
                    path: APP,
                    mode: 0o644,
                    content: wasm,
                    ..File::default()
                };
                Image::rootfs(reference, &[file], &process)
            }
            Self::Wasm => Image::wasm(reference, wasm, WASM_LAYER, &process),
            Self::Artifact => Image::artifact(reference, wasm)?,
        })
    }
}

/// What a container of an image runs, unless it is told otherwise.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Environment variables, `NAME=VALUE`.
    pub env: Vec<String>,
    /// The working directory; empty for `/`.
    pub working_dir: String,
    /// Arguments that a container may have others for.
    pub cmd: Vec<String>,
    /// The user, `UID` or `UID:GID`; empty for root.
    pub user: String,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
}

impl Process {
    /// A program with arguments.
    pub fn new<S: Into<String>>(entrypoint: impl IntoIterator<Item = S>) -> Self {
        Self {
            entrypoint: entrypoint.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// `module` is of an image whose layers are no file systems: without it all such images would have the same configuration, by
/// whose digest Kubernetes tells images.
pub(super) fn image_config(
    platform: &Platform,
    process: &Process,
    diff_ids: &[String],
    module: Option<&Blob>,
) -> Blob {
    let mut config = json!({"Entrypoint": process.entrypoint});
    let mut labels = process.labels.clone();
    labels.extend(module.map(|module| (MODULE_LABEL.to_owned(), module.digest())));
    if !labels.is_empty() {
        config["Labels"] = json!(labels);
    }
    if !process.cmd.is_empty() {
        config["Cmd"] = json!(process.cmd);
    }
    if !process.user.is_empty() {
        config["User"] = json!(process.user);
    }
    if !process.env.is_empty() {
        config["Env"] = json!(process.env);
    }
    if !process.working_dir.is_empty() {
        config["WorkingDir"] = json!(process.working_dir);
    }
    let document = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    Blob::json(CONFIG, &document)
}

pub(super) fn artifact_config(platform: &Platform, layer: &Blob, wasm: &[u8]) -> Result<Blob> {
    let component = if platform.os == "wasip2" {
        let World { imports, exports } = World::of(wasm)?;
        json!({"imports": imports, "exports": exports})
    } else {
        Value::Null
    };
    let document = json!({
        // The layout asks for a time; the build's own would give other bytes every time.
        "created": "1970-01-01T00:00:00Z",
        "architecture": platform.architecture,
        "os": platform.os,
        "layerDigests": [layer.digest()],
        "component": component,
    });
    Ok(Blob::json(ARTIFACT_CONFIG, &document))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths;

    fn json(blob: &Blob) -> Value {
        serde_json::from_slice(blob.bytes()).unwrap()
    }

    fn image(form: Form) -> Image {
        let echo = std::fs::read(paths::root().join("bench/functions/prebuilt/echo.wasm")).unwrap();
        form.image("docker.io/local/echo:1", &echo).unwrap()
    }

    #[test]
    fn a_root_filesystem_is_of_this_machine() {
        let image = image(Form::Rootfs);
        let config = json(&image.config);
        assert_eq!(config["os"], "linux");
        assert_eq!(config["config"]["Entrypoint"], json!(["/app.wasm"]));
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
        assert_eq!(
            json(&image.manifest)["layers"][0]["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
    }

    #[test]
    fn wasm_images_have_the_module_as_their_layer() {
        let image = image(Form::Wasm);
        let config = json(&image.config);
        assert_eq!(config["architecture"], "wasm");
        assert_eq!(config["os"], "wasip2");
        assert_eq!(config["rootfs"]["diff_ids"], json!([]));
        let manifest = json(&image.manifest);
        assert_eq!(manifest["layers"][0]["mediaType"], WASM_LAYER);
        assert_eq!(manifest["layers"][0]["digest"], image.layers[0].digest());
    }

    #[test]
    fn artifacts_describe_the_component() {
        let image = image(Form::Artifact);
        let config = json(&image.config);
        assert_eq!(config["layerDigests"], json!([image.layers[0].digest()]));
        let exports = config["component"]["exports"].as_array().unwrap();
        assert!(exports[0].as_str().unwrap().starts_with("wasi:cli/run@"));
        let manifest = json(&image.manifest);
        assert_eq!(manifest["config"]["mediaType"], ARTIFACT_CONFIG);
        assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    }

    #[test]
    fn images_of_other_modules_have_other_configurations() {
        for form in Form::ALL {
            let config = |wasm: &[u8]| form.image("x/y:1", wasm).unwrap().config;
            let one = config(b"\0asm\x01\0\0\0");
            let other = config(b"\0asm\x01\0\0\0\0\x02\x01x");
            assert_ne!(one.digest(), other.digest(), "{form:?}");
        }
    }

    #[test]
    fn modules_have_no_component() {
        let config = json(&Form::Artifact.image("x/y:1", b"\0asm\x01\0\0\0").unwrap().config);
        assert_eq!(
            (&config["os"], &config["component"]),
            (&json!("wasip1"), &Value::Null)
        );
    }

    #[test]
    fn what_is_no_wasm_is_refused() {
        for form in Form::ALL {
            assert!(form.image("x/y:1", b"\x7fELF\x02\x01\x01\0").is_err(), "{form:?}");
        }
    }
}
