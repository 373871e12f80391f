//! containerd: which one, how it is configured, and its process.

mod config;
mod process;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::debian::Package;

pub use config::Runtime;
pub(crate) use config::{Layout, PAUSE, cni, containerd};
pub(crate) use process::Process;

use crate::wait;
use crate::{Error, Result};

/// A version newer than Debian 12's, from the newest suite that has one.
const NEWER: Package = Package {
    name: "containerd",
    version: "2.1.9+ds1-5",
    sha256: "2dda86ce7033fd612fc50e136679d8174ccad680eb29cd4611e0d2a1b84cf591",
    suite: "forky",
};

/// The programs of a containerd.
#[derive(Clone, Debug)]
pub struct Containerd {
    /// Directory with `containerd`, `ctr` and `containerd-shim-runc-v2`.
    pub bin: PathBuf,
    /// Its version, as it tells itself.
    pub version: String,
    major: u32,
}

impl Containerd {
    /// The machine's own.
    ///
    /// # Errors
    /// [`Error::Missing`] where none is installed.
    pub fn installed() -> Result<Self> {
        let bin = Path::new("/usr/bin");
        if bin.join("containerd").is_file() && bin.join("ctr").is_file() {
            return Self::at(bin);
        }
        Err(Error::Missing {
            what: "containerd is not installed".to_owned(),
            remedy: "install the packages containerd and runc".to_owned(),
        })
    }

    /// Debian's newest, unpacked privately.
    ///
    /// # Errors
    /// [`Error::Build`] where it cannot be fetched, [`Error::Failed`] where it does not run.
    pub fn newer() -> Result<Self> {
        Self::at(&NEWER.unpack()?.join("usr/bin"))
    }

    fn at(bin: &Path) -> Result<Self> {
        let text = wait::succeed(Command::new(bin.join("containerd")).arg("--version"))?;
        // "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3"
        let version = text.split_whitespace().nth(2).unwrap_or_default().to_owned();
        let digits = version.trim_start_matches('v').split('.').next();
        let Some(major) = digits.and_then(|digits| digits.parse().ok()) else {
            return Err(Error::Output {
                program: "containerd --version".to_owned(),
                detail: text,
            });
        };
        Ok(Self {
            bin: bin.to_owned(),
            version,
            major,
        })
    }

    /// Whether it is of the line that configures by version 3 and imports through its transfer service.
    #[must_use]
    pub const fn is_2(&self) -> bool {
        self.major >= 2
    }
}

impl fmt::Display for Containerd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "containerd {}", self.version)
    }
}
