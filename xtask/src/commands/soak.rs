//! `soak`: mixed traffic with faults for minutes, every byte compared.

use crate::commands::demo;
use crate::{Error, Result, apt, features, paths, process};
use clap::ValueEnum;
use cwasi_bench::report::{self, Format};
use nix::unistd::geteuid;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The program, which this command builds and becomes: its crate drives containerd with what depends on this one.
const PROGRAM: &str = "cwasi-soak";

/// What runs pods, beside what the shim links against. Without it there are none.
const PACKAGES: [&str; 4] = ["containerd", "runc", "containernetworking-plugins", "libc6-dev"];

/// Moves bytes over every path for minutes, compares each, and meanwhile kills, stops and replaces agent, containerd, shims,
/// pods and functions.
///
/// As root: installs missing Debian packages, builds for release, makes pods in network namespaces of their own and in a
/// containerd of its own, starts an agent of its own, prints bytes compared, changes of path, faults, and memory of agent and maps
/// before and after, and removes everything again, on Ctrl-C too. Fails when a byte is wrong, a connection breaks that no fault
/// hit, or something is left behind.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long, in minutes
    #[arg(long, default_value_t = 5.0, value_parser = report::minutes)]
    minutes: f64,
    /// What faults, sizes and moments are drawn from, to have them again; default: another each time
    #[arg(long)]
    seed: Option<u64>,
    /// How to print the results
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs the command; it ends with the soak's own exit code.
///
/// # Errors
/// What is missing, or what failed to build.
pub fn run(args: &Args) -> Result<()> {
    // Said before minutes of building.
    if !geteuid().is_root() {
        return Err(cwasi_bench::Error::NotRoot.into());
    }
    demo::prepare()?;
    if apt::can_install() {
        apt::install_missing(&[&PACKAGES[..], &features::PACKAGES].concat())?;
    }
    let build = || {
        let mut build = Command::new("cargo");
        build.args(["build", "--release"]).current_dir(paths::root());
        build
    };
    process::run(&mut build())?;
    let mut programs = build();
    let Some(programs) = features::soak_programs(&mut programs) else {
        return Err(Error::Missing {
            what: format!("{PROGRAM} cannot be built here"),
            remedy: format!("install {}", features::PACKAGES.join(" ")),
        });
    };
    process::run(programs)?;
    let mut soak = Command::new(paths::target_dir().join("release").join(PROGRAM));
    soak.args(["--minutes", &args.minutes.to_string()])
        .arg("--guests")
        .arg(paths::root().join("bench/functions/prebuilt"));
    if let Some(output) = args.output.to_possible_value() {
        soak.args(["--output", output.get_name()]);
    }
    if let Some(seed) = args.seed {
        soak.args(["--seed", &seed.to_string()]);
    }
    // In this process's place: signals and the exit code are its own.
    let source = soak.exec();
    Err(Error::Spawn {
        program: PROGRAM.to_owned(),
        remedy: "",
        source,
    })
}
