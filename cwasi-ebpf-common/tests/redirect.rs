//! The state machine of one direction against a model of what the kernel keeps for it: whatever the interleaving, the reader
//! sees the bytes in the order in which they were sent, all of them, and what it leaves unread stays bounded.

use std::collections::VecDeque;

use cwasi_ebpf_common::maps::Config;
use cwasi_ebpf_common::reason::Reason;
use cwasi_ebpf_common::redirect::{Observe, State, Streak, Verdict, decide};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// What TCP takes from a sender before it blocks it.
const TCP_BUFFERS: usize = 4000;

/// One direction of a connection. Bytes are named by their place in the stream.
struct Direction {
    config: Config,
    state: State,
    /// Sent by TCP, not yet in the receiver's queue.
    in_flight: VecDeque<u64>,
    /// The receiver's TCP receive queue.
    received: VecDeque<u64>,
    /// The receiver's redirect queue.
    redirected: VecDeque<u64>,
    write_seq: u32,
    copied_seq: u32,
    /// Bytes redirected since the redirect queue was last seen empty.
    since_empty: u32,
    measure: Measure,
    reader: Reader,
    /// Whether the reader is seen to wait.
    polled: bool,
    /// Whether something came since the reader was last woken.
    woken: bool,
    peer: Result<(), Reason>,
    sending: bool,
    upper_layer: bool,
    scarce: bool,
    sent: u64,
    read: u64,
    transitions: u32,
}

/// The measures of `cwasi_ebpf_common::offsets::QueueMeasure`, as the model has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    MessageTotal,
    ReceiveMemory,
    SinceEmpty,
    Broken,
}

/// How the receiver waits for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// It is told as long as there are any.
    Level,
    /// It is told when more come, and takes a short read for the last one.
    Edge,
}

impl Observe for Direction {
    fn sending(&self) -> bool {
        self.sending
    }

    fn peer(&self) -> Result<(), Reason> {
        self.peer
    }

    fn upper_layer(&self) -> bool {
        self.upper_layer
    }

    fn queued(&self) -> Option<u32> {
        let bytes = |queue: &VecDeque<u64>| u32::try_from(queue.len()).unwrap();
        match self.measure {
            Measure::MessageTotal => Some(bytes(&self.redirected)),
            // Memory is charged by pages, and for TCP's bytes too.
            Measure::ReceiveMemory => Some(bytes(&self.redirected) * 2 + bytes(&self.received)),
            Measure::SinceEmpty if self.redirected.is_empty() => Some(0),
            Measure::SinceEmpty => Some(self.since_empty),
            Measure::Broken => None,
        }
    }

    fn scarce(&self, _queued: u32) -> bool {
        self.scarce
    }

    fn drained(&self) -> bool {
        self.write_seq == self.copied_seq
    }

    fn reader(&self) -> Verdict {
        match self.reader {
            _ if !self.polled => Err(Reason::Unpolled),
            Reader::Level => Ok(()),
            Reader::Edge => Err(Reason::EdgeTriggered),
        }
    }
}

impl Direction {
    fn new(budget: u32, first_seq: u32, measure: Measure) -> Self {
        Self {
            config: Config {
                budget,
                ..Config::default()
            },
            state: State::Tcp,
            in_flight: VecDeque::new(),
            received: VecDeque::new(),
            redirected: VecDeque::new(),
            write_seq: first_seq,
            copied_seq: first_seq,
            since_empty: 0,
            measure,
            reader: Reader::Level,
            polled: true,
            woken: false,
            peer: Ok(()),
            sending: true,
            upper_layer: false,
            scarce: false,
            sent: 0,
            read: 0,
            transitions: 0,
        }
    }

