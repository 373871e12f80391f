//! One direction of a connection inside the process: bytes on their way from a writer to a reader, with TCP's manners.

use std::collections::VecDeque;
use std::io;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

/// Bytes that wait in a flow before its writer has to.
const CAPACITY: usize = 512 * 1024;
/// The same while all flows of a process together hold [`PRESSURE`]: an idle reader must not cost the others their memory.
const CAPACITY_UNDER_PRESSURE: usize = 32 * 1024;
const PRESSURE: usize = 32 * 1024 * 1024;
/// Writes from this size on are kept as they are; smaller ones are put together.
const CHUNK: usize = 32 * 1024;

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

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Flow {
    /// Before those of `tail`.
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    waiting: usize,
    /// Bytes that wait in all flows of the process.
    all_waiting: Arc<AtomicUsize>,
    passed: Passed,
    /// The writer will write no more.
    ended: bool,
    /// The reader is gone.
    abandoned: bool,
    reset: Option<Reset>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The connection was broken off. The reader is told after the data, the writer at once, each once.
#[derive(Clone, Copy, Debug, Default)]
struct Reset {
    reader_knows: bool,
    writer_knows: bool,
}

impl Flow {
    pub(super) fn new(all_waiting: Arc<AtomicUsize>) -> Self {
        Self {
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            waiting: 0,
            all_waiting,
            passed: Passed::default(),
            ended: false,
            abandoned: false,
            reset: None,
            reader: None,
            writer: None,
        }
    }

    pub(super) const fn passed(&self) -> Passed {
        self.passed
    }

    /// Takes what is there, at most `want` bytes; none at all is the end.
    pub(super) fn read(&mut self, want: usize) -> io::Result<Bytes> {
        if self.waiting == 0 {
            return self.read_end();
        }
        let was_writable = self.permit() > 0;
        let read = match self.chunks.front_mut() {
            Some(chunk) if chunk.len() > want => chunk.split_to(want),
            Some(_) => self.chunks.pop_front().unwrap_or_default(),
            None => self.tail.split_to(want.min(self.tail.len())).freeze(),
        };
        self.waiting -= read.len();
        self.all_waiting.fetch_sub(read.len(), Ordering::Relaxed);
        if !was_writable && self.permit() > 0 {
            wake(&mut self.writer);
        }
        Ok(read)
    }

    fn read_end(&mut self) -> io::Result<Bytes> {
        match &mut self.reset {
            Some(reset) if !reset.reader_knows => {
                reset.reader_knows = true;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            None if !self.ended => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(Bytes::new()),
        }
    }

    /// Puts what fits.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.reset {
            Some(reset) if !reset.writer_knows && !self.ended => {
                reset.writer_knows = true;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            None if !self.ended => {}
            _ => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        if self.abandoned {
            // As in TCP, where the first bytes after the peer's close only bring its reset about.
            self.reset = Some(Reset {
                reader_knows: true,
                writer_knows: true,
            });
            return Ok(bytes.len());
        }
        let len = bytes.len().min(self.free());
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.put(&bytes[..len]);
        self.waiting += len;
        self.all_waiting.fetch_add(len, Ordering::Relaxed);
        self.passed.messages += 1;
        self.passed.bytes += len as u64;
        wake(&mut self.reader);
        Ok(len)
    }

    fn put(&mut self, bytes: &[u8]) {
        if bytes.len() >= CHUNK || self.tail.len() + bytes.len() > CHUNK {
            if !self.tail.is_empty() {
                self.chunks.push_back(self.tail.split().freeze());
            }
            if bytes.len() >= CHUNK {
                self.chunks.push_back(Bytes::copy_from_slice(bytes));
                return;
            }
        }
        self.tail.extend_from_slice(bytes);
    }

    fn capacity(&self) -> usize {
        if self.all_waiting.load(Ordering::Relaxed) < PRESSURE {
            CAPACITY
        } else {
            CAPACITY_UNDER_PRESSURE
        }
    }

    fn free(&self) -> usize {
        self.capacity().saturating_sub(self.waiting)
    }

    const fn is_over(&self) -> bool {
        self.ended || self.abandoned || self.reset.is_some()
    }

    /// Bytes that a write would take now. 0 until a quarter is free: a writer that took every free byte would go on in ever
    /// smaller pieces. A flow that is over takes any: the write finds out.
    pub(super) fn permit(&self) -> usize {
        let capacity = self.capacity();
        let free = capacity.saturating_sub(self.waiting);
        if self.is_over() {
            capacity
        } else if free >= capacity / 4 {
            free
        } else {
            0
        }
    }

    /// Whether a read would not block.
    pub(super) const fn is_readable(&self) -> bool {
        self.waiting > 0 || self.ended || self.reset.is_some()
    }

    pub(super) fn poll_readable(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.is_readable() {
            return Poll::Ready(());
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    pub(super) fn poll_writable(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.permit() > 0 {
            return Poll::Ready(());
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    /// The writer will write no more; the reader sees the end after the data.
    pub(super) fn end(&mut self) {
        self.ended = true;
        wake(&mut self.reader);
    }

    /// The reader is gone. Gives whether it left bytes unread.
    pub(super) fn abandon(&mut self) -> bool {
        self.abandoned = true;
        let unread = self.waiting > 0;
        self.forget_waiting();
        wake(&mut self.writer);
        unread
    }

    /// The connection is broken off.
    pub(super) fn break_off(&mut self) {
        self.reset.get_or_insert_default();
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    fn forget_waiting(&mut self) {
        self.all_waiting.fetch_sub(self.waiting, Ordering::Relaxed);
        self.waiting = 0;
        self.chunks = VecDeque::new();
        self.tail = BytesMut::new();
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.forget_waiting();
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
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

    fn flow() -> Flow {
        Flow::new(Arc::default())
    }

    fn kind<T: std::fmt::Debug>(done: io::Result<T>) -> io::ErrorKind {
        done.unwrap_err().kind()
    }

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_end_comes_after_the_data() {
        let mut flow = flow();
        assert_eq!(kind(flow.read(10)), io::ErrorKind::WouldBlock);
        flow.write(b"data").unwrap();
        flow.end();
        assert_eq!(flow.read(3).unwrap(), "dat");
        assert_eq!(flow.read(3).unwrap(), "a");
        assert_eq!(flow.read(3).unwrap(), "");
        assert_eq!(kind(flow.write(b"more")), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_reset_is_told_once_to_each_end_and_after_the_data() {
        let mut flow = flow();
        flow.write(b"data").unwrap();
        flow.break_off();
        assert_eq!(kind(flow.write(b"more")), io::ErrorKind::ConnectionReset);
        assert_eq!(kind(flow.write(b"more")), io::ErrorKind::BrokenPipe);
        assert_eq!(flow.read(10).unwrap(), "data");
        assert_eq!(kind(flow.read(10)), io::ErrorKind::ConnectionReset);
        assert_eq!(flow.read(10).unwrap(), "");
    }

    #[test]
    fn only_the_second_write_to_a_reader_that_is_gone_fails() {
        let mut flow = flow();
        assert!(!flow.abandon());
        assert!(flow.permit() > 0);
        assert_eq!(flow.write(b"data").unwrap(), 4);
        assert_eq!(kind(flow.write(b"data")), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_full_flow_waits_until_a_quarter_is_free() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        let mut flow = flow();
        assert_eq!(flow.write(&vec![7; CAPACITY + 1]).unwrap(), CAPACITY);
        assert_eq!(kind(flow.write(b"x")), io::ErrorKind::WouldBlock);
        assert!(flow.poll_writable(&cx).is_pending());
        flow.read(CAPACITY / 4 - 1).unwrap();
        assert_eq!((flow.permit(), woken.0.load(Ordering::Relaxed)), (0, 0));
        flow.read(1).unwrap();
        assert_eq!(
            (flow.permit(), woken.0.load(Ordering::Relaxed)),
            (CAPACITY / 4, 1)
        );
    }

    #[test]
    fn under_pressure_a_flow_takes_less() {
        let all = Arc::new(AtomicUsize::new(PRESSURE));
        let mut flow = Flow::new(Arc::clone(&all));
        assert_eq!(flow.write(&vec![7; CAPACITY]).unwrap(), CAPACITY_UNDER_PRESSURE);
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
            let pattern = |from: usize, len: usize| (from..from + len).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<_>>();
            for (write, want) in steps {
                let bytes = pattern(written, write);
                if write > 0 {
                    match flow.write(&bytes) {
                        Ok(len) => written += len,
                        Err(error) => prop_assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                    }
                }
                if flow.is_readable() {
                    let bytes = flow.read(want).unwrap();
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
