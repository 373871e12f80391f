//! A kernel under qemu: booted with an archive of tests, watched until it ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::image::Image;
use super::initramfs::Programs;
use crate::error::FileContext;
use crate::{Error, Result, paths, process};

/// How long a kernel may take for all of its tests, on a busy machine without hardware virtualisation.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// Within this time a kernel says its first word, where hardware virtualisation works.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// Processors of a guest: races want two.
const PROCESSORS: &str = "2";
/// Enough for the tests with thousands of connections.
const MEMORY: &str = "1G";

/// Who runs the guests' instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor (`/dev/kvm`).
    Kvm,
    /// qemu.
    Emulation,
}

impl Accelerator {
    /// Boots the kernel to see whether /dev/kvm does what it should: where machines are guests themselves, it may open and hang.
    ///
    /// # Errors
    /// qemu cannot be started.
    pub fn find(image: &Image) -> Result<Self> {
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Emulation);
        }
        let work = tempfile::tempdir().file("create a directory in", std::env::temp_dir())?;
        let console = work.path().join("console");
        let mut command = qemu(Self::Kvm, image);
        command
            .args(["-append", "console=ttyS0 panic=-1", "-serial"])
            .arg(serial(&console));
        let mut guest = Guest::start(&mut command)?;
        let deadline = Instant::now() + FIRST_WORD;
        while Instant::now() < deadline && guest.runs() {
            if fs::metadata(&console).is_ok_and(|metadata| metadata.len() > 0) {
                return Ok(Self::Kvm);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("/dev/kvm runs no guest: kernels are run in emulation");
        Ok(Self::Emulation)
    }

    const fn options(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // With a thread for each processor, one was seen to run an instruction that the kernel had just put back (Oops: int3).
            Self::Emulation => ["-accel", "tcg,thread=single", "-cpu", "max"],
        }
    }

    /// What the kernel's command line has: for `init.sh` the number of tests at a time, how many seconds a stream may stand still,
    /// and how much of their usual work long tests do, in percent. An emulated kernel does without what guards it against the faults of
    /// real processors, and takes a processor for stuck after two minutes: it stands still when the machine is busy.
    const fn parameters(self) -> &'static str {
        match self {
            Self::Kvm => "threads=4 patience=20 effort=100",
            Self::Emulation => "threads=2 patience=60 effort=20 mitigations=off watchdog_thresh=60",
        }
    }
}

/// What a guest left on disk.
#[derive(Debug, Clone)]
pub struct Logs {
    /// The kernel's console.
    pub console: PathBuf,
    /// The report of the tests.
    pub report: PathBuf,
}

/// Runs the tests on a kernel to their end. `name` names its files below cargo's target directory; `progress` is called with
/// the report up to now, again and again. A guest that does not end in time is killed: its report is what it is.
///
/// # Errors
/// qemu cannot be started, or files cannot be written.
pub fn run(
    name: &str,
    image: &Image,
    programs: &Programs,
    accelerator: Accelerator,
    mut progress: impl FnMut(&str),
) -> Result<Logs> {
    let directory = paths::target_dir().join("kernels");
    fs::create_dir_all(&directory).file("create", &directory)?;
    let logs = Logs {
        console: directory.join(format!("{name}.console")),
        report: directory.join(format!("{name}.report")),
    };
    let archive = directory.join(format!("{name}.cpio"));
    fs::write(&archive, programs.archive(image)?).file("write", &archive)?;
    for log in [&logs.console, &logs.report] {
        fs::write(log, "").file("write", log)?;
    }
    let mut command = qemu(accelerator, image);
    // panic=-1 and -no-reboot: a panic ends qemu. Warnings are printed, for they are looked for.
    let append = format!(
        "console=ttyS0 panic=-1 oops=panic loglevel=5 {}",
        accelerator.parameters()
    );
    command.arg("-initrd").arg(&archive).args(["-append", &append]);
    for log in [&logs.console, &logs.report] {
        command.arg("-serial").arg(serial(log));
    }
    let mut guest = Guest::start(&mut command)?;
    let deadline = Instant::now() + LIMIT;
    while guest.runs() && Instant::now() < deadline {
        progress(&fs::read_to_string(&logs.report).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(250));
    }
    drop(guest);
    fs::remove_file(&archive).file("remove", archive)?;
    Ok(logs)
}

fn qemu(accelerator: Accelerator, image: &Image) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    command.args(["-m", MEMORY, "-smp", PROCESSORS]);
    command.args(accelerator.options());
    command.arg("-kernel").arg(&image.vmlinuz);
    command
}

fn serial(to: &Path) -> String {
    // A comma in a value is doubled for qemu.
    format!("file:{}", to.display().to_string().replace(',', ",,"))
}

/// A running qemu, which does not outlive this.
struct Guest(Child);

impl Guest {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        child.map(Self).map_err(|source| Error::Spawn {
            program: process::brief(command),
            remedy: "install the package qemu-system-x86",
            source,
        })
    }

    fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
