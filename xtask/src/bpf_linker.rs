//! bpf-linker, built against the LLVM that rustc itself ships: no LLVM package is needed.

use crate::error::FileContext;
use crate::process;
use crate::toolchain::Toolchain;
use crate::{Error, Result, paths};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "0.13.0";

/// The path of bpf-linker in the cache, where it is built first when it is missing (about a minute).
///
/// # Errors
/// [`Error::Missing`] when the toolchain ships no shared LLVM, [`Error::Failed`] when the build fails.
pub fn ensure(toolchain: &Toolchain) -> Result<PathBuf> {
    let cache = paths::cache_dir()?;
    let prefix = cache.join("llvm");
    link_llvm(&prefix.join("lib"), toolchain)?;
    let tools = cache.join("tools");
    let linker = tools.join("bin/bpf-linker");
    let installed = Command::new(&linker).arg("--version").output();
    if installed.is_ok_and(|output| {
        output.status.success()
            && String::from_utf8_lossy(&output.stdout)
                .split_whitespace()
                .any(|word| word == VERSION)
    }) {
        return Ok(linker);
    }
    eprintln!("building bpf-linker {VERSION} into {}", tools.display());
    process::run(
        toolchain
            .cargo()
            .args([
                "install",
                "bpf-linker",
                "--version",
                VERSION,
                "--locked",
                "--force",
            ])
            .args(["--no-default-features", "--features", "llvm-22"])
            .arg("--root")
            .arg(&tools)
            .env("LLVM_PREFIX", &prefix)
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    )?;
    Ok(linker)
}

/// bpf-linker wants an LLVM prefix and records it as its run path, so the links stay for its lifetime.
fn link_llvm(directory: &Path, toolchain: &Toolchain) -> Result<()> {
    let lib = toolchain.lib_dir();
    let library = fs::read_dir(&lib)
        .file("read", &lib)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so."))
        })
        .ok_or_else(|| Error::Missing {
            what: format!("no libLLVM.so in {}", lib.display()),
            remedy: "bpf-linker is built against the LLVM of a rustup toolchain: use one".into(),
        })?;
    fs::create_dir_all(directory).file("create", directory)?;
    let versioned = library.file_name().expect("found by its name");
    for link in [directory.join("libLLVM.so"), directory.join(versioned)] {
        if link.exists() {
            continue;
        }
        // A link into a toolchain that was removed is there and yet does not exist.
        if link.is_symlink() {
            fs::remove_file(&link).file("remove", &link)?;
        }
        symlink(&library, &link).file("create", &link)?;
    }
    Ok(())
}
