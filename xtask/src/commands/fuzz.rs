//! `fuzz`: what the agent and its clients read from others, with cargo-fuzz.

use crate::cargo_tool::CargoTool;
use crate::error::FileContext;
use crate::{Error, Result, apt, paths, process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CARGO_FUZZ: CargoTool = CargoTool {
    name: "cargo-fuzz",
    version: "0.13.1",
    features: "",
};

/// libFuzzer is C++.
const PACKAGES: [&str; 1] = ["g++"];

/// Memory that one target may use, in MiB: what an input makes the agent keep is bounded.
const MEMORY_MIB: u32 = 1024;

/// Longest time of one input, in seconds.
const TIMEOUT: u32 = 20;

/// Feeds the agent's requests, announcements, state files and answers with what libFuzzer makes of the committed corpus.
///
/// cargo-fuzz is built first when it is missing (a minute, once); the targets take some minutes, once. Inputs that reach new code are
/// kept in target/fuzz-corpus; one that fails is named, and kept in fuzz/artifacts.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Targets, all of them by default.
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Checks`] that names the targets with an input that fails; cargo-fuzz or the targets cannot be built.
pub fn run(args: &Args) -> Result<()> {
    if apt::can_install() {
        apt::install_missing(&PACKAGES)?;
    }
    let program = CARGO_FUZZ.ensure(&mut Command::new("cargo"))?;
    let known = targets()?;
    if let Some(unknown) = args.targets.iter().find(|target| !known.contains(target)) {
        return Err(Error::Missing {
            what: format!("no fuzz target {unknown}"),
            remedy: format!("it is one of {}", known.join(", ")),
        });
    }
    let chosen = if args.targets.is_empty() {
        &known
    } else {
        &args.targets
    };
    let mut failed = Vec::new();
    for target in chosen {
        println!("fuzzing {target} for {} s", args.seconds);
        if let Err(error) = fuzz(&program, target, args.seconds) {
            eprintln!("{target}: {error}");
            failed.push(target.as_str());
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Error::Checks(format!("failed: {}", failed.join(", "))))
    }
}

fn directory() -> PathBuf {
    paths::root().join("fuzz")
}

/// The targets, by their files.
fn targets() -> Result<Vec<String>> {
    let dir = directory().join("fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(&dir)
        .file("read", &dir)?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some(path.file_stem()?.to_str()?.to_owned())
        })
        .collect();
    names.sort();
    Ok(names)
}

fn fuzz(program: &Path, target: &str, seconds: u32) -> Result<()> {
    // libFuzzer writes what it finds into the first corpus: the committed one stays as it is.
    let found = paths::target_dir().join("fuzz-corpus").join(target);
    fs::create_dir_all(&found).file("create", &found)?;
    process::run(
        Command::new(program)
            // The sanitizers need a nightly compiler; the agent has no unsafe code that these inputs reach.
            .args(["fuzz", "run", "--sanitizer", "none", "--target-dir"])
            .arg(paths::target_dir().join("fuzz"))
            .arg(target)
            .arg(found)
            .arg(directory().join("corpus").join(target))
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={TIMEOUT}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg("-print_final_stats=1")
            // Each input has a state directory, which is synced to its disk.
            .env("TMPDIR", in_memory())
            .current_dir(paths::root()),
    )
}

fn in_memory() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}

#[cfg(test)]
mod tests {
    use super::{directory, targets};

    #[test]
    fn every_target_has_a_corpus() {
        let targets = targets().unwrap();
        assert!(!targets.is_empty());
        for target in targets {
            let corpus = directory().join("corpus").join(&target);
            assert!(
                corpus.read_dir().is_ok_and(|mut files| files.next().is_some()),
                "{target}"
            );
        }
    }
}
