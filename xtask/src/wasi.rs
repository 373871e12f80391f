//! The sysroots of WASI 0.1 and 0.2 that the committed guests are built with: Debian's wasi-libc, unpacked privately.

use crate::Result;
use crate::debian::Package;
use std::path::PathBuf;

const LIBC: Package = Package {
    name: "wasi-libc",
    version: "0.0~git20240708.3f43ea9-2~bpo12+1",
    sha256: "ab95a83896093f1f640f9954a5a64ef8e9635332e56fdbb3ed396aed13fe627f",
    suite: "bookworm-backports",
};

const BUILTINS: Package = Package {
    name: "libclang-rt-14-dev-wasm32",
    version: "1:14.0.6-12",
    sha256: "d997240904fa3b0ed62f759fb374082004d15bb1fb27c990fe98657e3287c9c4",
    suite: "bookworm",
};

/// The target of components.
pub const WASIP2: &str = "wasm32-wasip2";
/// The target of modules.
pub const WASIP1: &str = "wasm32-wasip1";

/// The pieces of the sysroots.
#[derive(Debug, Clone)]
pub struct Sysroot {
    libc: PathBuf,
    builtins: PathBuf,
}

impl Sysroot {
    /// Fetches and unpacks the sysroot once.
    ///
    /// # Errors
    /// As [`Package::unpack`].
    pub fn find() -> Result<Self> {
        Ok(Self {
            libc: LIBC.unpack()?.join("usr"),
            builtins: BUILTINS.unpack()?.join("usr"),
        })
    }

    /// The directory of the C headers for components.
    #[must_use]
    pub fn include(&self) -> PathBuf {
        self.libc.join("include").join(WASIP2)
    }

    /// The directory of libc and its parts for `target`.
    #[must_use]
    pub fn lib(&self, target: &str) -> PathBuf {
        self.libc.join("lib").join(target)
    }

    /// The start object of a command of `target`.
    #[must_use]
    pub fn crt(&self, target: &str) -> PathBuf {
        self.lib(target).join("crt1-command.o")
    }

    /// The start object of what has no main function.
    #[must_use]
    pub fn reactor_crt(&self, target: &str) -> PathBuf {
        self.lib(target).join("crt1-reactor.o")
    }

    /// The compiler's own library for C; Rust brings its own.
    #[must_use]
    pub fn builtins(&self) -> PathBuf {
        self.builtins
            .join("lib/llvm-14/lib/clang/14.0.6/lib/wasi/libclang_rt.builtins-wasm32.a")
    }
}
