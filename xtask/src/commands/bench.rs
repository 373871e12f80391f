//! `bench`: functions guest to guest, beside everything that they may be compared with.

use crate::commands::test;
use crate::{Result, features, paths, process};
use cwasi_bench::suite::workload::Group;
use cwasi_bench::suite::{self, Options, Programs};
use cwasi_bench::{Error, interrupt};
use nix::unistd::geteuid;
use std::env;
use std::process::Command;

/// Measures functions guest to guest, side by side with stock hosts and native programs.
///
/// As root: installs missing Debian packages, builds for release, makes pods in network namespaces of their own, starts an
/// agent of its own, runs every workload by every peer in turn, prints the report, writes it with its figures and charts to
/// target/bench (`--out docs` is what is committed), and removes everything else again, on Ctrl-C too.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: Options,
}

/// Runs the command.
///
/// # Errors
/// What is missing, what failed to build, or what could not be measured.
pub fn run(args: &Args) -> Result<()> {
    let mut options = args.options.clone();
    options
        .out
        .get_or_insert_with(|| paths::target_dir().join("bench"));
    if options.from.is_none() {
        // Said before minutes of building.
        if !geteuid().is_root() {
            return Err(Error::NotRoot.into());
        }
        test::prepare()?;
        process::run(&mut release())?;
        if options.groups().contains(&Group::Containerd)
            && let Some(build) = features::containerd_programs(&mut release())
        {
            process::run(build)?;
        }
    }
    let programs = Programs {
        built: paths::target_dir().join("release"),
        guests: paths::root().join("bench/functions/prebuilt"),
    };
    interrupt::watch()?;
    Ok(suite::run(&programs, &options, &command())?)
}

fn release() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release"]).current_dir(paths::root());
    cargo
}

/// What was typed, or would be to have the same.
fn command() -> String {
    let words = env::args().skip(1);
    ["cargo".to_owned(), "xtask".to_owned()]
        .into_iter()
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}
