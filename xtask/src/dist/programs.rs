//! The programs of a release, and their build.

use crate::error::FileContext;
use crate::toolchain::{Toolchain, encode_flags, remap_flags};
use crate::{Error, Result, digest, paths, process, progress};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A program of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// The name of its file.
    pub name: &'static str,
    /// The crate that it is of.
    pub package: &'static str,
    /// Features of that crate.
    pub features: &'static [&'static str],
    /// Whether it needs no library of the machine that it runs on. Programs that ask for names cannot be: the C library does that by
    /// libraries that the machine's own version chooses and loads.
    pub is_static: bool,
}

impl Program {
    /// Cargo's flags for its features.
    pub(super) fn feature_flags(&self) -> impl Iterator<Item = String> {
        let features = self.features.iter();
        features.map(|feature| format!("--features={}/{feature}", self.package))
    }
}

/// The agent.
pub const AGENT: Program = Program {
    name: "cwasi-agent",
    package: "cwasi-agent",
    features: &[],
    is_static: true,
};

/// The installer of nodes.
pub const INSTALLER: Program = Program {
    name: "cwasi-installer",
    package: "cwasi-installer",
    features: &[],
    is_static: true,
};

/// The runner.
pub const RUNNER: Program = Program {
    name: "cwasi-run",
    package: "cwasi-shim",
    features: &["containerd"],
    is_static: false,
};

/// The shim of containerd.
pub const SHIM: Program = Program {
    name: "containerd-shim-cwasi-v1",
    package: "cwasi-shim",
    features: &["containerd"],
    is_static: false,
};

/// All of them.
pub const PROGRAMS: [Program; 4] = [AGENT, INSTALLER, RUNNER, SHIM];

/// A program that was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// Which.
    pub program: Program,
    /// Its file.
    pub bytes: Vec<u8>,
}

impl Built {
    /// The digest of its file, lower-case hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> String {
        digest::sha256(&self.bytes)
    }
}

/// Builds all programs with the profile `dist`.
///
/// # Errors
/// Something that the build needs is missing, it fails, or a program that shall be static is not.
pub fn build() -> Result<Vec<Built>> {
    let toolchain = Toolchain::find()?;
    let seccomp = process::stdout(Command::new("pkg-config").args(["--variable=libdir", "libseccomp"]))?;
    // Apart, as flags differ, and from other builds, which would be in each other's way.
    let all = paths::target_dir().join("dist-build");
    for (is_static, directory) in [(true, "static"), (false, "dynamic")] {
        let directory = all.join(directory);
        let library = toolchain.sysroot.join("lib/rustlib/src/rust/library");
        let mut flags = remap_flags(&directory, &library)?;
        if is_static {
            flags.push("-Ctarget-feature=+crt-static".to_owned());
        }
        let mut cargo = toolchain.cargo();
        cargo
            .args([
                "build",
                "--locked",
                "--profile",
                "dist",
                "--target",
                &toolchain.host,
                "--target-dir",
            ])
            .arg(&directory)
            .current_dir(paths::root())
            .env("CARGO_ENCODED_RUSTFLAGS", encode_flags(&flags))
            // The node's own may be another version, or not there.
            .env("LIBSECCOMP_LINK_TYPE", "static")
            .env("LIBSECCOMP_LIB_PATH", &seccomp);
        for program in PROGRAMS.iter().filter(|program| program.is_static == is_static) {
            cargo.args(["-p", program.package, "--bin", program.name]);
            cargo.args(program.feature_flags());
        }
        let _step = progress::step(if is_static {
            "building the static programs"
        } else {
            "building the others"
        });
        process::run(&mut cargo)?;
    }
    PROGRAMS
        .iter()
        .map(|program| {
            let kind = if program.is_static { "static" } else { "dynamic" };
            let built = read(program, &all.join(kind).join(&toolchain.host).join("dist"))?;
            if program.is_static && !is_static(&built.bytes) {
                return Err(Error::Checks(format!(
                    "{} is not statically linked",
                    program.name
                )));
            }
            Ok(built)
        })
        .collect()
}

/// Takes programs that are built, as they are.
///
/// # Errors
/// One is not there.
pub fn find(directory: &Path) -> Result<Vec<Built>> {
    PROGRAMS.iter().map(|program| read(program, directory)).collect()
}

fn read(program: &Program, directory: &Path) -> Result<Built> {
    let path = directory.join(program.name);
    if !path.is_file() {
        return Err(Error::Missing {
            what: format!("{} is not there", path.display()),
            remedy: format!("build it: cargo build -p {}", program.package),
        });
    }
    Ok(Built {
        program: *program,
        bytes: fs::read(&path).file("read", path)?,
    })
}

/// Whether a program is an ELF file (64 bits, little-endian) that asks for no interpreter, which would load its libraries.
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let offset = || usize::try_from(u64::from_le_bytes(elf.get(0x20..0x28)?.try_into().ok()?)).ok();
    let kinds = || {
        let (start, size, count) = (offset()?, u16_at(0x36)?, u16_at(0x38)?);
        (0..usize::from(count))
            .map(|header| u32_at(start + header * usize::from(size)))
            .collect::<Option<Vec<_>>>()
    };
    elf.starts_with(b"\x7fELF\x02\x01") && kinds().is_some_and(|kinds| !kinds.contains(&PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_programs_are_told_from_others() {
        // This test is linked as rustc does it: with the machine's C library.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&own));
        let mut header = own[..0x40].to_vec();
        header[0x38..0x3a].fill(0);
        assert!(is_static(&header), "no program header asks for anything");
        assert!(!is_static(b"#!/bin/sh\n"));
        assert!(!is_static(&own[..0x30]));
    }

    #[test]
    fn what_is_not_built_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let error = find(directory.path()).unwrap_err().to_string();
        assert!(error.contains("cwasi-agent is not there; build it"), "{error}");
    }
}
