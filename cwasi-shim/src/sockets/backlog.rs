//! Connections inside the process that a listener has not accepted yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::pipe::End;

/// Server ends of connections, in the order in which they were made.
#[derive(Debug)]
pub(super) struct Backlog(Mutex<Queue>);

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<End>,
    /// As Linux counts: one more than this many may wait.
    limit: u32,
    closed: bool,
    acceptor: Option<Waker>,
    /// Those that wait to be let in.
    connectors: Vec<Waker>,
}

/// The listener is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

impl Backlog {
    pub(super) const fn new(limit: u32) -> Self {
        Self(Mutex::new(Queue {
            waiting: VecDeque::new(),
            limit,
            closed: false,
            acceptor: None,
            connectors: Vec::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_limit(&self, limit: u32) {
        let mut queue = self.lock();
        queue.limit = limit;
        queue.let_in();
    }

    /// Waits until there is room, and puts the end that `make` makes.
    pub(super) fn poll_connect<T>(
        &self,
        cx: &Context<'_>,
        make: impl FnOnce() -> (T, End),
    ) -> Poll<Result<T, Closed>> {
        let mut queue = self.lock();
        if queue.closed {
            return Poll::Ready(Err(Closed));
        }
        if queue.waiting.len() > queue.limit as usize {
            queue.connectors.push(cx.waker().clone());
            return Poll::Pending;
        }
        let (client, server) = make();
        queue.waiting.push_back(server);
        if let Some(acceptor) = queue.acceptor.take() {
            acceptor.wake();
        }
        Poll::Ready(Ok(client))
    }

    /// The connection that has waited longest.
    pub(super) fn accept(&self) -> Option<End> {
        let mut queue = self.lock();
        let accepted = queue.waiting.pop_front();
        queue.let_in();
        accepted
    }

    pub(super) fn poll_acceptable(&self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.lock();
        if !queue.waiting.is_empty() {
            return Poll::Ready(());
        }
        queue.acceptor = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Refuses whoever comes from now on, and breaks off what was never accepted.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        let waiting = std::mem::take(&mut queue.waiting);
        queue.let_in();
        drop(queue);
        waiting.into_iter().for_each(End::reset);
    }
}

impl Queue {
    fn let_in(&mut self) {
        self.connectors.drain(..).for_each(Waker::wake);
    }
}
