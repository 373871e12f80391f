//! Where a run takes place.

use std::fs;
use std::process::Command;
use std::thread;

use serde::{Deserialize, Serialize};

use crate::error::IoContext;
use crate::{Result, tool};

/// A machine, as far as it bears on figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many of them.
    pub cpus: usize,
    /// MiB of memory.
    pub memory_mib: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Load average of the last minute, before anything ran.
    pub load: f64,
}

impl Machine {
    /// This machine now.
    ///
    /// # Errors
    /// The kernel's release cannot be asked for.
    pub fn read() -> Result<Self> {
        let uname = nix::sys::utsname::uname().action(|| "read the kernel's release (uname)")?;
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Ok(Self {
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| {
                // Arm's kernels do not name it.
                uname.machine().to_string_lossy().into_owned()
            }),
            cpus: thread::available_parallelism().map_or(0, usize::from),
            memory_mib: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|size| size.trim_end_matches(" kB").parse::<u64>().ok())
                .unwrap_or_default()
                / 1024,
            kernel: uname.release().to_string_lossy().into_owned(),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or_default(),
        })
    }
}

/// The value of `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// The commit of the repository in which this runs, or `unknown`.
#[must_use]
pub fn commit() -> String {
    let describe = tool::run(
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]),
        "",
    );
    describe.map_or_else(|_| "unknown".to_owned(), |commit| commit.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known() {
        let machine = Machine::read().unwrap();
        assert!(machine.cpus > 0 && machine.memory_mib > 0 && !machine.kernel.is_empty());
        assert!(!machine.processor.is_empty());
    }

    #[test]
    fn fields_are_found_by_their_name() {
        let text = "model\t: 1\nmodel name\t: Some CPU @ 1 GHz\n";
        assert_eq!(field(text, "model name").unwrap(), "Some CPU @ 1 GHz");
        assert_eq!(field(text, "missing"), None);
    }
}
