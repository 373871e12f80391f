//! One direction of a connection: its sender, the network, the reader, the kill switch and close, in every order.
//!
//! The sender decides with `redirect::decide` itself, under its own lock only: between two of the decision's questions anything
//! else may happen. The reader follows `tcp_bpf_recvmsg` and `tcp_recvmsg_locked` (net/ipv4/tcp_bpf.c, net/ipv4/tcp.c, Linux 6.18),
//! with non-blocking sockets: what waits in TCP's queue is looked for before the lock is taken, redirected bytes are taken first,
//! and what comes by TCP while the lock is held waits in the backlog.

use std::cell::Cell;

use cwasi_ebpf_common::maps::Config;
use cwasi_ebpf_common::reason::Reason;
use cwasi_ebpf_common::redirect::{Observe, State, Verdict, decide};
use stateright::{Model, Property};

use super::explore;

/// The end of the stream, after the bytes that are sent by TCP.
const FIN: u8 = u8::MAX;
/// Bytes that the sender sends, named by their place in the stream.
const TOTAL: u8 = 6;
/// The longest message, and the largest buffer that is read into, in bytes.
const LONGEST: u8 = 2;
/// Bytes that TCP takes from a sender before it blocks it.
const ROOM: usize = 2;
/// Redirected bytes above which the sender goes back to TCP.
const BUDGET: u8 = 1;

/// How the receiver waits for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// Level-triggered: it is told as long as there are any.
    Level,
    /// Edge-triggered, and takes a short read for the last one.
    Edge,
    /// Edge-triggered, and reads until EAGAIN: its launcher vouches for it.
    Vouched,
    /// Blocking, with `MSG_WAITALL`, although its launcher vouched for it.
    WaitsForAll,
}

/// A decision that looks at something else than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    NeverAsksWhetherTcpIsDrained,
    ForgetsWhatIsOnItsWay,
    HasNoBudget,
    TakesAnyReader,
    TakesAReaderThatNobodySaw,
}

/// The case that is explored.
#[derive(Clone, Copy, Debug)]
struct Case {
    reader: Reader,
    /// Whether the socket is watched from the beginning, and not only some time after bytes may have come.
    polled: bool,
    /// How often the kill switch is used.
    switches: u8,
    /// Whether the receiver may close with bytes unread.
    closes: bool,
    mistake: Option<Mistake>,
}

/// What the decision asks of what others change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Question {
    Peer,
    Queued,
    Drained,
    Reader,
}

/// The receiver as its wait queue shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Waiting {
    Nobody,
    Level,
    Edge,
    Vouched,
}

