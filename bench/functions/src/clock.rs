//! Times that two functions of one machine can compare.
//!
//! A component's monotonic clock begins with its instance; the wall clock is the machine's.

use crate::{Error, Result};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds of the wall clock.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // 2554 is the year in which they no longer fit.
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The time since another function's [`now`].
///
/// # Errors
/// [`Error::Data`] when that is in the future: the clock was set meanwhile.
pub fn since(then: u64) -> Result<Duration> {
    let now = now();
    let nanos = now
        .checked_sub(then)
        .ok_or_else(|| Error::Data(format!("the wall clock went back by {} ns or more", then - now)))?;
    Ok(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward_and_a_step_back_shows() {
        let then = now();
        assert!(since(then).unwrap() < Duration::from_secs(60));
        assert!(matches!(since(then + 3_600_000_000_000), Err(Error::Data(_))));
    }
}
