//! `deb`: the Debian package of a node without Kubernetes.

use std::path::PathBuf;
use std::process::Command;

use crate::cargo_deb::Compression;
use crate::{Result, apt, cargo_deb, features, paths, process};

/// Makes the Debian package `cwasi`: agent with its service, runner, shim and installer.
///
/// As root it first installs the missing ones of the Debian packages that it needs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of programs that are built already [default: a release build].
    #[arg(long, value_name = "DIR")]
    built: Option<PathBuf>,
    /// Where the package is put [default: `debian` in cargo's target directory].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Debian's part of the version.
    #[arg(long, value_name = "REVISION", default_value = "1")]
    revision: String,
}

/// Runs the command.
///
/// # Errors
/// Something is missing, or a build fails.
pub fn run(args: &Args) -> Result<()> {
    if apt::can_install() {
        apt::install_missing(&[&["dpkg-dev"][..], &features::PACKAGES].concat())?;
    }
    let built = match &args.built {
        Some(built) => built.clone(),
        None => build()?,
    };
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| paths::target_dir().join("debian"));
    let package = cargo_deb::pack(&built, &out, &args.revision, Compression::Small)?;
    println!("{}", package.display());
    Ok(())
}

fn build() -> Result<PathBuf> {
    let packages = ["cwasi-agent", "cwasi-shim", "cwasi-installer"].map(str::to_owned);
    let mut command = Command::new("cargo");
    command.args(["build", "--release"]).current_dir(paths::root());
    command.args(packages.iter().flat_map(|package| ["-p", package]));
    process::run(features::of_released(&mut command, &packages))?;
    Ok(paths::target_dir().join("release"))
}
