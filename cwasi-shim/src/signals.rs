//! An orderly end on SIGTERM, SIGINT, SIGHUP and SIGQUIT, whatever the guest is doing.
//!
//! A guest that computes never gives its thread back, so the signals are taken by a thread that does nothing else. They are
//! blocked and waited for, not handled: so they also reach the first process of a pid namespace, for which the kernel drops
//! every signal that it neither handles nor blocks, and a process that was started with them ignored.

use std::thread;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};

/// The signals that end a guest.
pub const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// Why signals cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// {call} failed: {errno}
    #[error("{call} failed: {errno}")]
    System {
        /// Call that failed.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// a thread for signals cannot be started: {0}
    #[error("a thread for signals cannot be started: {0}")]
    Thread(std::io::Error),
}

/// Blocks [`ENDING`] in the calling thread and those it starts later, and runs `end` on a thread of its own when the
/// first of them arrives. Call it before any other thread is started: a thread that does not block a signal takes it.
///
/// # Errors
/// [`SignalError`] when the system refuses.
pub fn on_end(end: Box<dyn FnOnce(Signal) + Send>) -> Result<(), SignalError> {
    let set: SigSet = ENDING.into_iter().collect();
    set.thread_block().map_err(|errno| SignalError::System {
        call: "pthread_sigmask",
        errno,
    })?;
    let wait = move || {
        if let Ok(signal) = set.wait() {
            end(signal);
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map(drop)
        .map_err(SignalError::Thread)
}
