//! Programs of crates that a task needs, of pinned versions, installed once into the cache of build tools.

use crate::{Result, paths, process};
use std::path::PathBuf;
use std::process::Command;

/// A crate whose program is a tool of the same name.
#[derive(Debug, Clone, Copy)]
pub struct CargoTool {
    /// The crate's and the program's name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its cargo features, separated by commas; the default ones are left out.
    pub features: &'static str,
}

impl CargoTool {
    /// The program's path in the cache, where `install` (a `cargo` that this adds the arguments to) builds it first when it is
    /// missing or of another version.
    ///
    /// # Errors
    /// [`Error::Failed`](crate::Error::Failed) when the build fails.
    pub fn ensure(&self, install: &mut Command) -> Result<PathBuf> {
        let tools = paths::cache_dir()?.join("tools");
        let program = tools.join("bin").join(self.name);
        let installed = Command::new(&program).arg("--version").output();
        if installed.is_ok_and(|output| {
            output.status.success() && self.is_named_in(&String::from_utf8_lossy(&output.stdout))
        }) {
            return Ok(program);
        }
        eprintln!("building {} {} into {}", self.name, self.version, tools.display());
        process::run(
            install
                .args(["install", self.name, "--version", self.version])
                .args(["--locked", "--force", "--no-default-features"])
                .args(["--features", self.features])
                .arg("--root")
                .arg(&tools)
                .env("CARGO_PROFILE_RELEASE_DEBUG", "0"),
        )?;
        Ok(program)
    }

    /// Whether what `--version` printed is of this version, be it `tool 1.2.3` or `tool v1.2.3`.
    fn is_named_in(&self, printed: &str) -> bool {
        printed
            .split_whitespace()
            .any(|word| word.strip_prefix('v').unwrap_or(word) == self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::CargoTool;

    #[test]
    fn versions_are_known_in_every_spelling() {
        let tool = CargoTool {
            name: "tool",
            version: "1.2.3",
            features: "",
        };
        assert!(tool.is_named_in("tool 1.2.3\n") && tool.is_named_in("tool v1.2.3"));
        assert!(!tool.is_named_in("tool 1.2.31") && !tool.is_named_in(""));
    }
}
