//! How the eBPF crate is compiled: another target, with `core` built from source, in its own workspace.

use crate::rust_src::RustSrc;
use crate::toolchain::{Toolchain, encode_flags, remap_flags};
use crate::{Result, paths, rustc_wrapper};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What every cargo command on the eBPF crate needs.
#[derive(Debug, Clone)]
pub struct Ebpf {
    /// The compiler whose output is committed.
    pub toolchain: Toolchain,
    rust_src: RustSrc,
    target_dir: PathBuf,
}

impl Ebpf {
    /// Finds the compiler and the standard library's source.
    ///
    /// # Errors
    /// As [`Toolchain::find`] and [`RustSrc::find`].
    pub fn find() -> Result<Self> {
        let toolchain = Toolchain::find()?;
        let rust_src = RustSrc::find(&toolchain)?;
        // A target directory of its own: its lock does not wait for builds of the root workspace.
        Ok(Self {
            toolchain,
            rust_src,
            target_dir: paths::target_dir().join("ebpf"),
        })
    }

    /// A cargo command on the eBPF crate; `linker` is only needed where a command links.
    ///
    /// # Errors
    /// As [`remap_flags`].
    pub fn cargo(&self, subcommand: &str, linker: Option<&Path>) -> Result<Command> {
        let mut flags = remap_flags(&self.target_dir, &self.rust_src.library)?;
        // The object is the same for every host; only tracing programs would read this architecture's registers.
        flags.extend([
            "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
            "-Cdebuginfo=2".to_owned(),
        ]);
        if let Some(linker) = linker {
            flags.extend([
                "-Clink-arg=--btf".to_owned(),
                format!("-Clinker={}", linker.display()),
            ]);
        }
        let mut cargo = self.toolchain.cargo();
        cargo
            .args([
                subcommand,
                "--release",
                "-Zbuild-std=core",
                "--target=bpfel-unknown-none",
                "--target-dir",
            ])
            .arg(&self.target_dir)
            .current_dir(paths::root().join("cwasi-ebpf"))
            .env("CARGO_ENCODED_RUSTFLAGS", encode_flags(&flags));
        self.rust_src.apply(&mut cargo);
        rustc_wrapper::apply(&mut cargo)?;
        Ok(cargo)
    }
}