    /// Sends a message as the sk_msg program does, with the decision given. TCP takes what it has room for.
    fn send(&mut self, len: usize, verdict: Verdict) {
        let next = match verdict {
            Ok(()) => {
                self.since_empty = self
                    .queued()
                    .filter(|_| !self.redirected.is_empty())
                    .map_or(0, |_| self.since_empty)
                    + u32::try_from(len).unwrap();
                self.redirected.extend(self.sent..self.sent + len as u64);
                self.sent += len as u64;
                self.woken = true;
                State::Redirect
            }
            Err(_) => {
                let room = TCP_BUFFERS.saturating_sub(self.in_flight.len() + self.received.len());
                // A sender that was shut down is refused.
                let taken = if self.sending { len.min(room) } else { 0 };
                self.in_flight.extend(self.sent..self.sent + taken as u64);
                self.sent += taken as u64;
                self.write_seq = self.write_seq.wrapping_add(u32::try_from(taken).unwrap());
                State::Tcp
            }
        };
        self.transitions += u32::from(next != self.state);
        self.state = next;
    }

    /// Moves bytes through the network.
    fn deliver(&mut self, len: usize) {
        let arrived = self.in_flight.drain(..len.min(self.in_flight.len()));
        self.woken |= arrived.len() > 0;
        self.received.extend(arrived);
    }

    /// Reads as the kernel does: redirected bytes first, whatever waits in the TCP queue. Returns the bytes.
    fn read(&mut self, len: usize) -> Vec<u64> {
        let from_redirect = len.min(self.redirected.len());
        let mut bytes: Vec<u64> = self.redirected.drain(..from_redirect).collect();
        let from_tcp = (len - from_redirect).min(self.received.len());
        bytes.extend(self.received.drain(..from_tcp));
        self.copied_seq = self.copied_seq.wrapping_add(u32::try_from(from_tcp).unwrap());
        bytes
    }

    /// Reads as the receiver does, with a buffer of this length, and tells whether the bytes are those that come next.
    fn read_in_order(&mut self, len: usize) -> bool {
        let bytes = match self.reader {
            Reader::Level => self.read(len),
            Reader::Edge => self.read_when_woken(len),
        };
        let expected = self.read..self.read + bytes.len() as u64;
        self.read = expected.end;
        bytes.into_iter().eq(expected)
    }

    /// Reads until a read comes short. One read returns redirected bytes alone while there are any.
    fn read_when_woken(&mut self, len: usize) -> Vec<u64> {
        let mut bytes = Vec::new();
        while std::mem::take(&mut self.woken) {
            let part = match self.redirected.len() {
                0 => self.read(len),
                redirected => self.read(len.min(redirected)),
            };
            self.woken = part.len() == len;
            bytes.extend(part);
        }
        bytes
    }

    /// Whether the reader waits for an edge that came before.
    fn sleeps_beside_bytes(&self) -> bool {
        let unread = !self.redirected.is_empty() || !self.received.is_empty();
        self.reader == Reader::Edge && !self.woken && unread
    }

    /// Whether everything that was sent comes out in order.
    fn drains_in_order(&mut self) -> bool {
        self.deliver(usize::MAX);
        self.read_in_order(usize::MAX) && self.read == self.sent
    }
}

/// One thing that happens to a direction.
#[derive(Clone, Debug)]
enum Step {
    Send { len: usize, small_stream: bool },
    Deliver(usize),
    Read(usize),
    Enabled(bool),
    Budget(u32),
    Measure(Measure),
    Polled(bool),
    Scarce(bool),
    PeerGone,
    PeerFound,
    UpperLayer,
    Shutdown,
}

fn step() -> impl Strategy<Value = Step> {
    let small_stream = prop::bool::weighted(0.1);
    prop_oneof![
        24 => (1_usize..600, small_stream).prop_map(|(len, small_stream)| Step::Send { len, small_stream }),
        8 => (1_usize..1500).prop_map(Step::Deliver),
        4 => Just(Step::Deliver(usize::MAX)),
        20 => (1_usize..1500).prop_map(Step::Read),
        4 => Just(Step::Read(usize::MAX)),
        3 => prop::bool::weighted(0.8).prop_map(Step::Enabled),
        1 => (0_u32..1000).prop_map(Step::Budget),
        1 => measure().prop_map(Step::Measure),
        2 => prop::bool::weighted(0.8).prop_map(Step::Polled),
        4 => prop::bool::weighted(0.1).prop_map(Step::Scarce),
        1 => Just(Step::PeerGone),
        6 => Just(Step::PeerFound),
    ]
}

/// What happens at most once: nothing undoes it.
fn last_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::UpperLayer),
        Just(Step::Shutdown),
        Just(Step::PeerGone),
        Just(Step::Enabled(false))
    ]
}

