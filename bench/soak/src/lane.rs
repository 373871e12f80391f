//! Traffic over one path, one session after the other.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cwasi_bench::interrupt;
use fastrand::Rng;

use super::faults;
use super::results::{Broken, Tally, lock};
use super::session::{Outcome, POLL, Session, Stage};
use crate::Result;

/// How long a session may take: what stands still is broken, too.
const LONGEST: Duration = Duration::from_secs(120);

/// The seconds that a session shall take, from the speed of the one before.
const SECONDS: std::ops::Range<f64> = 0.5..4.0;

/// Bytes of a lane's first session, of its first one between pods, and the least and most of any.
const FIRST: u64 = 64 << 20;
const FIRST_OF_PODS: u64 = 8 << 20;
const LEAST: u64 = 1 << 20;
const MOST: u64 = 8 << 30;

/// What talks to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Two guests in one process.
    Process,
    /// Two guests in a process each.
    Guests,
    /// Two native programs.
    Native,
    /// A native function, and a peer that is none: plain TCP.
    Network,
    /// Requests of a native program to a guest, and their answers.
    Requests,
    /// Two guests in a pod each, in containerd.
    Pods,
    /// Two guests of a pod in containerd, in one process.
    PodProcess,
}

impl Lane {
    pub(super) const ALL: [Self; 7] = [
        Self::Process,
        Self::Guests,
        Self::Native,
        Self::Network,
        Self::Requests,
        Self::Pods,
        Self::PodProcess,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Process => "guests in one process",
            Self::Guests => "guests",
            Self::Native => "native programs",
            Self::Network => "plain TCP",
            Self::Requests => "requests to a guest",
            Self::Pods => "pods in containerd",
            Self::PodProcess => "a pod's guests in one process",
        }
    }

    pub(super) const fn is_of_pods(self) -> bool {
        matches!(self, Self::Pods | Self::PodProcess)
    }

    /// Runs sessions until it is `over`.
    pub(super) fn run(
        self,
        stage: &Stage,
        mut random: Rng,
        tally: &Mutex<Tally>,
        over: &AtomicBool,
    ) -> Result<()> {
        let mut amount = if self.is_of_pods() { FIRST_OF_PODS } else { FIRST };
        while !over.load(Ordering::Relaxed) {
            let session = stage.begin(self, amount, &mut random)?;
            let begun = Instant::now();
            // A pod's making and removal are no part of a stream's speed.
            let (outcome, hurt, took) = match session {
                Ok(mut session) => {
                    let hurt = accompany(&mut *session, &mut random, tally)?;
                    let took = begun.elapsed();
                    (session.end(hurt)?, hurt, took)
                }
                Err(outcome) => (outcome, false, Duration::ZERO),
            };
            let mut tally = lock(tally);
            match outcome {
                Outcome::Right(bytes) => {
                    tally.right(self.name(), bytes);
                    let speed = bytes as f64 / took.as_secs_f64().max(POLL.as_secs_f64());
                    let seconds = SECONDS.start + random.f64() * (SECONDS.end - SECONDS.start);
                    // Saturates, and is bounded.
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    let next = (speed * seconds) as u64;
                    amount = next.clamp(LEAST, MOST);
                }
                Outcome::NotBegun => tally.not_begun += 1,
                Outcome::Unknown => tally.unknown += 1,
                Outcome::Broken { wrong: false, .. } if hurt => tally.ended_by_fault += 1,
                Outcome::Broken { wrong, why } => tally.broken.push(Broken {
                    lane: self.name(),
                    wrong,
                    why,
                }),
            }
        }
        Ok(())
    }
}

/// Does faults to a session until it ends; says whether one was deadly.
fn accompany(session: &mut dyn Session, random: &mut Rng, tally: &Mutex<Tally>) -> Result<bool> {
    let next = |random: &mut Rng| Instant::now() + faults::milliseconds(random, 50, 3000);
    let (begun, mut at, mut hurt) = (Instant::now(), next(random), false);
    while !session.has_ended()? {
        if begun.elapsed() > LONGEST {
            session.give_up();
            break;
        }
        if Instant::now() > at {
            let fault = session.hurt(random)?;
            lock(tally).fault(fault.name);
            hurt |= fault.deadly;
            at = next(random);
        }
        interrupt::pause(POLL)?;
    }
    Ok(hurt)
}
