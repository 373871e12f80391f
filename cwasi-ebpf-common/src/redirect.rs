//! The state machine of one direction of a connection: what becomes of a message at its sender.
//!
//! The kernel's reader takes redirected bytes before the bytes of its TCP receive queue. Hence going from TCP to redirect
//! is in order exactly when the reader has consumed every byte that was sent by TCP, and going back always is. Redirection
//! has no back-pressure of its own: over the budget a sender goes back to TCP, which blocks it as it always did. The reader
//! then has bytes in both queues, and must be one that finds the second: see [`crate::reader`].

use crate::maps::Config;
use crate::reason::Reason;

/// The path of one direction of a connection. The discriminants are part of the layout of the pinned maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Messages go by TCP.
    #[default]
    Tcp = 0,
    /// Messages go straight into the receiver's redirect queue.
    Redirect = 1,
}

impl State {
    /// The state of a value read from a map.
    #[must_use]
    #[inline(always)]
    pub const fn from_value(value: u32) -> Self {
        match value {
            1 => Self::Redirect,
            _ => Self::Tcp,
        }
    }
}

/// What the decision looks at. Each method is asked at most once a message, and only when its answer matters.
pub trait Observe {
    /// Whether the sender may still send: neither shut down nor closed. Only TCP refuses the others (EPIPE).
    fn sending(&self) -> bool;
    /// Whether the receiver's socket is known and still the one that was paired.
    fn peer(&self) -> Result<(), Reason>;
    /// Whether an upper layer protocol (kTLS) sits on either socket.
    fn upper_layer(&self) -> bool;
    /// Bytes redirected to the receiver that it has not read, `None` when they cannot be measured.
    fn queued(&self) -> Option<u32>;
    /// Whether memory is short, of the machine for TCP or of the receiver, of which `queued` bytes are unread: see [`crate::memory`].
    fn scarce(&self, queued: u32) -> bool;
    /// Whether the receiver has consumed every byte that was ever sent by TCP.
    fn drained(&self) -> bool;
    /// Whether the receiver is sure to find bytes that follow redirected ones by TCP: vouched for, or seen to wait so.
    fn reader(&self) -> Verdict;
}

/// What becomes of a message: redirect it, or hand it to TCP because of the reason.
pub type Verdict = Result<(), Reason>;

/// Decides on a message of a direction that is in `state`.
///
/// `Ok` is permission to redirect, and the direction's new state is [`State::Redirect`] if the kernel then takes the message.
/// `Err` means TCP, and the new state is [`State::Tcp`].
///
/// `small_stream` says that the message belongs to a stream of small writes, see [`Streak`].
///
/// # Errors
/// The reason for which the message goes by TCP.
#[inline(always)]
pub fn decide(state: State, config: &Config, small_stream: bool, seen: &impl Observe) -> Verdict {
    if config.enabled == 0 {
        return Err(Reason::Disabled);
    }
    if !seen.sending() {
        return Err(Reason::Closing);
    }
    seen.peer()?;
    if seen.upper_layer() {
        return Err(Reason::UpperLayer);
    }
    if small_stream {
        return Err(Reason::SmallWrites);
    }
    let queued = seen.queued().ok_or(Reason::Unmeasured)?;
    // Half the budget keeps a full queue from changing the path at every message.
    let most = match state {
        State::Redirect => config.budget,
        State::Tcp => config.budget / 2,
    };
    if queued > most || seen.scarce(queued) {
        return Err(Reason::Budget);
    }
    match state {
        State::Redirect => Ok(()),
        State::Tcp if !seen.drained() => Err(Reason::Undrained),
        State::Tcp => seen.reader(),
    }
}

/// Counts small writes in a row, to tell a stream of them from questions and answers.
///
/// TCP coalesces a stream of small writes into large segments (Nagle, and autocorking without it); redirected, each write wakes
/// the reader, which costs more than it saves. Only tiny writes with TCP_NODELAY are better off redirected: they drown TCP in
/// buffer overhead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streak {
    /// Small messages in a row, without an answer, this one included.
    pub length: u32,
}

impl Streak {
    /// The streak after a message of `bytes`, when it was `previous` before; `answered` says that the peer has sent something since.
    #[must_use]
    #[inline(always)]
    pub const fn after(previous: u32, config: &Config, bytes: u32, nagle: bool, answered: bool) -> Self {
        if bytes >= config.small_write || (bytes < config.tiny_write && !nagle) {
            Self { length: 0 }
        } else if answered {
            Self { length: 1 }
        } else {
            Self {
                length: previous.saturating_add(1),
            }
        }
    }

    /// Whether the message that made this streak is part of a stream of small writes.
    #[must_use]
    #[inline(always)]
    pub const fn is_stream(self, config: &Config) -> bool {
        self.length > config.small_streak
    }
}
