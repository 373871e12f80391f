//! The three ways to run a workload, where, and with what history.

use clap::ValueEnum;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::IoContext;
use crate::{Error, Result, stats};

/// How both peers of a workload run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Neither is enrolled: they are started in their pods and the agent does not know them.
    Plain,
    /// Both are enrolled and acceleration is off.
    Off,
    /// Both are enrolled and acceleration is on.
    Kernel,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Off, Self::Kernel];

    /// Every mode once, in the order of a round.
    #[must_use]
    pub fn order(round: usize) -> [Self; 3] {
        stats::rotated(Self::ALL, round)
    }

    /// Its place in [`Mode::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Off => "off",
            Self::Kernel => "kernel",
        }
    }
}

/// The processors of the peers, in every mode the same.
///
/// Left to the scheduler, two peers run now on one processor and now on two, and round trips are of two kinds: ratios of
/// such rounds say more about placement than about the path.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Cpus {
    /// Server and client each on one of their own
    #[default]
    Apart,
    /// Both on the same one
    Together,
    /// Wherever the scheduler puts them
    Free,
}

impl Cpus {
    /// The processors of server and client, of those that this process may use.
    ///
    /// # Errors
    /// They cannot be asked for, or there are not enough.
    pub(crate) fn pair(self) -> Result<[Option<usize>; 2]> {
        let allowed =
            sched_getaffinity(Pid::from_raw(0)).action(|| "read the processors (sched_getaffinity)")?;
        let usable: Vec<usize> = (0..CpuSet::count())
            .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
            .collect();
        match (self, usable.as_slice()) {
            (Self::Free, _) => Ok([None; 2]),
            (Self::Together, [one, ..]) => Ok([Some(*one); 2]),
            (Self::Apart, [one, other, ..]) => Ok([Some(*one), Some(*other)]),
            (Self::Apart | Self::Together, _) => Err(Error::Cpus),
        }
    }

    /// How it is told in a sentence.
    pub(crate) const fn phrase(self) -> &'static str {
        match self {
            Self::Apart => "peers on one CPU each",
            Self::Together => "both peers on one CPU",
            Self::Free => "peers on any CPU",
        }
    }
}

/// What is known of the server when the client is measured.
///
/// The kernel learns by function and destination whether enrolment pays, and a run's functions are new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// Nothing: the connections measured are the first
    #[default]
    Fresh,
    /// What the same client's connections, in a run that is not counted, taught
    Known,
}

impl Destination {
    /// How it is told in a sentence.
    pub(super) const fn phrase(self) -> &'static str {
        match self {
            Self::Fresh => "fresh destinations",
            Self::Known => "known destinations",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_is_first_equally_often() {
        for mode in Mode::ALL {
            assert_eq!(Mode::ALL[mode.index()], mode);
            for place in 0..3 {
                let times = (0..9).filter(|round| Mode::order(*round)[place] == mode).count();
                assert_eq!(times, 3);
            }
        }
    }
}
