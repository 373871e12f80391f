//! Whether a receiver is sure to find what follows redirected bytes by TCP: a pure function of how it is seen to wait.
//!
//! A read returns redirected bytes alone while there are any (`tcp_bpf_recvmsg`), so it can come short although TCP's queue
//! holds more. Level-triggered waiting tells of the rest. A program that waits edge-triggered may take a short read for the end
//! of what there is, as epoll(7) says it may (tokio's `poll_read` and nginx do): the edge of the rest came before its read, and
//! no other follows.

use crate::reason::Reason;
use crate::redirect::Verdict;

/// `EPOLLIN | EPOLLRDNORM`, which `POLLIN | POLLRDNORM` are too.
const READABLE: u32 = 0x1 | 0x40;
/// `EPOLLET`.
const EDGE_TRIGGERED: u32 = 1 << 31;

/// Entries of a wait queue that are looked at: most sockets have one.
pub const MOST_WAITERS: u32 = 8;

/// One entry of a socket's wait queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// An epoll instance, with the events it was told to watch.
    Epoll(u32),
    /// A poll(2) or select(2) that sleeps, with the events it waits for.
    Poll(u32),
    /// Anything else, such as a blocked read or io_uring.
    Other,
}

/// What the entries of a wait queue tell together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiters {
    level: bool,
    edge: bool,
}

impl Waiters {
    /// With one entry more.
    #[must_use]
    #[inline(always)]
    pub const fn and(self, waiter: Waiter) -> Self {
        match waiter {
            Waiter::Epoll(events) if events & EDGE_TRIGGERED != 0 => Self { edge: true, ..self },
            Waiter::Epoll(events) | Waiter::Poll(events) if events & READABLE != 0 => {
                Self { level: true, ..self }
            }
            _ => self,
        }
    }

    /// Whether redirection may begin; `complete` says that every entry was looked at.
    ///
    /// # Errors
    /// [`Reason::EdgeTriggered`] when any entry is, [`Reason::Unpolled`] when nobody is seen to wait for bytes
    /// level-triggered: the connection may not be accepted yet, and be polled in either way later.
    #[inline(always)]
    pub const fn verdict(self, complete: bool) -> Verdict {
        if self.edge {
            Err(Reason::EdgeTriggered)
        } else if self.level && complete {
            Ok(())
        } else {
            Err(Reason::Unpolled)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn waiter() -> impl Strategy<Value = Waiter> {
        prop_oneof![
            any::<u32>().prop_map(Waiter::Epoll),
            any::<u32>().prop_map(Waiter::Poll),
            Just(Waiter::Other),
        ]
    }

    fn verdict(waiters: &[Waiter], complete: bool) -> Verdict {
        let seen = waiters
            .iter()
            .fold(Waiters::default(), |seen, waiter| seen.and(*waiter));
        seen.verdict(complete)
    }

    proptest! {
        #[test]
        fn one_edge_triggered_epoll_is_enough(
            mut waiters in prop::collection::vec(waiter(), 0..8),
            events: u32,
            at in any::<prop::sample::Index>(),
            complete: bool,
        ) {
            waiters.insert(at.index(waiters.len() + 1), Waiter::Epoll(events | EDGE_TRIGGERED));
            prop_assert_eq!(verdict(&waiters, complete), Err(Reason::EdgeTriggered));
        }

        #[test]
        fn redirection_begins_for_a_level_triggered_reader_only(
            waiters in prop::collection::vec(waiter(), 0..8),
            complete: bool,
        ) {
            let edge = waiters
                .iter()
                .any(|waiter| matches!(waiter, Waiter::Epoll(events) if events & EDGE_TRIGGERED != 0));
            let readers: Vec<_> = waiters
                .iter()
                .filter(|waiter| match waiter {
                    Waiter::Epoll(events) | Waiter::Poll(events) => events & READABLE != 0,
                    Waiter::Other => false,
                })
                .collect();
            let begins = verdict(&waiters, complete).is_ok();
            prop_assert_eq!(begins, complete && !edge && !readers.is_empty());
        }
    }

    #[test]
    fn nobody_who_waits_is_no_evidence() {
        assert_eq!(verdict(&[], true), Err(Reason::Unpolled));
        assert_eq!(verdict(&[Waiter::Other], true), Err(Reason::Unpolled));
        // EPOLLOUT: the connect of a socket that may be watched in another way once it is there.
        assert_eq!(verdict(&[Waiter::Epoll(0x4)], true), Err(Reason::Unpolled));
    }
}
