//! `demo`: Wasm functions in pods of a private node, in the kernel and by TCP.

use crate::{Error, Result, apt, paths, process};
use cwasi_bench::demo::{self, Programs};
use cwasi_bench::report::Format;
use cwasi_bench::{interrupt, tool};
use nix::unistd::geteuid;
use std::path::PathBuf;
use std::process::Command;

/// What makes the pods and their Service addresses.
const PACKAGES: [&str; 2] = ["iproute2", "nftables"];

/// Shows Wasm functions of this node talking in the kernel, by plain TCP and through a Service address.
///
/// As root: installs missing Debian packages, builds, makes pods on a bridge in network namespaces of their own, starts
/// an agent of its own, runs functions three ways, prints what they measured, and removes everything again, on Ctrl-C
/// too. Fails when data arrived wrong or the kernel did not move it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print the results
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs the command.
///
/// # Errors
/// What is missing, what failed to build, or what the demo found wrong.
pub fn run(args: &Args) -> Result<()> {
    // Said before minutes of building.
    if !geteuid().is_root() {
        return Err(cwasi_bench::Error::NotRoot.into());
    }
    prepare()?;
    // All of the workspace, as a plain release build does: one shares with the other what takes minutes to compile.
    process::run(
        Command::new("cargo")
            .args(["build", "--release"])
            .current_dir(paths::root()),
    )?;
    let functions = paths::root().join("bench/functions");
    let programs = Programs {
        agent: built("cwasi-agent"),
        run: built("cwasi-run"),
        guests: functions.join("prebuilt"),
        picture: functions.join("assets/mandelbrot.jpg"),
    };
    interrupt::watch()?;
    Ok(demo::run(&programs, args.output)?)
}

/// Installs what makes pods, or says what is missing.
pub(super) fn prepare() -> Result<()> {
    if apt::can_install() {
        return apt::install_missing(&PACKAGES);
    }
    for name in ["ip", "nft"] {
        if tool::find(name).is_none() {
            let package = tool::package(name).unwrap_or(name);
            return Err(Error::Missing {
                what: format!("{name} is missing"),
                remedy: format!("install it, for instance from the package {package}"),
            });
        }
    }
    Ok(())
}

fn built(program: &str) -> PathBuf {
    paths::target_dir().join("release").join(program)
}
