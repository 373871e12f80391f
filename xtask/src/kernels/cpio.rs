//! Archives that the kernel unpacks as its first file system (`newc`: Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive in memory.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Cpio {
    /// Adds a directory and those above it.
    pub fn directory(&mut self, path: &str) {
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str)
            && !matches!(parent, "" | "/")
        {
            self.directory(parent);
        }
        if self.directories.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, (0, 0), &[]);
        }
    }

    /// Adds an executable file, with its directory.
    ///
    /// # Panics
    /// The path is not absolute.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        let directory = Path::new(path).parent().and_then(Path::to_str);
        self.directory(directory.expect("an absolute path"));
        self.entry(path, PROGRAM, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, numbers: (u32, u32)) {
        self.entry(path, CHARACTER_DEVICE, numbers, &[]);
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        let name = path.trim_start_matches('/');
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("files of less than 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("short names");
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            major,
            minor,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The whole archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_directories_come_first() {
        let mut cpio = Cpio::default();
        cpio.file("/a/b/c", b"12345");
        cpio.file("/a/d", b"");
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<usize> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, window)| *window == b"070701")
            .map(|(at, _)| at)
            .collect();
        assert_eq!(starts.len(), 5);
        assert!(starts.iter().all(|start| start % 4 == 0), "{starts:?}");
        let name = |start: usize| {
            let name = &bytes[start + 110..];
            String::from_utf8_lossy(&name[..name.iter().position(|byte| *byte == 0).unwrap()]).into_owned()
        };
        let names: Vec<String> = starts.into_iter().map(name).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/d", "TRAILER!!!"]);
    }
}
