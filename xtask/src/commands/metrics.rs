//! `metrics`: the reference page of the agent's metrics, written from the table that registers them.

use crate::{Result, committed, paths, process};
use std::path::Path;
use std::process::Command;

/// The page, in the repository.
const COMMITTED: &str = "docs/metrics.md";

/// Writes docs/metrics.md from the agent's table of metrics.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Compare the committed page with the table instead of writing it; fail when they differ.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
///
/// # Errors
/// The agent cannot be built; with `--check`, [`Error::Stale`](crate::Error::Stale) when the page differs.
pub fn run(args: &Args) -> Result<()> {
    let page = process::stdout_bytes(
        Command::new("cargo")
            .args([
                "run",
                "--quiet",
                "-p",
                "cwasi-agent",
                "--example",
                "metrics-reference",
            ])
            .current_dir(paths::root()),
    )?;
    if args.check {
        committed::check(Path::new(COMMITTED), &page, "metrics")
    } else {
        committed::write(&paths::root().join(COMMITTED), &page)
    }
}

/// As `metrics --check`.
///
/// # Errors
/// As [`run`].
pub fn check() -> Result<()> {
    run(&Args { check: true })
}
