//! OCI image layouts: a directory, or a tar of it, that tools push to registries and containerd imports.

use super::{Image, layer};
use crate::error::FileContext;
use crate::{Error, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tar::EntryType;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The file that makes a directory a layout.
const MARK: &str = "oci-layout";

impl Image {
    /// The layout's files by path.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [self.descriptor()]});
        let mark = json!({"imageLayoutVersion": "1.0.0"});
        let mut files = BTreeMap::from([
            ("index.json".to_owned(), index.to_string().into_bytes()),
            (MARK.to_owned(), mark.to_string().into_bytes()),
        ]);
        files.extend(self.blobs().map(|blob| (blob.path(), blob.bytes().to_vec())));
        files
    }

    /// The layout as a tar.
    #[must_use]
    pub fn tar(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for directory in ["blobs", "blobs/sha256"] {
            layer::append(
                &mut archive,
                Path::new(directory),
                EntryType::Directory,
                0o755,
                &[],
            );
        }
        for (path, content) in self.files() {
            layer::append(
                &mut archive,
                Path::new(&path),
                EntryType::Regular,
                0o644,
                &content,
            );
        }
        archive.into_inner().expect("a Vec takes every write")
    }

    /// Writes the layout as a directory, in place of the layout that is there.
    ///
    /// # Errors
    /// [`Error::Missing`] when something else is there, [`Error::File`] when it cannot be written.
    pub fn write_layout(&self, directory: &Path) -> Result<()> {
        if directory.join(MARK).is_file() {
            fs::remove_dir_all(directory).file("remove", directory)?;
        } else if directory.exists() {
            return Err(Error::Missing {
                what: format!("{} is there and is no OCI layout", directory.display()),
                remedy: "remove it, or choose another directory".into(),
            });
        }
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).file("create", blobs)?;
        for (path, content) in self.files() {
            let path = directory.join(path);
            fs::write(&path, content).file("write", path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;
    use crate::images::{File, Process};

    fn image() -> Image {
        let file = File {
            path: "/app",
            mode: 0o755,
            content: b"x",
            ..File::default()
        };
        Image::rootfs("docker.io/local/x:1", &[file], &Process::new(["/app"]))
    }

    #[test]
    fn a_layout_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("layout");
        image().write_layout(&directory).unwrap();
        let json = |path: &Path| -> serde_json::Value {
            serde_json::from_slice(&fs::read(directory.join(path)).unwrap()).unwrap()
        };
        assert_eq!(json(Path::new(MARK))["imageLayoutVersion"], "1.0.0");
        let named = &json(Path::new("index.json"))["manifests"][0];
        assert_eq!(
            named["annotations"]["io.containerd.image.name"],
            "docker.io/local/x:1"
        );
        let blob = |descriptor: &serde_json::Value| {
            let hex = descriptor["digest"]
                .as_str()
                .unwrap()
                .strip_prefix("sha256:")
                .unwrap();
            let path = Path::new("blobs/sha256").join(hex);
            let bytes = fs::read(directory.join(&path)).unwrap();
            assert_eq!(
                (sha256(&bytes).as_str(), bytes.len() as u64),
                (hex, descriptor["size"].as_u64().unwrap())
            );
            path
        };
        let manifest = json(&blob(named));
        blob(&manifest["config"]);
        blob(&manifest["layers"][0]);
        assert_eq!(fs::read_dir(directory.join("blobs/sha256")).unwrap().count(), 3);
    }

    #[test]
    fn bytes_are_the_same_every_time() {
        assert_eq!(image().tar(), image().tar());
    }

    #[test]
    fn only_layouts_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let layout = directory.path().join("layout");
        image().write_layout(&layout).unwrap();
        fs::write(layout.join("blobs/stale"), "").unwrap();
        image().write_layout(&layout).unwrap();
        assert!(!layout.join("blobs/stale").exists());

        let other = directory.path().join("other");
        fs::create_dir(&other).unwrap();
        assert!(image().write_layout(&other).is_err());
    }
}
