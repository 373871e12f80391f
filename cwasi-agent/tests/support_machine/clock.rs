//! The machine's wall clock.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A day, in seconds.
pub const DAY: i64 = 24 * 60 * 60;

/// The wall clock, which is right again at the end.
pub struct Clock {
    began: (SystemTime, Instant),
}

impl Clock {
    /// The clock as it is.
    pub fn now() -> Self {
        Self {
            began: (SystemTime::now(), Instant::now()),
        }
    }

    /// Steps by so many seconds, forwards or backwards.
    pub fn step(&self, seconds: i64) {
        let length = Duration::from_secs(seconds.unsigned_abs());
        let now = SystemTime::now();
        let then = if seconds < 0 { now - length } else { now + length };
        set(then).unwrap_or_else(|error| panic!("clock_settime: {error}"));
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = set(self.began.0 + self.began.1.elapsed());
    }
}

fn set(time: SystemTime) -> io::Result<()> {
    let since_epoch = time.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    let time = libc::timespec {
        tv_sec: i64::try_from(since_epoch.as_secs()).map_err(io::Error::other)?,
        tv_nsec: i64::from(since_epoch.subsec_nanos()),
    };
    // SAFETY: the time outlives the call.
    match unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
