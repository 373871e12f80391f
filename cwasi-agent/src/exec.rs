//! A command as a function: its own cgroup, registered, and unregistered at its end.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use cwasi_client::cgroup::{self, CgroupError, Leaf};
use cwasi_client::client::{Client, ClientError};
use cwasi_client::netns::{self, NetnsError};
use cwasi_client::protocol::{ErrorCode, FunctionSpec};
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid, pipe2};

/// Exit code of failures that are not the command's: no agent, no cgroup, a netns that cannot be entered.
pub const FAILED: u8 = 125;
/// Exit code when the command was found but cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit code when there is no such command.
pub const NOT_FOUND: u8 = 127;

/// Signals that are passed on to the command.
const FORWARDED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// What to run.
#[derive(Clone, Debug)]
pub struct ExecOptions {
    /// The agent's socket.
    pub socket: PathBuf,
    /// The function; its cgroup is made here.
    pub function: FunctionSpec,
    /// Name or path of the network namespace to run in, the caller's own when absent.
    pub netns: Option<String>,
    /// Command and arguments, not empty.
    pub command: Vec<OsString>,
}

/// Why the command did not run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The agent could not be asked, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The cgroup cannot be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The network namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// no command was given
    #[error("no command was given")]
    NoCommand,
    /// {}: no such command
    #[error("{}: no such command", .0.display())]
    NotFound(PathBuf),
    /// {} cannot be executed: {source}
    #[error("{} cannot be executed: {source}", command.display())]
    NotExecutable {
        /// The command.
        command: PathBuf,
        /// Error of `execve`.
        source: io::Error,
    },
    /// {call} failed: {source}
    #[error("{call} failed: {source}")]
    System {
        /// The call that failed.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

impl ExecError {
    /// The exit code, as shells and `docker run` have it.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => NOT_FOUND,
            Self::NotExecutable { .. } => NOT_EXECUTABLE,
            _ => FAILED,
        }
    }
}

fn system(call: &'static str) -> impl FnOnce(io::Error) -> ExecError {
    move |source| ExecError::System { call, source }
}

/// Runs the command as a function and waits for it. What it leaves running in its cgroup is killed. Returns its exit code,
/// or 128 + n when signal n ended it.
///
/// # Errors
/// The command did not run; [`ExecError::exit_code`] is the code to exit with.
pub fn exec(options: ExecOptions) -> Result<u8, ExecError> {
    let [program, arguments @ ..] = options.command.as_slice() else {
        return Err(ExecError::NoCommand);
    };
    let netns = options.netns.as_deref().map(netns::resolve).transpose()?;
    // Before the cgroup is made, so that no signal can end this process with the cgroup left behind.
    let mut signals = Signals::take()?;
    let mut client = Client::connect(&options.socket)?;
    let leaf = Leaf::create(&options.function.name)?;
    let function = FunctionSpec {
        cgroup: Some(leaf.path().to_owned()),
        addresses: addresses(netns.as_deref())?,
        netns: netns.clone(),
        ..options.function
    };
    let registered = client.register(&function)?;
    // The agent closes connections that are silent for long.
    drop(client);
    if !registered.accelerated {
        let reason = registered.reason.unwrap_or_default();
        say(&format!("{} runs on plain TCP: {reason}", function.name));
    }
    let mut command = Command::new(program);
    command.args(arguments);
    let ended = spawn(
        command,
        Path::new(program),
        leaf.procs(),
        netns.as_deref(),
        signals.before,
    )
    .and_then(|mut child| signals.wait(&mut child).map_err(system("wait for the command")));
    let cleaned = clean_up(&options.socket, leaf, registered.id);
    let status = ended?;
    if let Err(error) = cleaned {
        say(&format!("clean-up: {error}"));
    }
    Ok(exit_code(status))
}

/// The addresses by which the command will be reached, as an agent may have no right to look.
fn addresses(netns: Option<&Path>) -> Result<Vec<IpAddr>, NetnsError> {
    netns.map_or_else(netns::function_addresses, |netns| {
        netns::run(netns, netns::function_addresses).and_then(|found| found)
    })
}

/// One line on standard error, which may be closed: the command runs all the same.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "cwasi-agent exec: {line}");
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(FAILED)
}

fn clean_up(socket: &Path, leaf: Leaf, id: u32) -> Result<(), ExecError> {
    let killed = cgroup::kill_all(leaf.path());
    let unregistered = Client::connect(socket).and_then(|mut client| client.unregister(id));
    let removed = leaf.close();
    match unregistered {
        // The agent was faster: it drops functions whose cgroup is gone.
        Err(ClientError::Refused(refusal)) if refusal.code == ErrorCode::NotFound => {}
        other => other?,
    }
    killed?;
    Ok(removed?)
}

