//! A disk, of which what is read stays in the page cache.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::NamedTempFile;

/// A block device of zeros (loop(4)), which goes at the end.
pub struct Disk {
    device: PathBuf,
    // What was read of it would go with the last who has it open.
    open: Option<File>,
    _file: NamedTempFile,
}

impl Disk {
    /// Makes one of so many bytes.
    pub fn new(len: u64) -> Self {
        let file = NamedTempFile::new().expect("a file");
        file.as_file().set_len(len).expect("set the length of a file");
        let free = losetup(&["-f"]);
        let device = PathBuf::from(free.trim());
        losetup(&[free.trim(), &file.path().display().to_string()]);
        Self {
            open: Some(File::open(&device).expect("open a device")),
            device,
            _file: file,
        }
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.device
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.open = None;
        losetup(&["-d", &self.device.display().to_string()]);
    }
}

fn losetup(arguments: &[&str]) -> String {
    let output = Command::new("losetup")
        .args(arguments)
        .output()
        .expect("run losetup");
    assert!(output.status.success(), "losetup {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}
