//! The end of a container's process, in spite of the reaper that containerd-shim runs.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;
use std::{io, ptr};

use containerd_shim::monitor::{Subject, Subscription, Topic, monitor_subscribe};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::error::ShimError;

/// Longest wait for the reaper to tell of a process that it has reaped.
const REAPER_TIMEOUT: Duration = Duration::from_secs(2);

/// A child process, named for good.
#[derive(Debug)]
pub(super) struct PidFd {
    fd: OwnedFd,
    pid: i32,
}

/// What the reaper tells: it waits for every child, and may be quicker than [`PidFd::wait`].
pub(super) struct Reaped(Subscription);

impl PidFd {
    /// Names the child `pid`, and listens to the reaper from now on.
    ///
    /// # Errors
    /// There is no such process. `pidfd_open` is in Linux 5.3.
    pub(super) fn open(pid: i32) -> Result<(Self, Reaped), ShimError> {
        let failed = |reason: String| ShimError::Process(format!("pidfd_open of {pid}: {reason}"));
        let reaped = monitor_subscribe(Topic::Pid).map_err(|error| failed(error.to_string()))?;
        // SAFETY: the call takes a pid and flags, and makes a descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(failed(io::Error::last_os_error().to_string()));
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok((Self { fd, pid }, Reaped(reaped)))
    }

    /// Sends `signal`; a process that has ended already is no error. In Linux since 5.1.
    pub(super) fn kill(&self, signal: u32) -> Result<(), ShimError> {
        // SAFETY: the descriptor is a pidfd that lives; a null siginfo is as in kill(2).
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(sent) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(ShimError::Process(format!(
                "signal {signal} to {}: {errno}",
                self.pid
            ))),
        }
    }

    /// Waits for the end; gives the exit code, or 128 and the number of the signal that ended it.
    pub(super) fn wait(&self, reaped: Reaped) -> Result<u32, ShimError> {
        let failed =
            |error: &dyn std::fmt::Display| ShimError::Process(format!("wait for {}: {error}", self.pid));
        let status = loop {
            match waitid(Id::PIDFd(self.fd.as_fd()), WaitPidFlag::WEXITED) {
                Ok(WaitStatus::Exited(_, code)) => break Some(code),
                Ok(WaitStatus::Signaled(_, signal, _)) => break Some(128 + signal as i32),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => break reaped.status_of(self.pid),
                Err(errno) => return Err(failed(&errno)),
            }
        };
        status
            .and_then(|status| u32::try_from(status).ok())
            .ok_or_else(|| failed(&"its status is lost"))
    }
}

impl Reaped {
    fn status_of(self, pid: i32) -> Option<i32> {
        while let Ok(event) = self.0.rx.recv_timeout(REAPER_TIMEOUT) {
            if matches!(event.subject, Subject::Pid(dead) if dead == pid) {
                return Some(event.exit_code);
            }
        }
        None
    }
}
