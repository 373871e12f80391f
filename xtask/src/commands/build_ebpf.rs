//! `build-ebpf`: the kernel programs, built reproducibly into the object that the agent embeds.

use crate::ebpf::Ebpf;
use crate::error::FileContext;
use crate::process;
use crate::toolchain::Toolchain;
use crate::{Error, Result, bpf_linker, committed, paths};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The object that the agent embeds, in the repository.
const COMMITTED: &str = "cwasi-agent/ebpf/cwasi.bpf.o";

/// Builds the eBPF programs and refreshes the committed object cwasi-agent/ebpf/cwasi.bpf.o.
///
/// The build is byte-reproducible: rustc 1.95.0 with its own LLVM, bpf-linker built against it, DWARF stripped, BTF
/// kept. Tools are kept in ~/.cache/cwasi (CWASI_CACHE). The standard library's source comes from rustup's rust-src,
/// RUST_SRC_LIBRARY (a `library` directory or a .tar.xz of it) or Debian's rust-src package.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Compare a rebuild with the committed object instead of writing it; fail when they differ.
    #[arg(long, conflicts_with_all = ["out", "features"])]
    check: bool,
    /// Cargo features of cwasi-ebpf, comma-separated; an object with features goes to --out.
    #[arg(long, value_delimiter = ',', requires = "out")]
    features: Vec<String>,
    /// Write the object here instead of refreshing the committed one.
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What keeps the object from being built; with `--check`, [`Error::Stale`] when the committed one differs.
pub fn run(args: &Args) -> Result<()> {
    let object = build(args)?;
    if args.check {
        return committed::check(Path::new(COMMITTED), &object, "build-ebpf");
    }
    let out = args.out.clone().unwrap_or_else(|| paths::root().join(COMMITTED));
    committed::write(&out, &object)
}

/// Builds the crate and returns the stripped object's bytes.
fn build(args: &Args) -> Result<Vec<u8>> {
    let ebpf = Ebpf::find()?;
    let linker = bpf_linker::ensure(&ebpf.toolchain)?;
    let mut cargo = ebpf.cargo("build", Some(&linker))?;
    cargo
        .arg("--message-format=json-render-diagnostics")
        .arg(format!("--features={}", args.features.join(",")));
    if args.check {
        cargo.arg("--locked");
    }
    let executable = process::executables(&process::stdout_bytes(&mut cargo)?).pop();
    let executable = executable.ok_or_else(|| Error::Output {
        program: "cargo build".into(),
        detail: "cwasi-ebpf has no binary target".into(),
    })?;
    strip(&ebpf.toolchain, &executable)
}

/// Removes DWARF, whose paths and order are of no use to the kernel, and keeps BTF.
fn strip(toolchain: &Toolchain, executable: &Path) -> Result<Vec<u8>> {
    let stripped = executable.with_extension("stripped");
    process::run(
        Command::new(toolchain.tool("rust-objcopy"))
            .arg("--strip-debug")
            .arg(executable)
            .arg(&stripped)
            .env("LD_LIBRARY_PATH", toolchain.lib_dir()),
    )?;
    fs::read(&stripped).file("read", &stripped)
}
