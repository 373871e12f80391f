//! A container as libcontainer makes it, each time in a process of its own: libcontainer changes the working directory and
//! forks, which a process with threads cannot bear.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use libcgroups::common::{CgroupConfig, CgroupManager, create_cgroup_manager};
use libcontainer::container::Container as Youki;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::utils::get_cgroup_path;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use zygote::{WireError, WireFd, Zygote};

use super::bundle::Bundle;
use super::compile::engine;
use super::error::{ShimError, with_causes};
use super::executor::Executor;
use super::trace::Mark;
use crate::code::Code;

/// libcontainer's state, in the bundle: containerd removes it with the bundle whatever happens.
const STATE_DIR: &str = "libcontainer";

/// The FIFOs that containerd reads and writes; empty paths where a stream is not wanted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stdio {
    /// Standard input.
    pub stdin: PathBuf,
    /// Standard output.
    pub stdout: PathBuf,
    /// Standard error.
    pub stderr: PathBuf,
}

/// Longest attempt to remove a container, and the pause between attempts.
const DELETE_TIMEOUT: Duration = Duration::from_secs(5);
const DELETE_PAUSE: Duration = Duration::from_millis(10);

/// What libcontainer (0.6) says when the messages of its processes come in another order than it thinks, and how often it may.
const UNORDERED: &str = "expected: IntermediateReady";
const CREATE_RETRIES: u32 = 3;

/// Directories through which the kernel shows itself.
const KERNEL_DIRS: [&str; 2] = ["/proc", "/sys"];

#[derive(Serialize, Deserialize)]
struct Job {
    id: String,
    bundle: PathBuf,
    cgroup: PathBuf,
    systemd: bool,
    stdio: Stdio,
    work: Work,
}

/// What a container's first process does.
#[derive(Serialize, Deserialize)]
pub enum Work {
    /// It executes the program that its arguments name.
    Native,
    /// It runs a guest: machine code of [`compile`](super::compile).
    Guest {
        /// The machine code.
        code: WireFd<OwnedFd>,
        /// Where it tells when the guest was made, a [`Mark`]; `None` where nobody asks.
        mark: Option<WireFd<OwnedFd>>,
    },
    /// It stands in for a guest in another process: a connection to that.
    StandIn(WireFd<OwnedFd>),
    /// It runs the guests of others: a connection to the shim.
    Functions(WireFd<OwnedFd>),
}

/// A container that was created.
#[derive(Debug)]
pub struct Container {
    /// Its first process, which waits for [`Container::start`].
    pub pid: i32,
    state: PathBuf,
}

impl Container {
    /// Makes the container `id` of a bundle.
    ///
    /// # Errors
    /// [`ShimError::Process`]: libcontainer's reason. Nothing of the container is left then.
    pub fn create(id: &str, bundle: &Bundle, stdio: &Stdio, work: Work) -> Result<Self, ShimError> {
        let job = Job {
            id: id.to_owned(),
            bundle: bundle.dir.clone(),
            cgroup: get_cgroup_path(&bundle.cgroups_path(), id),
            systemd: bundle.wants_systemd(),
            stdio: stdio.clone(),
            work,
        };
        let pid = in_process(create, job)?;
        Ok(Self {
            pid,
            state: state_dir(&bundle.dir, id),
        })
    }

    /// Lets its first process go on to the program.
    ///
    /// # Errors
    /// [`ShimError::Process`].
    pub fn start(&self) -> Result<(), ShimError> {
        in_process(|state| Ok(Youki::load(state)?.start()?), self.state.clone())
    }

    /// Kills what is left of it, and removes its cgroups and state.
    ///
    /// # Errors
    /// [`ShimError::Process`].
    pub fn delete(&self) -> Result<(), ShimError> {
        in_process(delete, self.state.clone())
    }
}

/// Like [`Container::delete`], for a container whose shim is gone. One that is not there is no error.
///
/// # Errors
/// [`ShimError::Process`].
pub fn delete_remains(bundle: &Path, id: &str) -> Result<(), ShimError> {
    in_process(delete, state_dir(bundle, id))
}

fn state_dir(bundle: &Path, id: &str) -> PathBuf {
    bundle.join(STATE_DIR).join(id)
}

/// Runs `job` in a process that ends with it.
fn in_process<Job, Done>(job: fn(Job) -> Result<Done, WireError>, with: Job) -> Result<Done, ShimError>
where
    Job: Serialize + for<'de> Deserialize<'de> + 'static,
    Done: Serialize + for<'de> Deserialize<'de> + 'static,
{
    Zygote::global()
        .spawn()
        .try_run(
            |(job, with): (usize, Job)| {
                // SAFETY: the zygote was forked from this program, so the address is that function's there too, and its type
                // is the one that this instance of the generic function was made for.
                let job = unsafe { std::mem::transmute::<usize, fn(Job) -> Result<Done, WireError>>(job) };
                job(with)
            },
            (job as usize, with),
        )
        .map_err(|error| ShimError::Process(error.to_string()))?
        .map_err(|error| ShimError::Process(with_causes(&*error)))
}

