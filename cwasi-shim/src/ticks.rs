//! Time slices of guests that share a thread.
//!
//! The code of such guests looks at the engine's epoch in each turn of a loop and each call. A thread advances the epoch every
//! [`TICK`] while a guest runs, and the guest then lets the others of its thread go first. So a neighbour waits at most one
//! tick for each guest that computes without end, plus what the scheduler adds.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::task::yield_now;
use wasmtime::{Engine, EngineWeak, Store, UpdateDeadline};

use crate::state::GuestState;

/// Longest time that a guest keeps its thread to itself. Neighbours wait so long for each guest that computes: longer ticks would be
/// felt in every message, and shorter ones wake the ticking thread more often than they help beside the kernel's own time slices.
pub const TICK: Duration = Duration::from_millis(1);

/// Ticks without a guest that runs, after which there are none until one does. Longer than the pause between the messages of a
/// conversation: waking the ticking thread costs its waker some microseconds.
const IDLE_TICKS: u32 = 20;

/// Ticks for the guests of one thread. Ends with its last owner.
pub(crate) struct Ticker {
    clock: Arc<Clock>,
    thread: Thread,
}

#[derive(Default)]
struct Clock {
    ticks: AtomicU64,
    /// A guest runs right now.
    running: AtomicBool,
    /// A guest ran since the last tick.
    ran: AtomicBool,
    /// The thread waits until a guest runs.
    parked: AtomicBool,
    ended: AtomicBool,
    /// Value of `ticks` when the guest that runs was last given the thread.
    slice: AtomicU64,
    engines: Mutex<Vec<EngineWeak>>,
}

impl fmt::Debug for Ticker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ticker").finish_non_exhaustive()
    }
}

impl Clock {
    fn engines(&self) -> MutexGuard<'_, Vec<EngineWeak>> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        self.engines().retain(|engine| {
            let engine = engine.upgrade();
            engine.inspect(Engine::increment_epoch).is_some()
        });
    }

    fn run(&self) {
        let mut idle = 0;
        while !self.ended.load(Ordering::Relaxed) {
            thread::sleep(TICK);
            self.tick();
            let active = self.ran.swap(false, Ordering::Relaxed) || self.running.load(Ordering::Relaxed);
            idle = if active { 0 } else { idle + 1 };
            if idle >= IDLE_TICKS {
                self.park();
                idle = 0;
            }
        }
    }

    /// Waits until a guest runs. Either this sees that one does, or the guest sees that this waits: both look after they have
    /// said so themselves.
    fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
        while self.parked.load(Ordering::SeqCst)
            && !self.running.load(Ordering::SeqCst)
            && !self.ended.load(Ordering::SeqCst)
        {
            thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }
}

impl Ticker {
    /// Starts the thread that ticks.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let clock = Arc::new(Clock::default());
        let of_thread = Arc::clone(&clock);
        let thread = thread::Builder::new()
            .name("ticks".to_owned())
            .spawn(move || of_thread.run())?;
        Ok(Arc::new(Self {
            clock,
            thread: thread.thread().clone(),
        }))
    }

    /// Cuts the running time of the guest of `store` into slices, when [`Ticker::run`] runs it.
    pub(crate) fn cut(self: &Arc<Self>, store: &mut Store<GuestState>) {
        let engine = store.engine();
        let mut engines = self.clock.engines();
        let known = |weak: &EngineWeak| weak.upgrade().is_some_and(|known| Engine::same(&known, engine));
        if !engines.iter().any(known) {
            engines.push(engine.weak());
        }
        drop(engines);
        let clock = Arc::clone(&self.clock);
        store.epoch_deadline_callback(move |_| {
            let used = clock.ticks.load(Ordering::Relaxed) != clock.slice.load(Ordering::Relaxed);
            Ok(if used {
                // tokio looks for events of the system before it comes back to this one.
                UpdateDeadline::YieldCustom(1, Box::pin(yield_now()))
            } else {
                // The tick that it missed was while it waited.
                UpdateDeadline::Continue(1)
            })
        });
    }

    /// Runs a guest.
    pub(crate) async fn run<T>(&self, guest: impl Future<Output = T>) -> T {
        let mut guest = pin!(guest);
        poll_fn(|context| {
            let _running = self.enter();
            guest.as_mut().poll(context)
        })
        .await
    }

    fn enter(&self) -> Running<'_> {
        let clock = &*self.clock;
        clock
            .slice
            .store(clock.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        clock.running.store(true, Ordering::SeqCst);
        if clock.parked.load(Ordering::SeqCst) {
            self.wake();
        }
        Running(clock)
    }

    fn wake(&self) {
        self.clock.parked.store(false, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.clock.ended.store(true, Ordering::SeqCst);
        self.wake();
    }
}

/// A guest that has the thread.
struct Running<'a>(&'a Clock);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.ran.store(true, Ordering::Relaxed);
        self.0.running.store(false, Ordering::Relaxed);
    }
}

/// What every store needs whose engine has epochs, also one that nobody cuts into slices.
pub(crate) fn without_slices(store: &mut Store<GuestState>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Continue(1)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(condition: impl Fn() -> bool) {
        while !condition() {
            thread::sleep(TICK);
        }
    }

    #[test]
    fn there_are_ticks_while_a_guest_runs_and_none_when_none_does() {
        let ticker = Ticker::start().unwrap();
        let clock = &ticker.clock;
        let ticks = || clock.ticks.load(Ordering::Relaxed);
        for _ in 0..3 {
            until(|| clock.parked.load(Ordering::Relaxed));
            let idle = ticks();
            thread::sleep(5 * TICK);
            assert_eq!(ticks(), idle);
            let running = ticker.enter();
            let goal = idle + u64::from(2 * IDLE_TICKS);
            until(|| ticks() > goal);
            drop(running);
        }
    }

    #[test]
    fn the_thread_ends_with_the_last_owner() {
        for parked in [false, true] {
            let ticker = Ticker::start().unwrap();
            until(|| ticker.clock.parked.load(Ordering::Relaxed) == parked);
            let clock = Arc::downgrade(&ticker.clock);
            drop(ticker);
            until(|| clock.upgrade().is_none());
        }
    }
}
