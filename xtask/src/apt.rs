//! Debian packages that a machine must have installed, added without starting their services.

use crate::error::FileContext;
use crate::{Result, process};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Debian's switch against services that start at installation: a script that answers "forbidden".
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_SCRIPT: &str =
    "#!/bin/sh\n# Written by cargo xtask while it installs packages; safe to remove.\nexit 101\n";

/// Whether packages can be installed: as root, on a machine with apt.
#[must_use]
pub fn can_install() -> bool {
    nix::unistd::geteuid().is_root() && Path::new("/usr/bin/apt-get").exists()
}

/// Installs those of the packages that are missing; their services are neither started nor enabled.
///
/// # Errors
/// [`Error::Failed`](crate::Error::Failed) when apt fails, [`Error::File`](crate::Error::File) when services cannot be
/// kept from starting.
pub fn install_missing(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let _policy = NoServices::new()?;
    let install = || {
        let mut command = Command::new("apt-get");
        command
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(&missing);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    // The index of a machine or image that was just made is empty or names files that are gone.
    let message = format!("installing {}", missing.join(" "));
    if !install()
        .arg("--dry-run")
        .output()
        .is_ok_and(|output| output.status.success())
        || process::run_quiet(&message, &mut install()).is_err()
    {
        process::run_quiet(
            "updating apt's index",
            Command::new("apt-get").args(["update", "-q"]),
        )?;
        process::run_quiet(&message, &mut install())?;
    }
    disable_services(&missing)
}

fn is_installed(package: &str) -> bool {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .output();
    output.is_ok_and(|output| output.stdout.ends_with(b" installed"))
}

/// Under systemd a package enables its service for the next boot even when it may not start it now.
fn disable_services(installed: &[&str]) -> Result<()> {
    const SERVICES: [(&str, &str); 4] = [
        ("containerd", "containerd"),
        ("redis-server", "redis-server"),
        ("nginx-light", "nginx"),
        ("prometheus", "prometheus"),
    ];
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    for (_, service) in SERVICES.iter().filter(|(package, _)| installed.contains(package)) {
        process::stdout(Command::new("systemctl").args(["disable", "--now", service]))?;
    }
    Ok(())
}

/// While it lives, package installations start no services. A policy that the machine already has stays as it is.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<Self> {
        // One of ours is there when an earlier run was killed.
        let ours = fs::read_to_string(POLICY).map_or(true, |script| script == POLICY_SCRIPT);
        if ours {
            fs::write(POLICY, POLICY_SCRIPT).file("write", POLICY)?;
            fs::set_permissions(POLICY, Permissions::from_mode(0o755)).file("make executable", POLICY)?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("warning: cannot remove {POLICY}: {error}; remove it, or packages start no services");
        }
    }
}
