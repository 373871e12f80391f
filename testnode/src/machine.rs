//! A machine beside this one, booted by systemd: in namespaces of its own, on an overlay of this machine's root, so that packages can
//! be installed and services run without a trace on this one.
//!
//! Its cgroup hierarchy is a pure v2 one, its bpffs its own. /proc/sys and /sys are read-only, as in any container: what they set is this
//! machine's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use cwasi_client::cgroup::unified_root;

use crate::error::{IoContext, on};
use crate::reap::PARENT;
use crate::{Error, Result, native, testing, wait};

/// Run by sh with the directory of the machine; the last command is its first process.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs machine "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay machine -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" "$0/root"
cd "$0/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -o remount,bind,ro sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
ln -s pts/ptmx dev/ptmx
# What keeps services of packages from starting, while this machine's own packages are installed.
rm -f usr/sbin/policy-rc.d
for unit in systemd-modules-load systemd-remount-fs systemd-udevd systemd-udev-trigger systemd-random-seed; do
    ln -sf /dev/null "etc/systemd/system/$unit.service"
done
mkdir outside
pivot_root . outside
umount -l outside
rmdir outside
exec env -i container=cwasi PATH="$PATH" /lib/systemd/systemd --system --unit=basic.target --log-target=journal
"#;

/// The machine. Dropping it kills everything on it and forgets everything that it wrote.
#[derive(Debug)]
pub struct Machine {
    directory: PathBuf,
    cgroup: PathBuf,
    /// The parent of its first process, which dies with it.
    child: Child,
    init: String,
}

impl Machine {
    /// Why there can be none here, `None` if there can.
    #[must_use]
    pub fn missing() -> Option<String> {
        if let Some(reason) = testing::not_root() {
            return Some(reason);
        }
        if let Err(error) = unified_root() {
            return Some(error.to_string());
        }
        if !Path::new("/lib/systemd/systemd").exists() {
            return Some("no systemd: install the package systemd".to_owned());
        }
        let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !filesystems.contains("overlay") {
            return Some("no overlayfs".to_owned());
        }
        let programs = ["unshare", "nsenter", "pivot_root"];
        let missing = programs.iter().find(|program| !native::is_installed(program));
        missing.map(|program| format!("no program `{program}`: install the package util-linux"))
    }

    /// Boots it, and waits until its systemd is up.
    ///
    /// # Errors
    /// It does not come up.
    pub fn boot() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cwasi-machine-{}-{number}", process::id());
        let directory = Path::new(PARENT).join(&name);
        let cgroup = unified_root()?.join(&name);
        fs::create_dir(&directory).action(on("create", &directory))?;
        fs::create_dir(&cgroup).action(on("create", &cgroup))?;
        let mut command = Command::new("sh");
        // The namespace of cgroups begins where its first process is.
        command
            .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec unshare \"$@\""])
            .arg(&cgroup)
            .args([
                "--pid",
                "--mount",
                "--net",
                "--ipc",
                "--uts",
                "--cgroup",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                BOOT,
            ])
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = command.spawn().action(|| "run unshare")?;
        // From here on it is dropped, whatever fails.
        let mut machine = Self {
            directory,
            cgroup,
            child,
            init: String::new(),
        };
        let pid = machine.child.id();
        machine.init = wait::until("the machine has its first process", || {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            Ok(children.split_whitespace().next().map(str::to_owned))
        })?;
        wait::until("systemd is up", || {
            let state = machine.output("systemctl is-system-running")?;
            let state = wait::text(&state.stdout);
            Ok(["running", "degraded"].contains(&state.trim()).then_some(()))
        })?;
        Ok(machine)
    }

    /// A script of the machine's shell, not started yet.
    #[must_use]
    pub fn script(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init, "--all", "sh", "-ec", script]);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C");
        command
    }

    /// Runs a script to its end.
    ///
    /// # Errors
    /// It cannot be started, or does not end.
    pub fn output(&self, script: &str) -> Result<Output> {
        wait::output(&mut self.script(script))
    }

    /// What a script prints that must succeed.
    ///
    /// # Errors
    /// [`Error::Failed`] with everything that it printed.
    pub fn run(&self, script: &str) -> Result<String> {
        wait::succeed(&mut self.script(script))
    }

    /// Copies a file of this machine to it.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let file = File::open(from).action(on("open", from))?;
        let mut command = self.script(&format!("cat > '{to}'"));
        let status = command.stdin(file).status().action(|| "run nsenter")?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Failed {
            program: format!("copying to {to}"),
            status,
            output: String::new(),
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.output("journalctl --no-pager --boot | tail -n 60");
            eprintln!(
                "the machine said:\n{}",
                log.map_or_else(|error| error.to_string(), |log| wait::text(&log.stdout))
            );
        }
        // With its first process the kernel kills all others, and with the last one every mount is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let gone = wait::until("the cgroups of the machine are gone", || {
            Ok(remove_cgroups(&self.cgroup).is_ok().then_some(()))
        });
        if let Err(error) = gone {
            eprintln!("{} is left behind: {error}", self.cgroup.display());
        }
        if let Err(error) = fs::remove_dir(&self.directory) {
            eprintln!("{} is left behind: {error}", self.directory.display());
        }
    }
}

fn remove_cgroups(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_cgroups(&path)?;
        }
    }
    fs::remove_dir(cgroup)
}
