//! Container images without a registry and without Docker: OCI image layouts, and tars of them, in the forms that Wasm functions come in.
//!
//! The same input gives the same bytes: no time, owner or order of the machine gets into an image.

mod blob;
mod component;
mod form;
mod layer;
mod layout;

pub use blob::Blob;
pub use form::{Form, Process, WASM_LAYER};
pub use layer::{File, layer};

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image of one platform, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    reference: String,
    platform: Platform,
    manifest: Blob,
    config: Blob,
    layers: Vec<Blob>,
}

/// What an image runs on, in the words of the OCI image specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `amd64`, `arm64`, `wasm`, …
    pub architecture: String,
    /// `linux`, `wasip1`, `wasip2`, …
    pub os: String,
}

impl Platform {
    /// Linux on the architecture that this program was built for.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
        }
    }

    /// WebAssembly with a version of WASI: `wasip1` for core modules, `wasip2` for components.
    #[must_use]
    pub fn wasm(os: &str) -> Self {
        Self {
            architecture: "wasm".to_owned(),
            os: os.to_owned(),
        }
    }

    fn json(&self) -> Value {
        json!({"architecture": self.architecture, "os": self.os})
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)
    }
}

impl Image {
    /// An image of a root filesystem: a layer that [`layer`] made, and what runs in it.
    #[must_use]
    pub fn rootfs(reference: &str, files: &[File<'_>], process: &Process) -> Self {
        let (layer, diff_id) = layer(files);
        let platform = Platform::host();
        let config = form::image_config(&platform, process, &[diff_id], None);
        Self::new(reference, platform, config, vec![layer])
    }

    /// The same image with annotations in its manifest, such as `org.opencontainers.image.version`.
    #[must_use]
    pub fn annotated(mut self, annotations: &BTreeMap<String, String>) -> Self {
        self.manifest = manifest(&self.config, &self.layers, annotations);
        self
    }

    /// An image of a Wasm platform, as runwasi makes it: the module is a layer of the media type `layer`, and no layer is
    /// part of a root filesystem.
    #[must_use]
    pub fn wasm(reference: &str, wasm: &[u8], layer: &str, process: &Process) -> Self {
        let platform = Platform::wasm(component::wasi_version(wasm));
        let layer = Blob::new(layer, wasm.to_vec());
        let config = form::image_config(&platform, process, &[], Some(&layer));
        Self::new(reference, platform, config, vec![layer])
    }

    /// A Wasm OCI artifact as the CNCF's working group lays it out. It says nothing of a process: whoever runs it does.
    ///
    /// # Errors
    /// [`Error::Wasm`](crate::Error::Wasm) when the imports and exports of a component cannot be read.
    pub fn artifact(reference: &str, wasm: &[u8]) -> crate::Result<Self> {
        let platform = Platform::wasm(component::wasi_version(wasm));
        let layer = Blob::new("application/wasm", wasm.to_vec());
        let config = form::artifact_config(&platform, &layer, wasm)?;
        Ok(Self::new(reference, platform, config, vec![layer]))
    }

    fn new(reference: &str, platform: Platform, config: Blob, layers: Vec<Blob>) -> Self {
        Self {
            reference: reference.to_owned(),
            platform,
            manifest: manifest(&config, &layers, &BTreeMap::new()),
            config,
            layers,
        }
    }

    /// The name under which it is imported, registry included: `docker.io/local/echo:1`.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The last part of the reference, without its tag: `echo`.
    #[must_use]
    pub fn name(&self) -> &str {
        let name = self.reference.rsplit('/').next().unwrap_or(&self.reference);
        name.split_once(':').map_or(name, |(name, _)| name)
    }

    /// The digest of the manifest, which identifies the image: `sha256:…`.
    #[must_use]
    pub fn digest(&self) -> String {
        self.manifest.digest()
    }

    /// What it runs on.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// The bytes that a registry would hold: manifest, configuration and layers.
    #[must_use]
    pub fn size(&self) -> usize {
        self.blobs().map(|blob| blob.bytes().len()).sum()
    }

    fn blobs(&self) -> impl Iterator<Item = &Blob> {
        [&self.manifest, &self.config].into_iter().chain(&self.layers)
    }

    /// The descriptor by which an index names the image: containerd takes the name from the first annotation, others take
    /// the tag from the second.
    fn descriptor(&self) -> Map<String, Value> {
        let mut descriptor = self.manifest.descriptor();
        descriptor.insert("platform".into(), self.platform.json());
        let annotations = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": tag(&self.reference),
        });
        descriptor.insert("annotations".into(), annotations);
        descriptor
    }
}

fn manifest(config: &Blob, layers: &[Blob], annotations: &BTreeMap<String, String>) -> Blob {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": layers.iter().map(|layer| Value::from(layer.descriptor())).collect::<Vec<_>>(),
    });
    if !annotations.is_empty() {
        manifest["annotations"] = json!(annotations);
    }
    Blob::json(MANIFEST, &manifest)
}

fn tag(reference: &str) -> &str {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    name.split_once(':').map_or("latest", |(_, tag)| tag)
}

#[cfg(test)]
mod tests {
    use super::tag;

    #[test]
    fn tags_are_told_from_ports() {
        assert_eq!(tag("docker.io/local/echo:1"), "1");
        assert_eq!(tag("localhost:5000/echo"), "latest");
    }
}
