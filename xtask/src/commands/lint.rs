//! `lint`: formatting, clippy, documentation, generated pages, the book and registry host names, over every workspace of the repository.

use crate::ebpf::Ebpf;
use crate::{Error, Result, apt, features, hosts, paths, process, pypi};
use std::path::Path;
use std::process::Command;

/// Checks formatting, clippy, documentation, generated pages, the book and host names without running a test.
///
/// All three workspaces are checked: the root, cwasi-ebpf (clippy only where the standard library's source can be had)
/// and bench/functions. Every check runs, also after one failed.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// The directories with a workspace of their own, relative to the root.
const WORKSPACES: [&str; 5] = [
    "",
    "cwasi-ebpf",
    "bench/functions",
    "examples/functions/rust",
    "fuzz",
];

/// Runs the command.
///
/// # Errors
/// [`Error::Checks`] that names the checks that failed; what they found was printed before.
pub fn run(_args: &Args) -> Result<()> {
    if apt::can_install() {
        apt::install_missing(&features::PACKAGES)?;
        pypi::install_pip()?;
    }
    let mut failed = Vec::new();
    let mut check = |name: &str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("{name}: {error}");
            failed.push(name.to_owned());
        }
    };
    for workspace in WORKSPACES {
        let name = format!("fmt {workspace}");
        check(
            name.trim_end(),
            process::run(cargo(workspace, "fmt").args(["--all", "--check"])),
        );
    }
    let mut clippy = cargo("", "clippy");
    check(
        "clippy",
        process::run(with_denied_warnings(
            features::whole_workspace(&mut clippy).arg("--all-targets"),
        )),
    );
    let guests = paths::target_dir().join("functions");
    let mut clippy = cargo("bench/functions", "clippy");
    clippy.arg("--all-targets").arg("--target-dir").arg(&guests);
    check(
        "clippy bench/functions",
        process::run(with_denied_warnings(&mut clippy)),
    );
    check("clippy cwasi-ebpf", clippy_ebpf());
    let mut doc = cargo("", "doc");
    features::whole_workspace(&mut doc)
        .arg("--no-deps")
        .env("RUSTDOCFLAGS", "-Dwarnings");
    check("doc", process::run(&mut doc));
    let mut doc = cargo("bench/functions", "doc");
    doc.args(["--no-deps", "--lib", "--target-dir"])
        .arg(&guests)
        .env("RUSTDOCFLAGS", "-Dwarnings");
    check("doc bench/functions", process::run(&mut doc));
    check("metrics", super::metrics::check());
    check("book", super::book::check());
    check("manifests", manifests());
    check("host names", host_names());
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Error::Checks(format!("failed: {}", failed.join(", "))))
    }
}

fn cargo(workspace: &str, subcommand: &str) -> Command {
    let mut command = Command::new("cargo");
    command
        .arg(subcommand)
        .current_dir(paths::root().join(Path::new(workspace)));
    command
}

fn with_denied_warnings(clippy: &mut Command) -> &mut Command {
    clippy.args(["--", "-D", "warnings"])
}

fn clippy_ebpf() -> Result<()> {
    match Ebpf::find() {
        Ok(ebpf) => process::run(with_denied_warnings(&mut ebpf.cargo("clippy", None)?)),
        Err(reason @ Error::Missing { .. }) => {
            println!("skipped: clippy cwasi-ebpf: {reason}");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn manifests() -> Result<()> {
    match super::manifests::check() {
        Err(reason @ Error::Missing { .. }) => {
            println!("skipped: manifests: {reason}");
            Ok(())
        }
        result => result,
    }
}

fn host_names() -> Result<()> {
    let found = hosts::tracked_files_naming_hosts()?;
    for (path, host) in &found {
        eprintln!("{}: names the registry {host}", path.display());
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::Checks(
        "a build takes registries from the machine: remove their names".into(),
    ))
}
