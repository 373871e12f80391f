//! Guests that run side by side on one thread, of which each ends alone.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::runtime::{Builder, Runtime};
use tokio::task::{AbortHandle, JoinHandle};

use crate::guest::{Guest, GuestError, no_ticks};
use crate::ticks::Ticker;

/// The event loop that guests run on: one thread, because others would only add hand-overs to every socket call.
///
/// # Errors
/// The operating system refuses what it needs.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build()
}

/// Guests of one thread. Each has its own store, and with it its own memory limit, streams and end: a trap, an exit or an
/// end from outside leaves the others running. They take turns as [`ticks`](crate::ticks) says.
#[derive(Debug, Default)]
pub struct Sandbox {
    ticker: OnceLock<Arc<Ticker>>,
}

impl Sandbox {
    /// A sandbox without guests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `guest` beside the others, on the [`runtime`] that the caller runs on. Only a guest whose program is of an
    /// [`Engine::shared`](crate::engine::Engine::shared) lets the others go on while it computes.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use = "how it ends is told nowhere else"]
    pub fn start(&self, guest: Guest) -> Running {
        let ticker = self.ticker();
        Running {
            task: tokio::spawn(async move { guest.run_beside_others(ticker.map_err(no_ticks)?).await }),
        }
    }

    fn ticker(&self) -> io::Result<Arc<Ticker>> {
        if let Some(ticker) = self.ticker.get() {
            return Ok(Arc::clone(ticker));
        }
        let ticker = Ticker::start()?;
        Ok(Arc::clone(self.ticker.get_or_init(|| ticker)))
    }
}

/// A guest that runs; awaited, its end: as [`Guest::run`] gives it, or [`GuestError::Killed`]. Dropped, the guest goes on.
#[derive(Debug)]
pub struct Running {
    task: JoinHandle<Result<u8, GuestError>>,
}

impl Running {
    /// What ends the guest while somebody else awaits it.
    #[must_use]
    pub fn killer(&self) -> Killer {
        Killer {
            task: self.task.abort_handle(),
        }
    }
}

impl Future for Running {
    type Output = Result<u8, GuestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(Pin::new(&mut self.task).poll(context)) {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => Err(GuestError::Killed),
            Err(error) => Err(GuestError::Host(error.to_string())),
        })
    }
}

/// Ends one guest from outside.
#[derive(Clone, Debug)]
pub struct Killer {
    task: AbortHandle,
}

impl Killer {
    /// Ends the guest as SIGKILL ends a process: it runs no more, and its memory, sockets and files are closed. Done when
    /// [`Running`] says so; nothing happens to a guest that has ended.
    pub fn kill(&self) {
        self.task.abort();
    }
}
