//! Wasm layers out of containerd's content store: images of platform wasm, and artifacts.

use std::path::Path;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{GetContainerRequest, GetImageRequest, ReadContentRequest};
use containerd_client::tonic::Request;
use containerd_client::tonic::transport::Channel;
use containerd_client::with_namespace;
use oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest};
use serde::de::DeserializeOwned;

use super::compile::{MAX_WASM_BYTES, check_size};
use super::error::{ShimError, with_causes};

/// Media types of layers that are a component or module: the CNCF's artifact, runwasi's, and the earlier content type.
pub const LAYER_TYPES: [&str; 3] = [
    "application/wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
];

/// Most bytes of a manifest, as containerd and registries bound it.
const MAX_MANIFEST_BYTES: u64 = 8 << 20;

/// A component or module that is a layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the layer, as `sha256:HEX`.
    pub digest: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The Wasm layer of the image of the container `id`; `None` when the image has none. containerd is asked at `address`.
///
/// # Errors
/// [`ShimError::Layers`] when it has several, [`ShimError::TooLarge`], [`ShimError::Containerd`].
pub fn wasm_layer(address: &Path, namespace: &str, id: &str) -> Result<Option<Layer>, ShimError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| failed("socket", &error))?;
    runtime.block_on(async {
        let channel = containerd_client::connect(address)
            .await
            .map_err(|error| failed("socket", &error))?;
        let namespace = namespace.to_owned();
        Store { channel, namespace }.wasm_layer(id).await
    })
}

/// containerd's services in one of its namespaces.
struct Store {
    channel: Channel,
    namespace: String,
}

impl Store {
    async fn wasm_layer(&self, id: &str) -> Result<Option<Layer>, ShimError> {
        let Some(manifest) = self.manifest(id).await? else {
            return Ok(None);
        };
        let Some(layer) = only_wasm(manifest.layers())? else {
            return Ok(None);
        };
        let digest = layer.digest().to_string();
        let bytes = self.read(&digest, MAX_WASM_BYTES).await?;
        Ok(Some(Layer { digest, bytes }))
    }

    async fn manifest(&self, id: &str) -> Result<Option<ImageManifest>, ShimError> {
        let request = GetContainerRequest { id: id.to_owned() };
        let container = ContainersClient::new(self.channel.clone())
            .get(with_namespace!(request, self.namespace))
            .await
            .map_err(|status| failed("container", &status))?
            .into_inner()
            .container;
        let Some(name) = container
            .map(|container| container.image)
            .filter(|name| !name.is_empty())
        else {
            return Ok(None);
        };
        let request = GetImageRequest { name };
        let image = ImagesClient::new(self.channel.clone())
            .get(with_namespace!(request, self.namespace))
            .await
            .map_err(|status| failed("image", &status))?
            .into_inner()
            .image;
        let Some(target) = image.and_then(|image| image.target) else {
            return Ok(None);
        };
        let mut digest = target.digest;
        if target.media_type.contains("index") || target.media_type.contains("manifest.list") {
            let index: ImageIndex = self.json(&digest).await?;
            match choose(index.manifests()) {
                Some(manifest) => digest = manifest.digest().to_string(),
                None => return Ok(None),
            }
        }
        self.json(&digest).await.map(Some)
    }

    async fn json<T: DeserializeOwned>(&self, digest: &str) -> Result<T, ShimError> {
        let bytes = self.read(digest, MAX_MANIFEST_BYTES).await?;
        serde_json::from_slice(&bytes).map_err(|error| ShimError::Containerd {
            call: "manifest",
            reason: format!("{digest}: {error}"),
        })
    }

    async fn read(&self, digest: &str, most: u64) -> Result<Vec<u8>, ShimError> {
        let request = ReadContentRequest {
            digest: digest.to_owned(),
            ..Default::default()
        };
        let mut parts = ContentClient::new(self.channel.clone())
            .read(with_namespace!(request, self.namespace))
            .await
            .map_err(|status| failed("content", &status))?
            .into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = parts
            .message()
            .await
            .map_err(|status| failed("content", &status))?
        {
            if (bytes.len() + part.data.len()) as u64 > most {
                return Err(ShimError::Containerd {
                    call: "content",
                    reason: format!("{digest} has more than {most} bytes"),
                });
            }
            bytes.extend_from_slice(&part.data);
        }
        Ok(bytes)
    }
}

/// The layer that is a component or module; `None` where there is none.
pub(super) fn only_wasm(layers: &[Descriptor]) -> Result<Option<&Descriptor>, ShimError> {
    let wasm: Vec<_> = layers.iter().filter(|layer| is_wasm(layer)).collect();
    match wasm.as_slice() {
        [] => Ok(None),
        [layer] => {
            check_size(layer.digest().as_ref(), layer.size())?;
            Ok(Some(layer))
        }
        several => Err(ShimError::Layers(several.len())),
    }
}

fn is_wasm(layer: &Descriptor) -> bool {
    LAYER_TYPES.contains(&layer.media_type().to_string().as_str())
}

/// The manifest for Wasm, else that for this machine, else the only one.
pub(super) fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let of = |wanted: Arch| {
        manifests.iter().find(move |manifest| {
            let platform = manifest.platform().as_ref();
            platform.is_some_and(|platform| *platform.architecture() == wanted)
        })
    };
    of(Arch::Wasm)
        .or_else(|| of(Arch::default()))
        .or(match manifests {
            [only] => Some(only),
            _ => None,
        })
}

fn failed(call: &'static str, error: &dyn std::error::Error) -> ShimError {
    let reason = with_causes(error);
    ShimError::Containerd { call, reason }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptors(platforms: &[(&str, &str)]) -> Vec<Descriptor> {
        let described = platforms.iter().enumerate().map(|(number, (os, architecture))| {
            let digest = format!("sha256:{number:064x}");
            let platform = json!({ "os": os, "architecture": architecture });
            let descriptor =
                json!({ "mediaType": "application/wasm", "digest": digest, "size": 1, "platform": platform });
            serde_json::from_value(descriptor).unwrap()
        });
        described.collect()
    }

    #[test]
    fn the_manifest_for_wasm_is_preferred() {
        let host = Arch::default().to_string();
        let chosen = |platforms: &[(&str, &str)]| {
            let manifests = descriptors(platforms);
            choose(&manifests).map(|chosen| manifests.iter().position(|manifest| manifest == chosen).unwrap())
        };
        assert_eq!(chosen(&[("linux", &host), ("wasip1", "wasm")]), Some(1));
        assert_eq!(chosen(&[("linux", "s390x"), ("linux", &host)]), Some(1));
        assert_eq!(
            chosen(&[("linux", "s390x")]),
            Some(0),
            "containerd has chosen it already"
        );
        assert_eq!(chosen(&[("linux", "s390x"), ("linux", "ppc64le")]), None);
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn layers_are_told_by_their_media_type() {
        let layer = |kind: &str| {
            let digest = format!("sha256:{:064x}", 1);
            serde_json::from_value::<Descriptor>(json!({ "mediaType": kind, "digest": digest, "size": 1 }))
                .unwrap()
        };
        for kind in LAYER_TYPES {
            assert!(is_wasm(&layer(kind)), "{kind}");
        }
        assert!(!is_wasm(&layer("application/vnd.oci.image.layer.v1.tar+gzip")));
    }
}
