//! bpf-linker, built against the LLVM that rustc itself ships: no LLVM package is needed.

use crate::cargo_tool::CargoTool;
use crate::error::FileContext;
use crate::toolchain::Toolchain;
use crate::{Error, Result, paths};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const BPF_LINKER: CargoTool = CargoTool {
    name: "bpf-linker",
    version: "0.13.0",
    features: "llvm-22",
};

/// The path of bpf-linker in the cache, where it is built first when it is missing (about a minute).
///
/// # Errors
/// [`Error::Missing`] when the toolchain ships no shared LLVM, [`Error::Failed`] when the build fails.
pub fn ensure(toolchain: &Toolchain) -> Result<PathBuf> {
    let prefix = paths::cache_dir()?.join("llvm");
    link_llvm(&prefix.join("lib"), toolchain)?;
    BPF_LINKER.ensure(toolchain.cargo().env("LLVM_PREFIX", &prefix))
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
