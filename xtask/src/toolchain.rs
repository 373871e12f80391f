//! The one compiler version whose output is committed, and a build environment that only it decides.

use crate::{Error, Result, paths};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The version that the committed eBPF object and guests are built with.
pub const RUST_VERSION: &str = "1.95.0";

/// An installed rustc [`RUST_VERSION`].
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// For `RUSTUP_TOOLCHAIN`, when the toolchain in use is another one.
    rustup: Option<&'static str>,
    /// The compiler's sysroot.
    pub sysroot: PathBuf,
    /// The host's target triple.
    pub host: String,
}

impl Toolchain {
    /// Finds [`RUST_VERSION`]: the toolchain in use, else the one that rustup has by that name.
    ///
    /// # Errors
    /// [`Error::Missing`] when neither is that version.
    pub fn find() -> Result<Self> {
        [None, Some(RUST_VERSION)]
            .into_iter()
            .find_map(Self::probe)
            .ok_or_else(|| Error::Missing {
                what: format!(
                    "rustc {RUST_VERSION} is not installed and committed artefacts are built with it alone"
                ),
                remedy: format!("run `rustup toolchain install {RUST_VERSION}`"),
            })
    }

    fn probe(rustup: Option<&'static str>) -> Option<Self> {
        let rustc = |arguments: &[&str]| {
            let mut command = Command::new("rustc");
            if let Some(name) = rustup {
                command.env("RUSTUP_TOOLCHAIN", name);
            }
            let output = command.args(arguments).output().ok()?;
            output
                .status
                .success()
                .then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        };
        let version = rustc(&["-vV"])?;
        let field = |key: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .map(str::to_owned)
        };
        if field("release: ")? != RUST_VERSION {
            return None;
        }
        Some(Self {
            rustup,
            sysroot: rustc(&["--print", "sysroot"])?.into(),
            host: field("host: ")?,
        })
    }

    /// `cargo` of this toolchain, free of settings in the environment that change what a build produces.
    #[must_use]
    pub fn cargo(&self) -> Command {
        let mut command = Command::new("cargo");
        for (key, _) in env::vars_os() {
            if key.to_str().is_some_and(changes_builds) {
                command.env_remove(key);
            }
        }
        if let Some(name) = self.rustup {
            command.env("RUSTUP_TOOLCHAIN", name);
        }
        command
    }

    /// A tool that rustup ships beside the compiler, such as `rust-objcopy` or `wasm-component-ld`.
    #[must_use]
    pub fn tool(&self, name: &str) -> PathBuf {
        self.sysroot
            .join("lib/rustlib")
            .join(&self.host)
            .join("bin")
            .join(name)
    }

    /// The directory of the compiler's shared libraries, LLVM among them.
    #[must_use]
    pub fn lib_dir(&self) -> PathBuf {
        self.sysroot.join("lib")
    }
}

/// `--remap-path-prefix` flags that keep this machine's directories out of a build's output.
///
/// # Errors
/// As [`paths::cargo_home`].
pub fn remap_flags(target_dir: &Path, library: &Path) -> Result<Vec<String>> {
    let cargo_home = paths::cargo_home()?;
    // The last match wins in rustc, so directories that may lie inside another one come after it.
    let mut prefixes = vec![(cargo_home.clone(), "/cargo")];
    // Below this directory each registry has one, named after its host, which differs where a mirror is used.
    let registries = fs::read_dir(cargo_home.join("registry/src"))
        .into_iter()
        .flatten();
    prefixes.extend(registries.filter_map(|entry| Some((entry.ok()?.path(), "/cargo"))));
    prefixes.extend([
        (paths::root().to_owned(), "/cwasi"),
        (target_dir.to_owned(), "/target"),
        (library.to_owned(), "/rust/library"),
    ]);
    let flag = |(from, to): (PathBuf, &str)| format!("--remap-path-prefix={}={to}", from.display());
    Ok(prefixes.into_iter().map(flag).collect())
}

/// Joins rustc flags for `CARGO_ENCODED_RUSTFLAGS`, which unlike `RUSTFLAGS` allows spaces in paths.
#[must_use]
pub fn encode_flags(flags: &[String]) -> String {
    flags.join("\u{1f}")
}

fn changes_builds(key: &str) -> bool {
    const EXACT: [&str; 8] = [
        "RUSTC",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_TARGET_DIR",
        "RUSTC_BOOTSTRAP",
    ];
    const PREFIXES: [&str; 4] = [
        "CARGO_BUILD_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
    ];
    EXACT.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_output_changing_variables_are_dropped() {
        assert!(changes_builds("RUSTFLAGS"));
        assert!(changes_builds("CARGO_PROFILE_RELEASE_DEBUG"));
        for kept in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_CAINFO",
            "PATH",
            "RUSTUP_HOME",
        ] {
            assert!(!changes_builds(kept), "{kept}");
        }
    }

    #[test]
    fn encoded_flags_keep_spaces() {
        assert_eq!(
            encode_flags(&["-Ca=b c".into(), "-Cd".into()]),
            "-Ca=b c\u{1f}-Cd"
        );
    }
}
