//! The turns of a thread: a new one begins whenever a guest on it waits, whatever for.

use std::cell::Cell;

thread_local! {
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// The thread's turn.
pub(super) fn current() -> u64 {
    TURN.get()
}

/// A guest waits.
pub(super) fn next() {
    TURN.set(TURN.get().wrapping_add(1));
}