fn measure() -> impl Strategy<Value = Measure> {
    prop_oneof![
        4 => Just(Measure::MessageTotal),
        2 => Just(Measure::ReceiveMemory),
        2 => Just(Measure::SinceEmpty),
        1 => Just(Measure::Broken),
    ]
}

/// What must hold whenever a message is redirected.
fn may_redirect(direction: &Direction, small_stream: bool) -> bool {
    direction.config.enabled != 0
        && direction.sending
        && direction.peer.is_ok()
        && !direction.upper_layer
        && !direction.scarce
        && !small_stream
        && direction.measure != Measure::Broken
}

/// Plays the steps. `choose` decides on a message.
fn play(
    mut direction: Direction,
    steps: &[Step],
    choose: impl Fn(&Direction, bool) -> Verdict,
) -> Result<u32, String> {
    for (number, step) in steps.iter().enumerate() {
        match step.clone() {
            Step::Send { len, small_stream } => {
                let verdict = choose(&direction, small_stream);
                if verdict.is_ok() && !may_redirect(&direction, small_stream) {
                    return Err(format!("step {number}: redirected in spite of all"));
                }
                direction.send(len, verdict);
                let most = direction.config.budget as usize + len;
                if verdict.is_ok() && direction.redirected.len() > most {
                    return Err(format!(
                        "step {number}: {} bytes queued, at most {most}",
                        direction.redirected.len()
                    ));
                }
            }
            Step::Deliver(len) => direction.deliver(len),
            Step::Read(len) => {
                if !direction.read_in_order(len) {
                    return Err(format!("step {number}: read out of order"));
                }
                if direction.sleeps_beside_bytes() {
                    return Err(format!("step {number}: the reader sleeps, and there are bytes"));
                }
            }
            Step::Enabled(enabled) => direction.config.enabled = u32::from(enabled),
            Step::Budget(budget) => direction.config.budget = budget,
            Step::Measure(measure) => direction.measure = measure,
            Step::Polled(polled) => direction.polled = polled,
            Step::Scarce(scarce) => direction.scarce = scarce,
            Step::PeerGone => direction.peer = Err(Reason::Closing),
            Step::PeerFound => direction.peer = Ok(()),
            Step::UpperLayer => direction.upper_layer = true,
            Step::Shutdown => direction.sending = false,
        }
    }
    let transitions = direction.transitions;
    if direction.drains_in_order() {
        Ok(transitions)
    } else {
        Err("the rest is out of order, or not all of it came".to_owned())
    }
}

fn decide_of(direction: &Direction, small_stream: bool) -> Verdict {
    decide(direction.state, &direction.config, small_stream, direction)
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn any_interleaving_is_in_order_and_bounded(
        budget in 0_u32..2000,
        // Sequence numbers wrap.
        first_seq in prop_oneof![any::<u32>(), (u32::MAX - 2000)..=u32::MAX],
        measure in measure(),
        reader in prop_oneof![Just(Reader::Level), Just(Reader::Edge)],
        polled: bool,
        mut steps in prop::collection::vec(step(), 1..200),
        last in last_step(),
        after in prop::collection::vec(step(), 0..20),
    ) {
        steps.push(last);
        steps.extend(after);
        let direction = Direction { reader, polled, ..Direction::new(budget, first_seq, measure) };
        let played = play(direction, &steps, decide_of);
        prop_assert!(played.is_ok(), "{}", played.unwrap_err());
    }

    /// A reader that keeps up is served by redirection alone, but for what was sent before.
    #[test]
    fn a_reader_that_keeps_up_is_redirected_to(lens in prop::collection::vec(1_usize..600, 1..50)) {
        let mut direction = Direction::new(1000, 7, Measure::MessageTotal);
        for len in lens {
            let verdict = decide_of(&direction, false);
            prop_assert_eq!(verdict, Ok(()));
            direction.send(len, verdict);
            prop_assert!(direction.read_in_order(usize::MAX));
        }
        prop_assert_eq!(direction.transitions, 1);
    }

    /// However much a reader left unread, redirection resumes when it has read it.
    #[test]
    fn redirection_resumes(steps in prop::collection::vec(step(), 1..100)) {
        let mut direction = Direction::new(500, 1, Measure::MessageTotal);
        for step in steps {
            match step {
                Step::Send { len, .. } => direction.send(len, decide_of(&direction, false)),
                Step::Deliver(len) => direction.deliver(len),
                Step::Read(len) => prop_assert!(direction.read_in_order(len)),
                _ => {}
            }
        }
        prop_assert!(direction.drains_in_order());
        prop_assert_eq!(decide_of(&direction, false), Ok(()));
    }
}

