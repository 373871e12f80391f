//! SHA-256 as text.

use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The digest of some bytes, lower-case hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes every write");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::sha256;

    #[test]
    fn the_empty_digest_is_the_known_one() {
        assert_eq!(
            sha256(b""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
