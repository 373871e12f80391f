//! Bytes on their way from one end of a connection inside the process to the other.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};

/// Bytes that wait in a flow before its writer has to.
const CAPACITY: usize = 512 * 1024;
/// The same while all flows of a process together hold [`PRESSURE`]: an idle reader must not cost the others their memory.
const CAPACITY_UNDER_PRESSURE: usize = 32 * 1024;
const PRESSURE: usize = 32 * 1024 * 1024;
/// Writes from this size on are kept as they are; smaller ones are put together.
const CHUNK: usize = 32 * 1024;
/// Larger ones in pieces of this size: for more, malloc would map fresh memory each time.
const MAX_CHUNK: usize = 64 * 1024;

/// What passed through a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// Writes.
    pub(super) messages: u64,
    /// Bytes.
    pub(super) bytes: u64,
}

impl AddAssign for Passed {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

/// The bytes of one direction that are written and not yet read.
#[derive(Debug)]
pub(super) struct Flow {
    /// Before those of `tail`.
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    waiting: usize,
    /// Bytes that wait in all flows of the process.
    all_waiting: Arc<AtomicUsize>,
    passed: Passed,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Flow {
    pub(super) fn new(all_waiting: Arc<AtomicUsize>) -> Self {
        Self {
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            waiting: 0,
            all_waiting,
            passed: Passed {
                messages: 0,
                bytes: 0,
            },
            reader: None,
            writer: None,
        }
    }

    pub(super) const fn passed(&self) -> Passed {
        self.passed
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Takes what waits, at most `want` bytes, out of one piece.
    pub(super) fn read(&mut self, want: usize) -> Bytes {
        let was_full = self.permit() == 0;
        let read = match self.chunks.front_mut() {
            Some(chunk) if chunk.len() > want => chunk.split_to(want),
            Some(_) => self.chunks.pop_front().unwrap_or_default(),
            None => self.tail.split_to(want.min(self.tail.len())).freeze(),
        };
        self.waiting -= read.len();
        self.all_waiting.fetch_sub(read.len(), Ordering::Relaxed);
        if was_full && self.permit() > 0 {
            self.wake_writer();
        }
        read
    }

    /// Puts what fits, and gives how much that was.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.capacity().saturating_sub(self.waiting));
        if len == 0 {
            return 0;
        }
        self.put(&bytes[..len]);
        self.waiting += len;
        self.all_waiting.fetch_add(len, Ordering::Relaxed);
        self.passed.messages += 1;
        self.passed.bytes += len as u64;
        self.wake_reader();
        len
    }

    fn put(&mut self, bytes: &[u8]) {
        if bytes.len() >= CHUNK || self.tail.len() + bytes.len() > CHUNK {
            if !self.tail.is_empty() {
                self.chunks.push_back(self.tail.split().freeze());
            }
            if bytes.len() >= CHUNK {
                self.chunks
                    .extend(bytes.chunks(MAX_CHUNK).map(Bytes::copy_from_slice));
                return;
            }
        }
        self.tail.extend_from_slice(bytes);
    }

    /// Drops what waits; nobody will read it.
    pub(super) fn discard(&mut self) {
        self.all_waiting.fetch_sub(self.waiting, Ordering::Relaxed);
        self.waiting = 0;
        self.chunks = VecDeque::new();
        self.tail = BytesMut::new();
    }

    fn capacity(&self) -> usize {
        if self.all_waiting.load(Ordering::Relaxed) < PRESSURE {
            CAPACITY
        } else {
            CAPACITY_UNDER_PRESSURE
        }
    }

    /// Bytes that are worth a write now: none until a quarter is free. A writer that took every free byte would go on in ever
    /// smaller pieces.
    pub(super) fn permit(&self) -> usize {
        let capacity = self.capacity();
        let free = capacity.saturating_sub(self.waiting);
        if free >= capacity / 4 { free } else { 0 }
    }

    pub(super) fn on_readable(&mut self, cx: &Context<'_>) {
        remember(&mut self.reader, cx);
    }

    pub(super) fn on_writable(&mut self, cx: &Context<'_>) {
        remember(&mut self.writer, cx);
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.discard();
    }
}

fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        slot => *slot = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read_all(flow: &mut Flow, mut want: usize) {
        while want > 0 {
            want -= flow.read(want).len();
        }
    }

    #[test]
    fn a_full_flow_waits_until_a_quarter_is_free() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut flow = Flow::new(Arc::default());
        assert_eq!(flow.write(&vec![7; CAPACITY + 1]), CAPACITY);
        assert_eq!(flow.write(b"x"), 0);
        flow.on_writable(&Context::from_waker(&waker));
        read_all(&mut flow, CAPACITY / 4 - 1);
        assert_eq!((flow.permit(), woken.0.load(Ordering::Relaxed)), (0, 0));
        flow.read(1);
        assert_eq!(
            (flow.permit(), woken.0.load(Ordering::Relaxed)),
            (CAPACITY / 4, 1)
        );
    }

    #[test]
    fn under_pressure_a_flow_takes_less() {
        let all = Arc::new(AtomicUsize::new(PRESSURE));
        let mut flow = Flow::new(Arc::clone(&all));
        assert_eq!(flow.write(&vec![7; CAPACITY]), CAPACITY_UNDER_PRESSURE);
        assert_eq!(all.load(Ordering::Relaxed), PRESSURE + CAPACITY_UNDER_PRESSURE);
        drop(flow);
        assert_eq!(all.load(Ordering::Relaxed), PRESSURE);
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(steps in prop::collection::vec((0usize..100_000, 1usize..100_000), 0..60)) {
            let all = Arc::new(AtomicUsize::new(0));
            let mut flow = Flow::new(Arc::clone(&all));
            let (mut written, mut read) = (0usize, 0usize);
            // A prime period: pieces that change places do not go unnoticed.
            let pattern = |from: usize, len: usize| {
                (from..from + len).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<_>>()
            };
            for (write, want) in steps {
                written += flow.write(&pattern(written, write));
                if !flow.is_empty() {
                    let bytes = flow.read(want);
                    prop_assert!(!bytes.is_empty() && bytes.len() <= want);
                    prop_assert_eq!(&bytes[..], &pattern(read, bytes.len())[..]);
                    read += bytes.len();
                }
                prop_assert_eq!(all.load(Ordering::Relaxed), written - read);
                prop_assert!(written - read <= CAPACITY);
            }
            prop_assert_eq!(flow.passed().bytes, written as u64);
        }
    }
}
