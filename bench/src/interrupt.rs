//! Ctrl-C and SIGTERM as an error that unwinds, so that every guard on the way cleans up.

use std::fmt::Display;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::IoContext;
use crate::{Error, Result};

/// How long a pause may go without looking for a signal.
const GRAIN: Duration = Duration::from_millis(20);

static ARRIVED: AtomicI32 = AtomicI32::new(0);
static WATCHING: OnceLock<()> = OnceLock::new();

/// From now on the first SIGINT, SIGTERM or SIGHUP makes [`check`] and all waits of this crate fail, and a second one ends
/// the process at once, without clean-up.
///
/// Signals are handled, not blocked: programs that are started would inherit a blocked one and never end by it.
///
/// # Errors
/// The system refuses a handler or a thread.
pub fn watch() -> Result<()> {
    if WATCHING.set(()).is_err() {
        return Ok(());
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).action(|| "handle signals (sigaction)")?;
    let wait = move || {
        for signal in signals.forever() {
            if ARRIVED.swap(signal, Ordering::Relaxed) != 0 {
                std::process::exit(exit_code());
            }
            eprintln!("cleaning up; interrupt again to leave everything as it is");
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map(drop)
        .action(|| "start a thread for signals")
}

/// Fails once a signal arrived.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    match ARRIVED.load(Ordering::Relaxed) {
        0 => Ok(()),
        _ => Err(Error::Interrupted),
    }
}

/// The exit code of a run that a signal ended: 128 plus its number, as shells tell it.
fn exit_code() -> i32 {
    128 + ARRIVED.load(Ordering::Relaxed)
}

/// What the program of this name ends with, its error said unless `interrupted` tells that it is a signal's doing.
pub fn end<E: Display>(
    program: &str,
    result: std::result::Result<(), E>,
    interrupted: impl FnOnce(&E) -> bool,
) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if interrupted(&error) => ExitCode::from(u8::try_from(exit_code()).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Sleeps, unless a signal arrives.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn pause(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(GRAIN));
    }
}