/// Starts the command inside the cgroup and the network namespace, and bound to this process's life.
fn spawn(
    mut command: Command,
    name: &Path,
    procs: &Path,
    netns: Option<&Path>,
    mask: SigSet,
) -> Result<Child, ExecError> {
    let procs = OpenOptions::new()
        .write(true)
        .open(procs)
        .map_err(system("open cgroup.procs"))?;
    let netns = netns.map(netns::open).transpose()?;
    // The child writes a byte when only the exec is left to fail: spawn() reports both as the same error.
    let (ready, child_ready) =
        pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|e| system("pipe2")(e.into()))?;
    let child_side = ChildSide {
        parent: getpid().as_raw(),
        procs: procs.as_raw_fd(),
        netns: netns.as_ref().map(AsRawFd::as_raw_fd),
        ready: child_ready.as_raw_fd(),
        mask,
    };
    // SAFETY: `enter` makes only async-signal-safe calls, on descriptors that stay open until the spawn returns.
    unsafe { command.pre_exec(move || child_side.enter()) };
    let spawned = command.spawn();
    drop(child_ready);
    spawned.map_err(|source| {
        if !is_written(ready) {
            return system("enter the function's cgroup and network namespace")(source);
        }
        let command = name.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => ExecError::NotFound(command),
            _ => ExecError::NotExecutable { command, source },
        }
    })
}

fn is_written(pipe: OwnedFd) -> bool {
    File::from(pipe).read(&mut [0]).is_ok_and(|length| length == 1)
}

/// What the child does between fork and exec.
#[derive(Clone, Copy)]
struct ChildSide {
    parent: libc::pid_t,
    procs: RawFd,
    netns: Option<RawFd>,
    ready: RawFd,
    mask: SigSet,
}

impl ChildSide {
    /// Async-signal-safe: system calls only, no allocation, no locks.
    fn enter(self) -> io::Result<()> {
        let check = |failed: bool| {
            if failed {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        };
        // SAFETY: system calls on integers, and on constants of the right length.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0)?;
            if libc::getppid() != self.parent {
                // The parent died before the line above: nobody would unregister.
                libc::_exit(i32::from(FAILED));
            }
            check(libc::write(self.procs, c"0".as_ptr().cast(), 1) != 1)?;
            if let Some(netns) = self.netns {
                check(libc::setns(netns, libc::CLONE_NEWNET) != 0)?;
            }
            let mask: &libc::sigset_t = self.mask.as_ref();
            check(libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) != 0)?;
            check(libc::write(self.ready, c"1".as_ptr().cast(), 1) != 1)
        }
    }
}

/// The signals that this process takes instead of being ended by them.
struct Signals {
    taken: SignalFd,
    /// What was blocked before, and is to be blocked in the command.
    before: SigSet,
}

impl Signals {
    fn take() -> Result<Self, ExecError> {
        let mut set = SigSet::from_iter(FORWARDED);
        set.add(Signal::SIGCHLD);
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let taken = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC);
        Ok(Self {
            before: before.map_err(|errno| system("pthread_sigmask")(errno.into()))?,
            taken: taken.map_err(|errno| system("signalfd")(errno.into()))?,
        })
    }

    /// Waits for the command's end, passing signals on to it.
    fn wait(&mut self, child: &mut Child) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let Some(info) = self.taken.read_signal()? else {
                continue;
            };
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            // A terminal's Ctrl-C goes to the command too, which is in the same process group: once is enough.
            let from_terminal = info.ssi_code == libc::SI_KERNEL;
            if let Ok(signal) = Signal::try_from(number)
                && signal != Signal::SIGCHLD
                && !from_terminal
            {
                let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
                // A command that has just ended is found by the next round.
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_shells() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(libc::SIGKILL)), 137);
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(ExecError::NotFound("x".into()).exit_code(), 127);
        let source = io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(
            ExecError::NotExecutable {
                command: "x".into(),
                source
            }
            .exit_code(),
            126
        );
        assert_eq!(ExecError::NoCommand.exit_code(), 125);
    }

    #[test]
    fn a_failed_entry_is_told_from_a_failed_exec() {
        let null = Path::new("/dev/null");
        let run = |program: &str, procs: &Path| {
            spawn(
                Command::new(program),
                Path::new(program),
                procs,
                None,
                SigSet::empty(),
            )
            .map(|mut child| child.wait().unwrap().code())
        };
        assert_eq!(run("true", null).unwrap(), Some(0));
        assert!(matches!(
            run("/no/such/command", null),
            Err(ExecError::NotFound(_))
        ));
        assert!(matches!(
            run("/etc/passwd", null),
            Err(ExecError::NotExecutable { .. })
        ));
        assert!(matches!(
            run("true", Path::new("/dev/full")),
            Err(ExecError::System { .. })
        ));
    }
}
