//! `soak`: mixed traffic with faults for minutes, every byte compared.

use crate::commands::demo;
use crate::{Result, paths, process};
use cwasi_bench::report::Format;
use cwasi_bench::soak::{self, Options, Programs};
use cwasi_bench::{Error, interrupt};
use nix::unistd::geteuid;
use std::process::Command;
use std::time::Duration;

/// Moves bytes over every path for minutes, compares each, and meanwhile kills, stops and replaces agent and functions.
///
/// As root: installs missing Debian packages, builds for release, makes pods in network namespaces of their own, starts an
/// agent of its own, prints bytes compared, changes of path, faults, and memory of agent and maps before and after, and
/// removes everything again, on Ctrl-C too. Fails when a byte is wrong, a connection breaks that no fault hit, or something
/// is left behind.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long, in minutes
    #[arg(long, default_value_t = 5.0, value_parser = minutes)]
    minutes: f64,
    /// What faults, sizes and moments are drawn from, to have them again; default: another each time
    #[arg(long)]
    seed: Option<u64>,
    /// How to print the results
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

fn minutes(text: &str) -> std::result::Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.05..=100_000.0).contains(&minutes) {
        Ok(minutes)
    } else {
        Err("from 0.05 to 100000".to_owned())
    }
}

/// Runs the command.
///
/// # Errors
/// What is missing, what failed to build, or what the soak found.
pub fn run(args: &Args) -> Result<()> {
    // Said before minutes of building.
    if !geteuid().is_root() {
        return Err(Error::NotRoot.into());
    }
    demo::prepare()?;
    process::run(
        Command::new("cargo")
            .args(["build", "--release"])
            .current_dir(paths::root()),
    )?;
    let programs = Programs {
        built: paths::target_dir().join("release"),
        guests: paths::root().join("bench/functions/prebuilt"),
    };
    let options = Options {
        length: Duration::from_secs_f64(args.minutes * 60.0),
        seed: args.seed,
        format: args.output,
    };
    interrupt::watch()?;
    Ok(soak::run(&programs, &options)?)
}
