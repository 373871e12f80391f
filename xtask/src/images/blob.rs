//! Content that is named by its digest.

use crate::digest::sha256;
use serde_json::{Map, Value};

/// Bytes with a media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    media_type: String,
    hex: String,
    bytes: Vec<u8>,
}

impl Blob {
    /// A blob of these bytes.
    #[must_use]
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            hex: sha256(&bytes),
            bytes,
        }
    }

    /// A blob of a JSON document.
    pub(super) fn json(media_type: &str, document: &Value) -> Self {
        Self::new(media_type, document.to_string().into_bytes())
    }

    /// Its digest, with the name of the algorithm.
    #[must_use]
    pub fn digest(&self) -> String {
        format!("sha256:{}", self.hex)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where it is in a layout.
    pub(super) fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hex)
    }

    /// The descriptor that refers to it.
    pub(super) fn descriptor(&self) -> Map<String, Value> {
        Map::from_iter([
            ("mediaType".to_owned(), self.media_type.clone().into()),
            ("digest".to_owned(), self.digest().into()),
            ("size".to_owned(), self.bytes.len().into()),
        ])
    }
}