fn create(job: Job) -> Result<i32, WireError> {
    let (executor, shows_files) = match job.work {
        Work::Native => (Executor::native(), false),
        Work::Guest { code, mark } => {
            // SAFETY: `Container::create` is given what `compile` made, by the engine of this very program.
            let code = unsafe { Code::from_file(File::from(code.into_inner())) };
            // Here, where there is a /proc, code is mapped; the container's process inherits the mapping.
            let mark = mark.map(|mark| Mark::from(mark.into_inner()));
            (Executor::guest(engine()?.link(&code)?, mark), true)
        }
        Work::StandIn(process) => (Executor::stand_in(process.into_inner()), true),
        Work::Functions(shim) => (Executor::functions(shim.into_inner()), false),
    };
    let build = || build(&job.id, &job.bundle, job.systemd, &job.stdio, executor.clone());
    let mut built = build();
    // Nothing orders the messages of libcontainer's two processes, and on a busy node the second may come first.
    for _ in 0..CREATE_RETRIES {
        match &built {
            Err(error) if with_causes(&**error).contains(UNORDERED) => {
                sweep(&job.id, &job.cgroup, job.systemd)?;
                built = build();
            }
            _ => break,
        }
    }
    let mut container = match built {
        Ok(container) => container,
        Err(error) => {
            // libcontainer's own clean-up does not kill.
            sweep(&job.id, &job.cgroup, job.systemd)?;
            return Err(error);
        }
    };
    let pid = container
        .pid()
        .ok_or_else(|| io::Error::other("libcontainer tells no pid"))?;
    // Not before: until its process waits for the start, libcontainer needs them itself.
    if shows_files && let Err(error) = hide_kernel(pid.as_raw()) {
        container.delete(true)?;
        return Err(error.into());
    }
    Ok(pid.as_raw())
}

fn build(
    id: &str,
    bundle: &Path,
    systemd: bool,
    stdio: &Stdio,
    executor: Executor,
) -> Result<Youki, WireError> {
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::Linux)
        .with_executor(executor)
        .with_root_path(bundle.join(STATE_DIR))?;
    if let Some(stdin) = open(&stdio.stdin)? {
        builder = builder.with_stdin(stdin);
    }
    if let Some(stdout) = open(&stdio.stdout)? {
        builder = builder.with_stdout(stdout);
    }
    if let Some(stderr) = open(&stdio.stderr)? {
        builder = builder.with_stderr(stderr);
    }
    let container = builder
        .as_init(bundle)
        // The shim waits for it.
        .as_sibling(true)
        .with_systemd(systemd)
        .build()?;
    Ok(container)
}

/// Kills what a creation that failed left in the container's cgroup, and removes the cgroup.
fn sweep(id: &str, cgroup: &Path, systemd: bool) -> Result<(), WireError> {
    let manager = create_cgroup_manager(CgroupConfig {
        cgroup_path: cgroup.to_owned(),
        systemd_cgroup: systemd,
        container_name: id.to_owned(),
    })?;
    let deadline = Instant::now() + DELETE_TIMEOUT;
    // A cgroup that was not made has no processes, and is an error to libcgroups.
    while let Ok(pids) = manager.get_all_pids()
        && !pids.is_empty()
        && Instant::now() < deadline
    {
        for pid in pids {
            // Whoever ended meanwhile is what is wanted.
            let _ = kill(Pid::from_raw(pid.as_raw()), Signal::SIGKILL);
        }
        thread::sleep(DELETE_PAUSE);
    }
    // What was just killed keeps its cgroups busy until it is dead; one that was not made is removed already.
    while manager.remove().is_err() && Instant::now() < deadline {
        thread::sleep(DELETE_PAUSE);
    }
    Ok(())
}

/// Covers /proc and /sys in the mount namespace whose files a guest sees. A guest that sees the files of its own process can write
/// that process's memory, and is no longer confined by WebAssembly.
fn hide_kernel(pid: i32) -> io::Result<()> {
    let namespace = |of: &str| File::open(format!("/proc/{of}/ns/mnt"));
    let (here, there) = (namespace("self")?, namespace(&pid.to_string())?);
    // The host's own: who runs a guest there wants to see the host.
    if here.metadata()?.ino() == there.metadata()?.ino() {
        return Ok(());
    }
    setns(&there, CloneFlags::CLONE_NEWNS)?;
    for dir in KERNEL_DIRS.map(Path::new).into_iter().filter(|dir| dir.is_dir()) {
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some("size=0,mode=555"))?;
    }
    Ok(())
}

/// Opens a FIFO for reading and writing: neither end waits for containerd, and a containerd that restarts ends nothing.
fn open(fifo: &Path) -> io::Result<Option<File>> {
    if fifo.as_os_str().is_empty() {
        return Ok(None);
    }
    OpenOptions::new().read(true).write(true).open(fifo).map(Some)
}

fn delete(state: PathBuf) -> Result<(), WireError> {
    let deadline = Instant::now() + DELETE_TIMEOUT;
    while state.exists() {
        match Youki::load(state.clone())?.delete(true) {
            Ok(()) => break,
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            // What was just killed keeps its cgroups busy until it is dead.
            Err(_) => thread::sleep(DELETE_PAUSE),
        }
    }
    Ok(())
}
