//! `test`: every test of the repository, those of the kernel included.

use crate::error::FileContext;
use crate::kernels::catalog::Choice;
use crate::kernels::{initramfs, matrix};
use crate::leftovers::{Leftovers, mount_points};
use crate::{Error, Result, apt, features, paths, process, pypi};
use cwasi_bench::report::{self, Format};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// What the tests drive, beside what the features link against.
const PACKAGES: [&str; 16] = [
    "libc6-dev",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "curl",
    "iproute2",
    "nftables",
    "redis-tools",
    "redis-server",
    "nginx-light",
    "wrk",
    "iperf3",
    "prometheus",
    "chromium",
    "dpkg-dev",
    "systemd",
];

const BPFFS: &str = "/sys/fs/bpf";

/// Runs all tests of the repository, kernel tests included.
///
/// As root it first installs the missing ones of the Debian packages that tests need (without starting their services)
/// and mounts bpffs at /sys/fs/bpf. Without root, kernel tests are skipped and say so. Fails when a test fails or when
/// a network namespace, cgroup or BPF pin is left over.
///
/// With --kernel, runs the kernel tests of cwasi-agent on other kernels: those of Debian's packages, under qemu, in a virtual
/// machine each that has nothing but the tests. Prints what each did, and fails when a test fails, when the kernel warns of
/// itself, or when it is not as docs/kernel-policy.md says.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kernels to run the kernel tests on: a line for its newest release (6.1), a release (6.1.170), `newest` or `all`; repeatable
    #[arg(long = "kernel", value_name = "VERSION", value_delimiter = ',')]
    kernels: Vec<Choice>,

    /// With --kernel, run only this suite, by the name of its file in cwasi-agent/tests (kernel_limits); repeatable
    #[arg(
        long = "suite",
        value_name = "NAME",
        value_delimiter = ',',
        requires = "kernels"
    )]
    suites: Vec<String>,

    /// How to print what came of each kernel
    #[arg(short, long, value_enum, default_value_t, requires = "kernels")]
    output: Format,

    /// Arguments for `cargo test`, after `--`: for example `-- -p cwasi-agent veth`.
    #[arg(last = true, conflicts_with = "kernels")]
    cargo_test: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// What keeps the tests from running, [`Error::Checks`] when a test failed or left something over.
pub fn run(args: &Args) -> Result<()> {
    if !args.kernels.is_empty() {
        return run_on_kernels(args);
    }
    prepare()?;
    let before = Leftovers::now();
    let mut failures = Vec::new();
    // Some tests run the programs of other crates, which `cargo test` alone does not build.
    process::run(features::whole_workspace(&mut cargo("build")))?;
    if let Err(error) = run_tests(&args.cargo_test) {
        failures.push(error.to_string());
    }
    let left: Vec<String> = Leftovers::now()
        .since(&before)
        .map(|path| path.display().to_string())
        .collect();
    if !left.is_empty() {
        failures.push(format!("left over by tests, remove by hand: {}", left.join(" ")));
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Error::Checks(failures.join("; ")))
    }
}

fn run_on_kernels(args: &Args) -> Result<()> {
    if apt::can_install() {
        apt::install_missing(&[&initramfs::PACKAGES[..], &features::PACKAGES].concat())?;
    }
    let outcomes = matrix::run(&args.kernels, &args.suites)?;
    match args.output {
        Format::Json => report::print_json(&outcomes)?,
        Format::Table => print!("{}", matrix::table(&outcomes)),
    }
    matrix::verdict(&outcomes)
}

/// Makes a fresh machine able to run the kernel tests, as far as this user may.
///
/// # Errors
/// Packages cannot be installed, or bpffs cannot be mounted.
pub(super) fn prepare() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!(
            "not root: nothing is installed or mounted, and kernel tests will say that they are skipped"
        );
        return Ok(());
    }
    if apt::can_install() {
        apt::install_missing(&[&PACKAGES[..], &features::PACKAGES].concat())?;
        pypi::install_pip()?;
    }
    let mounts = fs::read_to_string("/proc/mounts").file("read", "/proc/mounts")?;
    if !mount_points(&mounts, "bpf").contains(&PathBuf::from(BPFFS)) {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(std::io::Error::from)
            .file("mount bpffs at", BPFFS)?;
    }
    Ok(())
}

/// Runs the root workspace's tests and the guests' own; with arguments, only the tests that they select.
fn run_tests(arguments: &[String]) -> Result<()> {
    let mut tests = cargo("test");
    if arguments.iter().any(|argument| is_package_option(argument)) {
        features::of_packages(&mut tests, arguments);
    } else {
        features::whole_workspace(&mut tests);
    }
    if !arguments.is_empty() {
        return process::run(tests.args(arguments));
    }
    // One run shall show every failure.
    let result = process::run(tests.arg("--no-fail-fast"));
    let guests = process::run(
        Command::new("cargo")
            .args(["test", "--target-dir"])
            .arg(paths::target_dir().join("functions"))
            .current_dir(paths::root().join("bench/functions")),
    );
    result.and(guests)
}

fn is_package_option(argument: &str) -> bool {
    argument.starts_with("-p") || argument == "--package" || argument.starts_with("--package=")
}

fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg(subcommand).current_dir(paths::root());
    command
}

#[cfg(test)]
mod tests {
    use super::is_package_option;

    #[test]
    fn package_options_are_known_in_every_spelling() {
        for option in ["-p", "-pcwasi-agent", "--package", "--package=cwasi-agent"] {
            assert!(is_package_option(option), "{option}");
        }
        assert!(!is_package_option("pairs_by_tuple"));
    }
}
