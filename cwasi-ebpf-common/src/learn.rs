//! Which destinations are worth enrolling: a pure function of what their closed connections gained.
//!
//! An enrolled socket costs its enrolment (psock, map entries) and pays back with each redirected message. Connections of
//! one request each and streams of small writes do not pay back. Each end of a closed connection adds what its direction
//! gained to the destination's [`Record`]; a destination in the red is left alone, but for a probe now and then.

/// What is remembered of a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// Recent enrolled connections, halved when [`WINDOW`] is reached.
    pub connections: u32,
    /// Connections left to TCP since the last probe.
    pub skipped: u32,
    /// Gains less costs of the recent connections.
    pub balance: i64,
}

/// Connections after which what is remembered counts half.
pub const WINDOW: u32 = 32;
/// Connections that are enrolled before the balance is looked at.
pub const TRIAL: u32 = 4;
/// A loss that ends the trial: one long connection of the wrong kind says enough.
pub const TRIAL_LOSS: i64 = LIMIT / 4;
/// One connection in this many is enrolled to relearn.
pub const PROBE_EVERY: u32 = 64;

/// What one enrolment costs, in gains of one redirected message.
pub const ENROLMENT_COST: i64 = 8;
/// What a message of a stream of small writes costs.
pub const SMALL_COST: i64 = 2;
/// The most that one direction of one connection counts, either way: one giant must not outvote hundreds.
pub const LIMIT: i64 = 256;

/// What one end of a closed connection sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages redirected.
    pub redirected: u64,
    /// Messages that were part of a stream of small writes.
    pub small: u64,
}

impl Sent {
    /// Gains less costs of the messages.
    #[must_use]
    #[inline(always)]
    pub fn gain(self) -> i64 {
        // No real count is larger, and none so large overflows.
        let count = |messages: u64| messages.min(1 << 48).cast_signed();
        (count(self.redirected) - count(self.small) * SMALL_COST).clamp(-LIMIT, LIMIT)
    }
}

impl Record {
    /// Whether to enrol the next connection, with the record after that choice.
    #[must_use]
    #[inline(always)]
    pub const fn admit(self) -> (bool, Self) {
        let on_trial = self.connections < TRIAL && self.balance > -TRIAL_LOSS;
        if on_trial || self.balance >= 0 {
            return (true, self);
        }
        if self.skipped + 1 >= PROBE_EVERY {
            return (true, Self { skipped: 0, ..self });
        }
        (
            false,
            Self {
                skipped: self.skipped + 1,
                ..self
            },
        )
    }

    /// The record after the active end of a connection closed, having sent `sent`.
    #[must_use]
    #[inline(always)]
    pub fn closed_active(self, sent: Sent) -> Self {
        let mut next = Self {
            connections: self.connections + 1,
            balance: self.balance + sent.gain() - ENROLMENT_COST,
            ..self
        };
        if next.connections >= WINDOW {
            next.connections /= 2;
            // A shift, because BPF before v4 has no signed division.
            next.balance >>= 1;
        }
        next
    }

    /// The record after the passive end of a connection closed, having sent `sent`.
    #[must_use]
    #[inline(always)]
    pub fn closed_passive(self, sent: Sent) -> Self {
        Self {
            balance: self.balance + sent.gain(),
            ..self
        }
    }
}

#[cfg(feature = "user")]
const _: () = assert!(size_of::<Record>() == 16);
#[cfg(feature = "user")]
#[expect(
    unsafe_code,
    reason = "aya asks for the promise that the type is plain old data"
)]
// SAFETY: repr(C), integers only, and the size assertion above leaves no room for padding.
unsafe impl aya::Pod for Record {}
