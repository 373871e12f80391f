//! Static native programs, compiled when they are needed: a sandbox's own process, and a peer of Wasm functions.

use std::env;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use crate::error::{IoContext, on};
use crate::images::{File, Image, Process};
use crate::{Result, containerd, wait};

/// A program with its C source.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The name of its file.
    pub name: &'static str,
    source: &'static str,
    built: &'static OnceLock<Vec<u8>>,
}

static PAUSE_BYTES: OnceLock<Vec<u8>> = OnceLock::new();
static PEER_BYTES: OnceLock<Vec<u8>> = OnceLock::new();

/// Sleeps until it is told to end.
pub const PAUSE: Program = Program {
    name: "pause",
    source: include_str!("../c/pause.c"),
    built: &PAUSE_BYTES,
};

/// Prints what it was given, ends as it is told, serves and calls an echo: see its source.
pub const PEER: Program = Program {
    name: "peer",
    source: include_str!("../c/peer.c"),
    built: &PEER_BYTES,
};

impl Program {
    /// The statically linked program; compiled once.
    ///
    /// # Errors
    /// There is no C compiler, or it has no static library.
    pub fn bytes(&self) -> Result<&'static [u8]> {
        if let Some(bytes) = self.built.get() {
            return Ok(bytes);
        }
        let directory = tempfile::tempdir().action(|| "make a temporary directory")?;
        let source = directory.path().join(self.name).with_extension("c");
        let binary = directory.path().join(self.name);
        fs::write(&source, self.source).action(on("write", &source))?;
        wait::succeed(
            Command::new("cc")
                .args(["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
                .args([&binary, &source]),
        )?;
        let bytes = fs::read(&binary).action(on("read", &binary))?;
        Ok(self.built.get_or_init(|| bytes))
    }

    /// The program as an image with nothing else in it.
    ///
    /// # Errors
    /// See [`Program::bytes`].
    pub fn image(&self) -> Result<Image> {
        let path = format!("/{}", self.name);
        let file = File {
            path: &path,
            mode: 0o755,
            content: self.bytes()?,
            ..File::default()
        };
        let mut process = Process::new([&path]);
        let reference = match self.name {
            "pause" => {
                // What image builders add, and Kubernetes' own pause image has.
                process.env =
                    vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
                containerd::PAUSE.to_owned()
            }
            name => format!("docker.io/local/{name}:1"),
        };
        Ok(Image::rootfs(&reference, &[file], &process))
    }
}

/// Whether a program is found in `PATH` or where administrators' programs are.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|directory| directory.join(program).is_file())
}
