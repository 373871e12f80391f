//! Room for new entries: whoever may start programs could fill the disk with their machine code.

use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::AtFlags;
use nix::sys::stat::{fstatat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Ends the name of every entry.
pub(super) const SUFFIX: &str = ".cwasm";

/// A file of the cache.
struct Stored {
    name: String,
    bytes: i64,
    /// Seconds and nanoseconds since the epoch.
    used: (i64, i64),
}

/// Notes that an entry was used now. Its content, and when it was written, stay.
pub(super) fn touch(entry: &File) {
    // Where that cannot be, as on a read-only file system, nothing is stored and nothing removed either.
    let _ = futimens(entry, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_OMIT);
}

/// Removes entries, those that were not used for longest first, until the directory has at most `most` bytes of them. The entry
/// `new` stays. What a writer left that was killed goes like an entry; files of others are left alone.
pub(super) fn make(dir: &File, path: &Path, new: &str, most: i64) {
    let Ok(listed) = fs::read_dir(path) else { return };
    let names = listed.filter_map(|file| file.ok()?.file_name().into_string().ok());
    let mut files: Vec<Stored> = names
        .filter(|name| name != new && is_ours(name))
        .filter_map(|name| look(dir, name))
        .collect();
    files.sort_by_key(|file| file.used);
    let kept = look(dir, new.to_owned()).map_or(0, |file| file.bytes);
    let mut bytes = files.iter().map(|file| file.bytes).sum::<i64>() + kept;
    for file in files {
        if bytes <= most {
            return;
        }
        // Others make room, too: who is first does not matter.
        let _ = unlinkat(dir, file.name.as_str(), UnlinkatFlags::NoRemoveDir);
        bytes -= file.bytes;
    }
}

/// An entry's name, or one under which an entry is written: a dot, the entry's name, a dot and more.
fn is_ours(name: &str) -> bool {
    let written = name.strip_prefix('.').and_then(|name| name.split_once(SUFFIX));
    name.ends_with(SUFFIX) || written.is_some_and(|(_, rest)| rest.starts_with('.'))
}

fn look(dir: &File, name: String) -> Option<Stored> {
    let stat = fstatat(dir, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    let used = (stat.st_atime, stat.st_atime_nsec).max((stat.st_mtime, stat.st_mtime_nsec));
    Some(Stored {
        name,
        bytes: stat.st_size,
        used,
    })
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let open = File::open(dir.path()).unwrap();
        let write = |name: &str| {
            fs::write(dir.path().join(name), [0; 1000]).unwrap();
            // Longer than the tick of the file system's clock.
            sleep(Duration::from_millis(20));
        };
        for name in [
            ".lock",
            "other",
            ".killed.cwasm.1.2.3",
            "a.cwasm",
            "b.cwasm",
            "c.cwasm",
        ] {
            write(name);
        }
        make(&open, dir.path(), "c.cwasm", 4000);
        assert_eq!(names(dir.path()).len(), 6, "there is room");
        touch(&File::open(dir.path().join("a.cwasm")).unwrap());
        write("d.cwasm");
        make(&open, dir.path(), "d.cwasm", 3000);
        assert_eq!(
            names(dir.path()),
            [".lock", "a.cwasm", "c.cwasm", "d.cwasm", "other"]
        );
        make(&open, dir.path(), "c.cwasm", 500);
        assert_eq!(
            names(dir.path()),
            [".lock", "c.cwasm", "other"],
            "the new one stays, however large"
        );
    }
}
