//! Bytes that a guest has written and the kernel has not taken.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

use super::connection::Connection;

/// The writes of a guest that are still on their way to the kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unsent(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    writes: AtomicUsize,
    none: Notify,
}

impl Unsent {
    /// Gives `bytes` to the kernel as it takes them, in a task of their own.
    pub(super) fn send(&self, connection: Arc<Connection>, bytes: Bytes) -> Pending {
        let pending = Pending(Arc::default());
        let counted = Counted::new(self.clone());
        let sent = pending.clone();
        tokio::spawn(async move {
            let done = send(&connection, bytes).await;
            sent.set_done(&connection, done);
            drop(counted);
        });
        pending
    }

    /// Whether the kernel has everything.
    pub(super) fn is_none(&self) -> bool {
        self.0.writes.load(Ordering::Acquire) == 0
    }

    /// Waits until the kernel has everything: a guest's last words are not lost with it.
    pub(crate) async fn none(&self) {
        loop {
            let none = self.0.none.notified();
            if self.is_none() {
                return;
            }
            none.await;
        }
    }
}

/// One write in the count.
struct Counted(Unsent);

impl Counted {
    fn new(unsent: Unsent) -> Self {
        unsent.0.writes.fetch_add(1, Ordering::AcqRel);
        Self(unsent)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Unsent(count) = &self.0;
        if count.writes.fetch_sub(1, Ordering::AcqRel) == 1 {
            count.none.notify_waiters();
        }
    }
}

async fn send(connection: &Connection, mut bytes: Bytes) -> io::Result<()> {
    let transport = connection.transport();
    while !bytes.is_empty() {
        poll_fn(|cx| transport.poll_writable(cx)).await;
        match transport.write(&bytes) {
            Ok(len) => bytes.advance(len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One write that is on its way.
#[derive(Clone, Debug)]
pub(super) struct Pending(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    done: Option<io::Result<()>>,
    /// Writing ends with these bytes.
    end_after: bool,
    waiter: Option<Waker>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_done(&self, connection: &Connection, done: io::Result<()>) {
        let mut state = self.lock();
        state.done = Some(done);
        if state.end_after {
            connection.transport().end_writing();
        }
        if let Some(waiter) = state.waiter.take() {
            waiter.wake();
        }
    }

    /// How it ended, once.
    pub(super) fn done(&self) -> Option<io::Result<()>> {
        self.lock().done.take()
    }

    pub(super) fn poll_done(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.done.is_some() {
            return Poll::Ready(());
        }
        state.waiter = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends writing when the bytes are sent; at once when they are.
    pub(super) fn end_after(&self, connection: &Connection) {
        let mut state = self.lock();
        state.end_after = true;
        if state.done.is_some() {
            connection.transport().end_writing();
        }
    }
}