/// Failures are kept beside this file: proptest does not find the directory of an integration test by itself.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::with_cases(cases)
    }
}

/// How many interleavings of many go wrong for such a reader with another decision.
fn wrong_with(reader: Reader, choose: impl Fn(&Direction, bool) -> Verdict + Copy) -> usize {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let steps = prop::collection::vec(step(), 100..200);
    (0..200)
        .filter(|_| {
            let steps = steps.new_tree(&mut runner).unwrap().current();
            let direction = Direction {
                reader,
                // A connection that was not accepted yet.
                polled: reader == Reader::Level,
                ..Direction::new(150, 1, Measure::MessageTotal)
            };
            play(direction, &steps, choose).is_err()
        })
        .count()
}

/// A decision that does not care about a reason, where also `when` holds.
fn without(
    reason: Reason,
    when: impl Fn(&Direction) -> bool + Copy,
) -> impl Fn(&Direction, bool) -> Verdict + Copy {
    move |direction, small_stream| match decide_of(direction, small_stream) {
        Err(found) if found == reason && when(direction) => Ok(()),
        verdict => verdict,
    }
}

/// The model is worth something only if it finds the mistakes that the decision avoids.
#[test]
fn the_model_finds_wrong_decisions() {
    assert_eq!(wrong_with(Reader::Level, decide_of), 0);
    assert_eq!(wrong_with(Reader::Edge, decide_of), 0);
    let undrained = wrong_with(Reader::Level, without(Reason::Undrained, |_| true));
    let in_flight = wrong_with(
        Reader::Level,
        without(Reason::Undrained, |direction| direction.received.is_empty()),
    );
    let unbounded = wrong_with(
        Reader::Level,
        without(Reason::Budget, |direction| {
            direction.state == State::Redirect && !direction.scarce
        }),
    );
    let scarce = wrong_with(
        Reader::Level,
        without(Reason::Budget, |direction| direction.scarce),
    );
    let edge = wrong_with(Reader::Edge, without(Reason::EdgeTriggered, |_| true));
    let unpolled = wrong_with(Reader::Edge, without(Reason::Unpolled, |_| true));
    for (mistake, found, least) in [
        ("never looking whether TCP is drained", undrained, 100),
        ("forgetting what is on its way", in_flight, 20),
        ("no budget", unbounded, 100),
        ("taking any reader", edge, 20),
        ("taking a reader that nobody sees", unpolled, 20),
        ("taking memory that is scarce", scarce, 40),
    ] {
        assert!(found > least, "{mistake}: {found} of 200 found");
    }
}

#[test]
fn the_interleavings_have_many_transitions() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let steps = prop::collection::vec(step(), 200);
    let transitions: u32 = (0..100)
        .map(|_| {
            let steps = steps.new_tree(&mut runner).unwrap().current();
            play(Direction::new(150, 1, Measure::MessageTotal), &steps, decide_of).unwrap()
        })
        .sum();
    assert!(transitions > 500, "{transitions} in 100 plays");
}

