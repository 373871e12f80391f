//! Compressed tars that are the same every time.

use flate2::{Compression, GzBuilder};
use std::collections::BTreeMap;
use std::io::Write;
use tar::{EntryType, Header};

/// A gzipped tar of these files with their modes, by path, and the directories that lead to them: all root's, and from the time
/// `epoch`, in seconds since 1970.
///
/// # Panics
/// A path is longer than a tar holds.
pub(super) fn tar_gz(files: &BTreeMap<String, (u32, Vec<u8>)>, epoch: u64) -> Vec<u8> {
    let mut entries = BTreeMap::new();
    for (path, (mode, content)) in files {
        for (end, _) in path.match_indices('/') {
            let directory = (EntryType::Directory, 0o755, &[][..]);
            entries.insert(&path[..=end], directory);
        }
        entries.insert(path, (EntryType::Regular, *mode, content));
    }
    let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    let mut archive = tar::Builder::new(gzip);
    for (path, (kind, mode, content)) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(epoch);
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, path, content)
            .expect("a Vec takes every write, and paths are short");
    }
    let mut gzip = archive.into_inner().expect("a Vec takes every write");
    gzip.flush().expect("a Vec takes every write");
    gzip.finish().expect("a Vec takes every write")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;

    #[test]
    fn entries_are_sorted_roots_and_as_old_as_told() {
        let files = BTreeMap::from([
            ("x/b/2".to_owned(), (0o644, b"2".to_vec())),
            ("x/a".to_owned(), (0o755, b"1".to_vec())),
        ]);
        let bytes = tar_gz(&files, 1000);
        assert_eq!(bytes, tar_gz(&files, 1000));
        let mut archive = tar::Archive::new(GzDecoder::new(&bytes[..]));
        let seen: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let (header, path) = (entry.header(), entry.path().unwrap().display().to_string());
                assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (0, 1000));
                (path, header.mode().unwrap())
            })
            .collect();
        let expected = [("x/", 0o755), ("x/a", 0o755), ("x/b/", 0o755), ("x/b/2", 0o644)];
        assert_eq!(seen, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }
}
