//! The cargo features of the workspace that are off by default.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What lint and tests turn on where it can be built.
pub struct Feature {
    package: &'static str,
    feature: &'static str,
    /// What a build looks for, and the Debian package that has it.
    needs: &'static [(&'static str, &'static str)],
    /// Whether what is released has it.
    released: bool,
}

/// Every such feature.
const FEATURES: [Feature; 3] = [
    Feature {
        package: "cwasi-agent",
        feature: "libbpf",
        needs: &[("/usr/include/libelf.h", "libelf-dev")],
        released: true,
    },
    Feature {
        package: "cwasi-shim",
        feature: "containerd",
        needs: &[
            ("protoc", "protobuf-compiler"),
            ("/usr/include/seccomp.h", "libseccomp-dev"),
        ],
        released: true,
    },
    Feature {
        package: "cwasi-shim",
        feature: "p3",
        needs: &[],
        released: false,
    },
];

/// Debian packages that the features need.
pub const PACKAGES: [&str; 4] = ["libelf-dev", "libseccomp-dev", "pkg-config", "protobuf-compiler"];

/// Crates that can only be built with the feature `containerd`'s packages.
const CONTAINERD_CRATES: [&str; 4] = [
    "cwasi-bench-start",
    "cwasi-soak",
    "cwasi-stock-shim",
    "cwasi-testnode",
];

/// Adds `--workspace`, without what this machine cannot build, and the features that it can.
pub fn whole_workspace(command: &mut Command) -> &mut Command {
    let available = available();
    command.arg("--workspace");
    if !available.iter().any(|feature| feature.feature == "containerd") {
        command.args(
            CONTAINERD_CRATES
                .iter()
                .flat_map(|package| ["--exclude", package]),
        );
    }
    for feature in available {
        command.arg("--features").arg(feature.name());
    }
    command
}

/// Adds the features of those packages that `arguments` select; cargo refuses those of others.
pub fn of_packages<'a>(command: &'a mut Command, arguments: &[String]) -> &'a mut Command {
    of_selected(command, arguments, available())
}

/// The same of packages that are released.
pub fn of_released<'a>(command: &'a mut Command, arguments: &[String]) -> &'a mut Command {
    let released = available().into_iter().filter(|feature| feature.released);
    of_selected(command, arguments, released)
}

fn of_selected<'a>(
    command: &'a mut Command,
    arguments: &[String],
    features: impl IntoIterator<Item = &'static Feature>,
) -> &'a mut Command {
    for feature in features {
        if arguments
            .iter()
            .any(|argument| argument.ends_with(feature.package))
        {
            command.arg("--features").arg(feature.name());
        }
    }
    command
}

/// Adds the shims of containerd and what measures them; `None` when this machine cannot build them.
pub fn containerd_programs(command: &mut Command) -> Option<&mut Command> {
    programs_of(
        command,
        &[
            // Not the runner again: that of a plain build is measured.
            ("cwasi-shim", "containerd-shim-cwasi-v1"),
            ("cwasi-stock-shim", "containerd-shim-stock-v1"),
            ("cwasi-bench-start", "cwasi-bench-start"),
        ],
    )
}

/// Adds the shim of containerd and the soak; `None` when this machine cannot build them.
pub fn soak_programs(command: &mut Command) -> Option<&mut Command> {
    programs_of(
        command,
        &[
            ("cwasi-shim", "containerd-shim-cwasi-v1"),
            ("cwasi-soak", "cwasi-soak"),
        ],
    )
}

/// Adds programs, each of a package, that need what the feature `containerd` needs.
fn programs_of<'a>(command: &'a mut Command, programs: &[(&str, &str)]) -> Option<&'a mut Command> {
    let feature = available()
        .into_iter()
        .find(|feature| feature.feature == "containerd")?;
    command.args(programs.iter().flat_map(|(package, _)| ["-p", package]));
    command.args(programs.iter().flat_map(|(_, program)| ["--bin", program]));
    Some(command.arg("--features").arg(feature.name()))
}

/// The features that this machine can build; says which it cannot.
fn available() -> Vec<&'static Feature> {
    FEATURES
        .iter()
        .filter(|feature| {
            let missing: Vec<_> = feature
                .needs
                .iter()
                .filter(|(needed, _)| !exists(needed))
                .collect();
            for (needed, package) in &missing {
                eprintln!(
                    "skipped: {}: {needed} is missing (Debian: {package})",
                    feature.name()
                );
            }
            missing.is_empty()
        })
        .collect()
}

impl Feature {
    fn name(&self) -> String {
        format!("{}/{}", self.package, self.feature)
    }
}

/// Whether a file, or a program of PATH, exists.
fn exists(needed: &str) -> bool {
    if needed.starts_with('/') {
        return Path::new(needed).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| PathBuf::from(&dir).join(needed))
        .any(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments_of(command: &Command) -> Vec<String> {
        let arguments = command.get_args();
        arguments
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn features_follow_the_selected_packages() {
        let arguments = |selected: &[String]| {
            let mut command = Command::new("cargo");
            of_packages(&mut command, selected);
            arguments_of(&command)
        };
        let shim = arguments(&["-p".to_owned(), "cwasi-shim".to_owned()]);
        assert!(
            shim.ends_with(&["--features".to_owned(), "cwasi-shim/p3".to_owned()]),
            "{shim:?}"
        );
        let mut released = Command::new("cargo");
        let released = arguments_of(of_released(&mut released, &["cwasi-shim".to_owned()]));
        assert!(!released.contains(&"cwasi-shim/p3".to_owned()), "{released:?}");
        assert!(arguments(&["-p".to_owned(), "xtask".to_owned()]).is_empty());
        let agent = arguments(&["-pcwasi-agent".to_owned()]);
        assert!(
            agent.iter().all(|argument| !argument.contains("cwasi-shim")),
            "{agent:?}"
        );
    }
    #[test]
    fn one_feature_of_the_shim_does_not_stand_for_the_other() {
        let mut all = Command::new("cargo");
        let all = arguments_of(whole_workspace(&mut all));
        assert!(all.contains(&"cwasi-shim/p3".to_owned()), "{all:?}");
        let mut programs = Command::new("cargo");
        if let Some(programs) = containerd_programs(&mut programs) {
            let programs = arguments_of(programs);
            assert!(programs.contains(&"cwasi-shim/containerd".to_owned()));
            assert!(
                !programs.contains(&"cwasi-shim/p3".to_owned()),
                "it would be measured: {programs:?}"
            );
        }
    }
}
