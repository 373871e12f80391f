//! Layers of a root filesystem.

use super::Blob;
use crate::digest::sha256;
use flate2::{Compression, GzBuilder};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use tar::{EntryType, Header};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A file of a root filesystem, owned by root.
#[derive(Debug, Clone, Copy, Default)]
pub struct File<'a> {
    /// Where it is, absolute.
    pub path: &'a str,
    /// Permission bits.
    pub mode: u32,
    /// Its content.
    pub content: &'a [u8],
    /// Capabilities that it gives to who executes it, as far as the container may have them: a bit for each. They are permitted
    /// and not effective (`=p`), so that it can be executed without them too.
    pub capabilities: u64,
}

/// The extended attribute of capabilities, as docker and containerd write it into a layer.
const CAPABILITY: &str = "SCHILY.xattr.security.capability";

/// Revision 2 of `struct vfs_cap_data` (`include/uapi/linux/capability.h`): no user namespace, no effective bit.
const REVISION: u32 = 0x0200_0000;

/// The value of the attribute: the revision, then permitted and inheritable capabilities in words of 32 bits, all little-endian.
fn capability(permitted: u64) -> Vec<u8> {
    let [a, b, c, d, e, f, g, h] = permitted.to_le_bytes();
    let words = [REVISION.to_le_bytes(), [a, b, c, d], [0; 4], [e, f, g, h], [0; 4]];
    words.concat()
}

/// The layer with these files and the directories that lead to them, and the digest of its content before compression,
/// by which an image's configuration names it.
///
/// # Panics
/// A path is longer than a tar holds.
#[must_use]
pub fn layer(files: &[File<'_>]) -> (Blob, String) {
    let mut entries = BTreeMap::new();
    for file in files {
        let path = Path::new(file.path.trim_start_matches('/'));
        for directory in path.ancestors().skip(1).filter(|path| *path != Path::new("")) {
            entries
                .entry(directory)
                .or_insert((EntryType::Directory, 0o755, &[][..], 0));
        }
        let entry = (EntryType::Regular, file.mode, file.content, file.capabilities);
        entries.insert(path, entry);
    }
    let mut archive = tar::Builder::new(Vec::new());
    for (path, (kind, mode, content, capabilities)) in entries {
        if capabilities != 0 {
            archive
                .append_pax_extensions([(CAPABILITY, &capability(capabilities)[..])])
                .expect("a Vec takes every write");
        }
        append(&mut archive, path, kind, mode, content);
    }
    let tar = archive.into_inner().expect("a Vec takes every write");
    let diff_id = format!("sha256:{}", sha256(&tar));
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(&tar).expect("a Vec takes every write");
    (
        Blob::new(LAYER, gzip.finish().expect("a Vec takes every write")),
        diff_id,
    )
}

/// Adds an entry of root's, as old as can be.
pub(super) fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &Path,
    kind: EntryType,
    mode: u32,
    content: &[u8],
) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    archive
        .append_data(&mut header, path, content)
        .expect("a Vec takes every write, and paths are short");
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    const FILES: [File<'static>; 2] = [
        File {
            path: "/bin/b",
            mode: 0o755,
            content: b"b",
            capabilities: 1 << 39,
        },
        File {
            path: "/app.wasm",
            mode: 0o644,
            content: b"aa",
            capabilities: 0,
        },
    ];

    #[test]
    fn layers_hold_sorted_files_and_their_directories() {
        let (blob, diff_id) = layer(&FILES);
        let mut tar = Vec::new();
        GzDecoder::new(blob.bytes()).read_to_end(&mut tar).unwrap();
        assert_eq!(diff_id, format!("sha256:{}", sha256(&tar)));
        let mut archive = tar::Archive::new(&tar[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let header = entry.header();
            assert_eq!(
                [
                    header.uid().unwrap(),
                    header.gid().unwrap(),
                    header.mtime().unwrap()
                ],
                [0; 3]
            );
            let path = entry.path().unwrap().display().to_string();
            format!("{path} {:o} {content}", header.mode().unwrap())
        });
        assert_eq!(
            Vec::from_iter(entries),
            ["app.wasm 644 aa", "bin 755 ", "bin/b 755 b"]
        );
    }

    #[test]
    fn order_makes_no_difference() {
        let [one, other] = FILES;
        assert_eq!(layer(&[one, other]), layer(&[other, one]));
    }
}
