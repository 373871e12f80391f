//! `build-ebpf`: the kernel programs, built reproducibly into the object that the agent embeds.

use crate::error::FileContext;
use crate::process;
use crate::rust_src::RustSrc;
use crate::toolchain::{Toolchain, encode_flags, remap_flags};
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
    let object = build(&args.features)?;
    if args.check {
        return committed::check(Path::new(COMMITTED), &object, "build-ebpf");
    }
    let out = args.out.clone().unwrap_or_else(|| paths::root().join(COMMITTED));
    committed::write(&out, &object)
}

/// Builds the crate and returns the stripped object's bytes.
fn build(features: &[String]) -> Result<Vec<u8>> {
    let toolchain = Toolchain::find()?;
    let rust_src = RustSrc::find(&toolchain)?;
    let linker = bpf_linker::ensure(&toolchain)?;
    // A target directory of its own: its lock does not wait for builds of the root workspace.
    let target_dir = paths::target_dir().join("ebpf");
    let mut flags = remap_flags(&target_dir, Some(&rust_src.library))?;
    flags.extend([
        // The object is the same for every host; only tracing programs would read this architecture's registers.
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
    ]);
    let mut cargo = toolchain.cargo();
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "-Zbuild-std=core",
            "--target=bpfel-unknown-none",
        ])
        .arg("--message-format=json-render-diagnostics")
        .arg(format!("--features={}", features.join(",")))
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(paths::root().join("cwasi-ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", encode_flags(&flags));
    rust_src.apply(&mut cargo);
    let executable = executable(&process::stdout_bytes(&mut cargo)?)?;
    strip(&toolchain, &executable)
}

/// The one executable among cargo's JSON messages.
fn executable(messages: &[u8]) -> Result<PathBuf> {
    let found = messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .next_back();
    found.ok_or_else(|| Error::Output {
        program: "cargo build".into(),
        detail: "cwasi-ebpf has no binary target that was built".into(),
    })
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

#[cfg(test)]
mod tests {
    use super::executable;

    #[test]
    fn the_executable_is_read_from_cargo_messages() {
        let messages = br#"{"reason":"compiler-artifact","executable":null}
{"reason":"compiler-artifact","executable":"/t/release/cwasi"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages).unwrap().to_str(), Some("/t/release/cwasi"));
        assert!(executable(b"{}").is_err());
    }
}