#[test]
fn every_reason_has_its_place() {
    let fresh = || Direction::new(500, 1, Measure::MessageTotal);
    let verdict = |change: fn(&mut Direction)| {
        let mut direction = fresh();
        change(&mut direction);
        decide_of(&direction, false)
    };
    assert_eq!(verdict(|_| {}), Ok(()));
    assert_eq!(verdict(|it| it.config.enabled = 0), Err(Reason::Disabled));
    assert_eq!(verdict(|it| it.sending = false), Err(Reason::Closing));
    assert_eq!(
        verdict(|it| it.peer = Err(Reason::Unpaired)),
        Err(Reason::Unpaired)
    );
    assert_eq!(verdict(|it| it.upper_layer = true), Err(Reason::UpperLayer));
    assert_eq!(
        verdict(|it| it.measure = Measure::Broken),
        Err(Reason::Unmeasured)
    );
    assert_eq!(verdict(|it| it.write_seq += 1), Err(Reason::Undrained));
    assert_eq!(verdict(|it| it.reader = Reader::Edge), Err(Reason::EdgeTriggered));
    assert_eq!(verdict(|it| it.polled = false), Err(Reason::Unpolled));
    assert_eq!(verdict(|it| it.scarce = true), Err(Reason::Budget));
    assert_eq!(decide_of(&fresh(), true), Err(Reason::SmallWrites));
    // Who is redirected to already is not asked again.
    let redirected_to = |it: &mut Direction| {
        it.state = State::Redirect;
        it.polled = false;
    };
    assert_eq!(verdict(redirected_to), Ok(()));
    // The budget has a way up and a way down.
    let filled = |state, len| {
        let mut direction = fresh();
        direction.state = state;
        direction.redirected.extend(0..len);
        decide_of(&direction, false)
    };
    assert_eq!(filled(State::Redirect, 500), Ok(()));
    assert_eq!(filled(State::Redirect, 501), Err(Reason::Budget));
    assert_eq!(filled(State::Tcp, 250), Ok(()));
    assert_eq!(filled(State::Tcp, 251), Err(Reason::Budget));
}

/// One message of a conversation: who sends it, how long it is, and whether Nagle is on.
#[derive(Clone, Copy, Debug)]
struct Message {
    end: usize,
    bytes: u32,
    nagle: bool,
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = prop_oneof![1_u32..100, 100_u32..2000, Just(1_u32 << 20)];
    (prop::bool::weighted(0.2), bytes, prop::bool::weighted(0.8)).prop_map(|(answer, bytes, nagle)| Message {
        end: usize::from(answer),
        bytes,
        nagle,
    })
}

proptest! {
    #![proptest_config(config(500))]

    /// Both ends keep a streak each: a message belongs to a stream of small writes exactly when, with it, more than
    /// `small_streak` of its end's messages in a row were small and none of them came after an answer.
    #[test]
    fn streaks_of_both_ends(messages in prop::collection::vec(message(), 1..150), small_streak in 0_u32..12) {
        let config = Config { small_write: 1000, tiny_write: 50, small_streak, ..Config::default() };
        let (mut streaks, mut sent, mut seen) = ([0; 2], [0_u64; 2], [0_u64; 2]);
        let small = |it: &Message| it.bytes < config.small_write && (it.nagle || it.bytes >= config.tiny_write);
        for (at, message) in messages.iter().enumerate() {
            let (end, other) = (message.end, 1 - message.end);
            // The program asks about answers only when it needs to know.
            let answered = sent[other] != seen[end];
            seen[end] = sent[other];
            sent[end] += 1;
            let streak = Streak::after(streaks[end], &config, message.bytes, message.nagle, answered);
            streaks[end] = streak.length;

            let mut in_a_row = 0;
            for before in messages[..=at].iter().rev() {
                if before.end == end {
                    if !small(before) { break; }
                    in_a_row += 1;
                } else {
                    // What came before the answer does not count.
                    break;
                }
            }
            // A small message that answers begins anew, as one.
            prop_assert_eq!(streak.length, in_a_row);
            prop_assert_eq!(streak.is_stream(&config), in_a_row > small_streak);
        }
    }

    #[test]
    fn questions_and_answers_are_never_a_stream(
        bytes in prop::collection::vec(1_u32..16_000, 1..200),
        small_streak in 1_u32..32,
    ) {
        let config = Config { small_streak, ..Config::default() };
        let mut streak = 0;
        for bytes in bytes {
            let next = Streak::after(streak, &config, bytes, true, true);
            prop_assert!(!next.is_stream(&config));
            streak = next.length;
        }
    }
}

#[test]
fn a_streak_does_not_overflow() {
    let config = Config::default();
    let streak = Streak::after(u32::MAX, &config, 1000, true, false);
    assert_eq!(streak.length, u32::MAX);
    assert!(streak.is_stream(&config));
}
