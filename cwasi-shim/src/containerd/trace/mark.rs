//! When a guest's process went through its stages: it tells the shim through a pipe, for it reaches nobody else.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

/// Where the shim reads it.
#[derive(Debug)]
pub struct Marked(File);

/// Where a guest's process writes it, once.
#[derive(Debug)]
pub struct Mark(File);

/// A pipe from a guest's process to the shim.
///
/// # Errors
/// `pipe2` fails: too many files are open.
pub fn marks() -> io::Result<(Marked, Mark)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((Marked(File::from(read)), Mark(File::from(write))))
}

impl Mark {
    /// Tells that a guest was made, from `began` on, until now.
    pub fn instantiated(&self, began: SystemTime) {
        let nanos = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_nanos()
                .to_le_bytes()
        };
        let both = [nanos(began), nanos(SystemTime::now())];
        // A shim that is gone needs no traces.
        let _ = (&self.0).write_all(both.as_flattened());
    }
}

impl From<OwnedFd> for Mark {
    fn from(pipe: OwnedFd) -> Self {
        Self(File::from(pipe))
    }
}

impl From<Mark> for OwnedFd {
    fn from(mark: Mark) -> Self {
        mark.0.into()
    }
}

impl Marked {
    /// Waits for the beginning and the end of the stage; `None` when the process ended before.
    pub fn wait(mut self) -> Option<[SystemTime; 2]> {
        let mut both = [[0; 16]; 2];
        self.0.read_exact(both.as_flattened_mut()).ok()?;
        let [began, ended] = both.map(|nanos| {
            let nanos = u64::try_from(u128::from_le_bytes(nanos)).ok()?;
            UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
        });
        Some([began?, ended?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_tells_when_it_was_made() {
        let (marked, mark) = marks().unwrap();
        let began = SystemTime::now();
        Mark::from(OwnedFd::from(mark)).instantiated(began);
        let [first, last] = marked.wait().unwrap();
        assert_eq!(first, began);
        assert!(last >= first);
    }

    #[test]
    fn a_guest_that_was_never_made_tells_nothing() {
        let (marked, mark) = marks().unwrap();
        drop(mark);
        assert_eq!(marked.wait(), None);
    }
}