/// What the decision was told so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Answers {
    peer: Option<bool>,
    queued: Option<u8>,
    drained: Option<bool>,
    reader: Option<Waiting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sender {
    Idle,
    /// The program runs on a message, under the sender's lock.
    Deciding {
        len: u8,
        enabled: bool,
        answers: Answers,
    },
    /// The message goes into the receiver's queue as soon as its lock is free (`bpf_tcp_ingress`).
    Redirecting {
        len: u8,
    },
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reading {
    /// It waits, or does something else.
    Not,
    /// It has called `recv`, and has seen without the lock whether to go to TCP's queue.
    Called { len: u8, tcp: bool },
    /// It takes bytes out of TCP's queue, with the lock held.
    Copying { len: u8, got: u8 },
    /// It sleeps in the kernel until TCP has more (`sk_wait_data`), without the lock.
    Sleeping { len: u8, got: u8 },
    /// It is done: end of file, or its socket is closed.
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    enabled: bool,
    switches: u8,
    sender: Sender,
    redirects: bool,
    sent: u8,
    /// Bytes given to TCP, and consumed from it: `write_seq` and `copied_seq`.
    written: u8,
    copied: u8,
    in_flight: Vec<u8>,
    backlog: Vec<u8>,
    received: Vec<u8>,
    redirected: Vec<u8>,
    polled: bool,
    /// An edge that the reader has not been told of.
    woken: bool,
    reading: Reading,
    /// Bytes read in order.
    read: u8,
    eof: bool,
    closed: bool,
    out_of_order: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Send { len: u8 },
    Answer(Question),
    Decided,
    Redirect,
    Shutdown,
    Deliver,
    Watch,
    Recv { len: u8 },
    Lock,
    Copy,
    Switch,
    Close,
}

/// Answers what is known, and notes the first question that is not.
struct Asked {
    answers: Answers,
    open: Cell<Option<Question>>,
}

impl Asked {
    fn answer<T>(&self, question: Question, answer: Option<T>, meanwhile: T) -> T {
        answer.unwrap_or_else(|| {
            self.open.set(self.open.get().or(Some(question)));
            meanwhile
        })
    }
}

impl Observe for Asked {
    fn sending(&self) -> bool {
        true
    }

    fn peer(&self) -> Result<(), Reason> {
        match self.answer(Question::Peer, self.answers.peer, true) {
            true => Ok(()),
            false => Err(Reason::Closing),
        }
    }

    fn upper_layer(&self) -> bool {
        false
    }

    fn queued(&self) -> Option<u32> {
        Some(self.answer(Question::Queued, self.answers.queued, 0).into())
    }

    /// That it may become scarce at any time, and free again, changes no more than the kill switch does.
    fn scarce(&self, _queued: u32) -> bool {
        false
    }

    fn drained(&self) -> bool {
        self.answer(Question::Drained, self.answers.drained, true)
    }

    fn reader(&self) -> Verdict {
        match self.answer(Question::Reader, self.answers.reader, Waiting::Level) {
            Waiting::Nobody => Err(Reason::Unpolled),
            Waiting::Edge => Err(Reason::EdgeTriggered),
            Waiting::Level | Waiting::Vouched => Ok(()),
        }
    }
}

impl World {
    /// What is asked next, or the decision.
    fn decision(&self, enabled: bool, answers: Answers) -> Result<Verdict, Question> {
        let config = Config {
            enabled: u32::from(enabled),
            budget: u32::from(BUDGET),
            ..Config::default()
        };
        let state = if self.redirects {
            State::Redirect
        } else {
            State::Tcp
        };
        let asked = Asked {
            answers,
            open: Cell::new(None),
        };
        let verdict = decide(state, &config, false, &asked);
        asked.open.get().map_or(Ok(verdict), Err)
    }

    fn locked(&self) -> bool {
        matches!(self.reading, Reading::Copying { .. })
    }

    fn readable(&self) -> bool {
        !self.redirected.is_empty() || !self.received.is_empty()
    }

    /// Whether the reader would call `recv` by itself.
    fn told(&self, reader: Reader) -> bool {
        match reader {
            // Before it watches the socket it may try at any time.
            _ if !self.polled => self.readable(),
            Reader::Level | Reader::WaitsForAll => self.readable(),
            Reader::Edge | Reader::Vouched => self.woken,
        }
    }

    fn next_bytes(&self, len: u8) -> Vec<u8> {
        (self.sent..self.sent + len).collect()
    }

    fn by_tcp(&mut self, len: u8) {
        let room = ROOM.saturating_sub(self.in_flight.len() + self.backlog.len() + self.received.len());
        let taken = len.min(u8::try_from(room).unwrap());
        if !self.closed {
            self.in_flight.extend(self.next_bytes(taken));
        }
        let taken = if self.closed { len } else { taken };
        self.sent += taken;
        self.written += taken;
    }

    fn take(&mut self, byte: u8) {
        if byte == self.read {
            self.read += 1;
        } else {
            self.out_of_order = true;
        }
    }

    /// What came while the reader had the lock is now in its queue.
    fn unlock(&mut self) {
        if !self.backlog.is_empty() {
            self.received.append(&mut self.backlog);
            self.woken = true;
        }
    }

    /// The call returns with `got` bytes of the `len` that it had room for: what does the reader do now?
    fn returned(&mut self, reader: Reader, len: u8, got: u8) {
        self.unlock();
        let again = match reader {
            Reader::Level | Reader::WaitsForAll => false,
            Reader::Edge => got == len,
            Reader::Vouched => got > 0,
        };
        self.reading = Reading::Not;
        if again && self.polled {
            self.call(len);
        }
    }

    fn call(&mut self, len: u8) {
        let tcp = !self.received.is_empty() && self.redirected.is_empty();
        self.reading = Reading::Called { len, tcp };
    }

    fn over(&mut self) {
        self.reading = Reading::Over;
        self.backlog.clear();
    }
}

impl Case {
    fn ask(&self, world: &World, question: Question, answers: &mut Answers) {
        let is = |mistake| self.mistake == Some(mistake);
        match question {
            Question::Peer => answers.peer = Some(!world.closed),
            Question::Queued => {
                let queued = u8::try_from(world.redirected.len()).unwrap();
                answers.queued = Some(if is(Mistake::HasNoBudget) { 0 } else { queued });
            }
            Question::Drained => {
                let drained = world.written == world.copied;
                let seems = is(Mistake::NeverAsksWhetherTcpIsDrained)
                    || is(Mistake::ForgetsWhatIsOnItsWay) && world.received.is_empty();
                answers.drained = Some(drained || seems);
            }
            Question::Reader => {
                answers.reader = Some(match self.reader {
                    Reader::Vouched | Reader::WaitsForAll => Waiting::Vouched,
                    _ if is(Mistake::TakesAnyReader) => Waiting::Level,
                    _ if !world.polled && is(Mistake::TakesAReaderThatNobodySaw) => Waiting::Level,
                    _ if !world.polled => Waiting::Nobody,
                    Reader::Level => Waiting::Level,
                    Reader::Edge => Waiting::Edge,
                });
            }
        }
    }
}

impl Model for Case {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            enabled: true,
            switches: self.switches,
            sender: Sender::Idle,
            redirects: false,
            sent: 0,
            written: 0,
            copied: 0,
            in_flight: Vec::new(),
            backlog: Vec::new(),
            received: Vec::new(),
            redirected: Vec::new(),
            polled: self.polled,
            woken: false,
            reading: Reading::Not,
            read: 0,
            eof: false,
            closed: false,
            out_of_order: false,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        match world.sender {
            Sender::Idle if world.sent == TOTAL => steps.push(Step::Shutdown),
            Sender::Idle => {
                let most = LONGEST.min(TOTAL - world.sent);
                steps.extend((1..=most).map(|len| Step::Send { len }));
            }
            Sender::Deciding { enabled, answers, .. } => match world.decision(enabled, answers) {
                Ok(_) => steps.push(Step::Decided),
                Err(question) => steps.push(Step::Answer(question)),
            },
            Sender::Redirecting { .. } if !world.locked() => steps.push(Step::Redirect),
            Sender::Redirecting { .. } | Sender::Closed => {}
        }
        if !world.in_flight.is_empty() {
            steps.push(Step::Deliver);
        }
        match world.reading {
            Reading::Not if world.told(self.reader) => {
                steps.extend((1..=LONGEST).map(|len| Step::Recv { len }));
            }
            Reading::Sleeping { .. } if !world.received.is_empty() => steps.push(Step::Lock),
            Reading::Not | Reading::Sleeping { .. } | Reading::Over => {}
            Reading::Called { .. } => steps.push(Step::Lock),
            Reading::Copying { .. } => steps.push(Step::Copy),
        }
        if !world.polled && world.reading == Reading::Not {
            steps.push(Step::Watch);
        }
        if world.switches > 0 {
            steps.push(Step::Switch);
        }
        if self.closes && world.reading == Reading::Not {
            steps.push(Step::Close);
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        match (step, last.sender, last.reading) {
            (Step::Send { len }, ..) => {
                world.sender = Sender::Deciding {
                    len,
                    enabled: world.enabled,
                    answers: Answers::default(),
                };
            }
            (
                Step::Answer(question),
                Sender::Deciding {
                    len,
                    enabled,
                    mut answers,
                },
                _,
            ) => {
                self.ask(last, question, &mut answers);
                world.sender = Sender::Deciding {
                    len,
                    enabled,
                    answers,
                };
            }
            (
                Step::Decided,
                Sender::Deciding {
                    len,
                    enabled,
                    answers,
                },
                _,
            ) => {
                let verdict = world.decision(enabled, answers).expect("every answer is there");
                // A socket that closes is no longer in the sockhash: the helper says so, and the message goes by TCP.
                world.redirects = verdict.is_ok() && !world.closed;
                world.sender = if world.redirects {
                    Sender::Redirecting { len }
                } else {
                    world.by_tcp(len);
                    Sender::Idle
                };
            }
            (Step::Redirect, Sender::Redirecting { len }, _) => {
                if !world.closed {
                    world.redirected.extend(last.next_bytes(len));
                    world.woken = true;
                }
                world.sent += len;
                world.sender = Sender::Idle;
            }
            (Step::Shutdown, ..) => {
                if !world.closed {
                    world.in_flight.push(FIN);
                }
                world.sender = Sender::Closed;
            }
            (Step::Deliver, ..) => {
                let arrived = world.in_flight.remove(0);
                if world.locked() {
                    world.backlog.push(arrived);
                } else {
                    world.received.push(arrived);
                    world.woken = true;
                }
            }
            (Step::Watch, ..) => {
                world.polled = true;
                world.woken = world.readable();
            }
            (Step::Recv { len }, ..) => {
                world.woken = false;
                world.call(len);
            }
            (Step::Lock, _, Reading::Called { len, tcp }) => {
                let shut_down = world.received.contains(&FIN);
                if tcp || (world.redirected.is_empty() && shut_down) {
                    world.reading = Reading::Copying { len, got: 0 };
                } else {
                    let got = usize::from(len).min(world.redirected.len());
                    for byte in world.redirected.drain(..got).collect::<Vec<_>>() {
                        world.take(byte);
                    }
                    world.returned(self.reader, len, u8::try_from(got).unwrap());
                }
            }
            (Step::Lock, _, Reading::Sleeping { len, got }) => world.reading = Reading::Copying { len, got },
            (Step::Copy, _, Reading::Copying { len, got }) => match world.received.first() {
                Some(&FIN) if got == 0 => {
                    world.eof = true;
                    world.over();
                }
                Some(&byte) if byte != FIN && got < len => {
                    world.received.remove(0);
                    world.take(byte);
                    world.copied += 1;
                    world.reading = Reading::Copying { len, got: got + 1 };
                }
                None if got < len && self.reader == Reader::WaitsForAll => {
                    world.reading = Reading::Sleeping { len, got };
                    world.unlock();
                }
                _ => world.returned(self.reader, len, got),
            },
            (Step::Switch, ..) => {
                world.enabled = !world.enabled;
                world.switches -= 1;
            }
            (Step::Close, ..) => {
                world.closed = true;
                for queue in [&mut world.in_flight, &mut world.received, &mut world.redirected] {
                    queue.clear();
                }
                world.over();
            }
            (step, ..) => unreachable!("{step:?} is no step of {last:?}"),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("in order", |_, world: &World| !world.out_of_order),
            Property::always("the end comes last", |_, world: &World| {
                !world.eof || world.read == TOTAL
            }),
            Property::always("bounded", |_, world: &World| {
                world.redirected.len() <= usize::from(BUDGET + LONGEST)
            }),
            Property::always("nobody sleeps beside bytes", |case: &Case, world: &World| {
                let asleep = world.polled && world.reading == Reading::Not && !world.told(case.reader);
                // Of the end it is told apart (EPOLLRDHUP).
                let unread = !world.redirected.is_empty() || world.received.iter().any(|byte| *byte != FIN);
                !(asleep && unread)
            }),
            // The cases are worth something only if these happen in them.
            Property::sometimes("redirected after TCP", |_, world: &World| {
                world.copied > 0 && !world.redirected.is_empty()
            }),
            Property::sometimes("both queues are in use", |_, world: &World| {
                !world.received.is_empty() && !world.redirected.is_empty()
            }),
            Property::sometimes("all is read", |_, world: &World| world.eof),
        ]
    }
}

const LEVEL: Case = Case {
    reader: Reader::Level,
    polled: true,
    switches: 2,
    closes: false,
    mistake: None,
};

#[test]
fn readers_that_may_be_redirected_to_miss_nothing() {
    for reader in [Reader::Level, Reader::Vouched] {
        for polled in [true, false] {
            let case = Case {
                reader,
                polled,
                ..LEVEL
            };
            assert_eq!(explore(case), [""; 0], "{case:?}");
        }
    }
}

#[test]
fn nothing_is_redirected_to_a_reader_that_trusts_short_reads() {
    for polled in [true, false] {
        let case = Case {
            reader: Reader::Edge,
            polled,
            ..LEVEL
        };
        let never = ["redirected after TCP", "both queues are in use"];
        assert_eq!(explore(case), never, "{case:?}");
    }
}

#[test]
fn a_receiver_that_closes_harms_nobody() {
    let case = Case {
        closes: true,
        switches: 1,
        ..LEVEL
    };
    assert_eq!(explore(case), [""; 0]);
}

/// Why `sockets: all` is a promise that nobody waits for more than there is: it would take what comes by TCP later first.
#[test]
fn whoever_waits_for_all_must_not_be_vouched_for() {
    let case = Case {
        reader: Reader::WaitsForAll,
        ..LEVEL
    };
    assert!(explore(case).contains(&"in order"));
}

/// The model is worth something only if it finds the mistakes that the decision avoids.
#[test]
fn mistakes_are_found() {
    let edge = Case {
        reader: Reader::Edge,
        ..LEVEL
    };
    let late = Case {
        polled: false,
        ..edge
    };
    for (case, mistake, broken) in [
        (LEVEL, Mistake::NeverAsksWhetherTcpIsDrained, "in order"),
        (LEVEL, Mistake::ForgetsWhatIsOnItsWay, "in order"),
        (LEVEL, Mistake::HasNoBudget, "bounded"),
        (edge, Mistake::TakesAnyReader, "nobody sleeps beside bytes"),
        (
            late,
            Mistake::TakesAReaderThatNobodySaw,
            "nobody sleeps beside bytes",
        ),
    ] {
        let case = Case {
            mistake: Some(mistake),
            ..case
        };
        let found = explore(case);
        assert!(found.contains(&broken), "{case:?}: {found:?}");
    }
}
