//! Connections inside the process that a listener has not accepted yet.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::pipe::End;

/// Server ends of connections, in the order in which they were made.
#[derive(Debug)]
pub(super) struct Backlog(Arc<Mutex<Queue>>);

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<End>,
    /// As Linux counts: one more than this many may wait.
    limit: u32,
    closed: bool,
    acceptor: Option<Waker>,
    /// Those for whom there was no room yet, in the order in which they came.
    outside: VecDeque<Outside>,
    next: u64,
}

struct Outside {
    id: u64,
    make: Make,
    entry: Arc<Mutex<Entry>>,
}

/// Makes the two ends of a connection: the client's and the server's.
type Make = Box<dyn FnOnce() -> (End, End) + Send>;

/// How it went for one who came.
#[derive(Debug, Default)]
struct Entry {
    answer: Option<Result<End, Closed>>,
    waker: Option<Waker>,
}

/// The listener is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// One who came and may have to wait for room. Leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Entering {
    id: u64,
    queue: Arc<Mutex<Queue>>,
    entry: Arc<Mutex<Entry>>,
}

impl Backlog {
    pub(super) fn new(limit: u32) -> Self {
        Self(Arc::new(Mutex::new(Queue {
            waiting: VecDeque::new(),
            limit,
            closed: false,
            acceptor: None,
            outside: VecDeque::new(),
            next: 0,
        })))
    }

    pub(super) fn set_limit(&self, limit: u32) {
        let mut queue = lock(&self.0);
        queue.limit = limit;
        queue.let_in();
    }

    /// Comes for a connection, which `make` makes as soon as there is room: also while nobody polls for it, as the kernel
    /// repeats a SYN.
    pub(super) fn enter(&self, make: impl FnOnce() -> (End, End) + Send + 'static) -> Entering {
        let entry = Arc::default();
        let mut queue = lock(&self.0);
        let id = queue.next;
        queue.next += 1;
        let outside = Outside {
            id,
            make: Box::new(make),
            entry: Arc::clone(&entry),
        };
        if queue.closed {
            outside.answer(Err(Closed));
        } else {
            queue.outside.push_back(outside);
            queue.let_in();
        }
        drop(queue);
        Entering {
            id,
            queue: Arc::clone(&self.0),
            entry,
        }
    }

    /// The connection that has waited longest.
    pub(super) fn accept(&self) -> Option<End> {
        let mut queue = lock(&self.0);
        let accepted = queue.waiting.pop_front();
        queue.let_in();
        accepted
    }

    pub(super) fn poll_acceptable(&self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = lock(&self.0);
        if !queue.waiting.is_empty() {
            return Poll::Ready(());
        }
        queue.acceptor = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Refuses whoever waits outside or comes from now on, and breaks off what was never accepted.
    pub(super) fn close(&self) {
        let mut queue = lock(&self.0);
        queue.closed = true;
        let waiting = std::mem::take(&mut queue.waiting);
        let outside = std::mem::take(&mut queue.outside);
        drop(queue);
        outside
            .into_iter()
            .for_each(|outside| outside.answer(Err(Closed)));
        waiting.into_iter().for_each(End::reset);
    }
}

impl Queue {
    fn let_in(&mut self) {
        while self.waiting.len() <= self.limit as usize {
            let Some(Outside { make, entry, .. }) = self.outside.pop_front() else {
                return;
            };
            let (client, server) = make();
            self.waiting.push_back(server);
            answer(&entry, Ok(client));
            if let Some(acceptor) = self.acceptor.take() {
                acceptor.wake();
            }
        }
    }
}

impl Outside {
    fn answer(&self, with: Result<End, Closed>) {
        answer(&self.entry, with);
    }
}

impl Entering {
    /// The client's end.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<End, Closed>> {
        let mut entry = lock(&self.entry);
        if let Some(answer) = entry.answer.take() {
            return Poll::Ready(answer);
        }
        entry.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        let left = {
            let mut queue = lock(&self.queue);
            let at = queue.outside.iter().position(|outside| outside.id == self.id);
            at.and_then(|at| queue.outside.remove(at))
        };
        // Not while the queue is locked: with it may go the last handle of what it leads to.
        drop(left);
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Outside")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn answer(entry: &Mutex<Entry>, with: Result<End, Closed>) {
    let mut entry = lock(entry);
    entry.answer = Some(with);
    if let Some(waker) = entry.waker.take() {
        waker.wake();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
