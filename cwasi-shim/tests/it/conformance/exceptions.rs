//! Where the product's host answers differently, and why that is right.

use super::hosts::{Host, Transport};

/// What is compared with the stock host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// The stock host, once more.
    Itself,
    /// The product's host over the kernel.
    Kernel,
    /// The same, with a thread for each guest.
    Alone,
    /// The product's host with both ends in one process.
    Process,
}

/// A difference that is meant.
#[derive(Debug)]
pub(crate) struct Exception {
    /// Why it is right.
    reason: &'static str,
    /// Its cases.
    cases: &'static [&'static str],
    /// What is answered: by the stock host, and by the product's.
    answers: &'static [(&'static str, &'static str)],
}

/// Whatever carries the bytes.
const ALWAYS: [Exception; 8] = [
    Exception {
        reason: "a socket accepts when it is listening, which it is after finish-listen: before, the specification says invalid-state",
        cases: &["listen-steps", "state-listen-in-progress"],
        answers: &[("error would-block", "error invalid-state")],
    },
    Exception {
        reason: "start-connect is connect(2), says the specification; the stock host waits with it until somebody polls",
        cases: &["connect-dropped"],
        answers: &[("error would-block", "ok")],
    },
    Exception {
        reason: "an end that goes with bytes unread resets the connection, as a native program's does; the stock host shuts writing \
                 down first, so that the peer takes what it has read for all there was",
        cases: &[
            "close-with-unread-data",
            "close-with-unread-data-both-ways",
            "flow-peer-gone-while-full",
            "poll-reset",
            "shutdown-receive-then-close",
            "two-pending-when-server-exits",
            "two-server-exits-unread",
        ],
        answers: &[("error closed", "error last-operation-failed (connectionreset)")],
    },
    Exception {
        reason: "a stream that failed is closed afterwards, says wasi:io; the stock host tells the failure again",
        cases: &["listener-gone-with-pending"],
        answers: &[("error last-operation-failed (connectionreset)", "error closed")],
    },
    Exception {
        reason: "the stock host takes what tokio remembers of a socket for readable; the product asks the kernel",
        cases: &["close-output-only", "poll-made-before", "poll-streams"],
        answers: &[("ready", "pending")],
    },
    Exception {
        reason: "as above, in lists: and the product gives them in order",
        cases: &["poll-several"],
        answers: &[
            ("[0, 1, 3, 2]", "[3]"),
            ("[1, 2, 0]", "[1, 2]"),
            ("[3, 0, 1, 2]", "[3, 2]"),
        ],
    },
    Exception {
        reason: "a guest that writes without waiting is not slowed down by tokio's budget for tasks",
        cases: &["permit-many-small-writes"],
        answers: &[("false", "true")],
    },
    Exception {
        reason: "whether keepalive is on, as the guest sees it, is inherited by what is accepted when it is accepted",
        cases: &["options-set-while-listening"],
        answers: &[("true", "false")],
    },
];

/// Inside the process.
const PROCESS: [Exception; 4] = [
    Exception {
        reason: "inside the process a connection is made at once",
        cases: &["state-connect-in-progress"],
        answers: &[
            ("error would-block", "streams"),
            ("error invalid-state", "127.0.0.1:P1"),
            ("error invalid-state", "127.0.0.1:P2"),
            ("error invalid-state", "[::1]:P1 flow 0 scope 0"),
            ("error invalid-state", "[::1]:P2 flow 0 scope 0"),
        ],
    },
    Exception {
        reason: "connections inside the process are not told apart by their addresses: two may have the same",
        cases: &["connect-same-ports"],
        answers: &[("error address-not-bindable", "streams")],
    },
    Exception {
        reason: "a pipe takes a write whole or not at all: none is left on its way to fail when the peer goes",
        cases: &["flow-peer-gone-while-full"],
        answers: &[("error closed", "262144")],
    },
    Exception {
        reason: "inside the process options are inherited when a connection is accepted, in the kernel when it is made; WASI does not say",
        cases: &["options-set-while-listening"],
        answers: &[
            ("42000000000", "43000000000"),
            ("43000000000", "44000000000"),
            ("44", "45"),
            ("45", "46"),
            ("43008", "44032"),
            ("44032", "45056"),
        ],
    },
];

impl Compared {
    pub(crate) fn host(self) -> Host {
        match self {
            Self::Itself => Host::stock(),
            Self::Kernel => Host::ours(Transport::Kernel),
            Self::Alone => Host::ours(Transport::Alone),
            Self::Process => Host::ours(Transport::Process),
        }
    }

    fn exceptions(self) -> impl Iterator<Item = &'static Exception> {
        let (always, process): (&[Exception], &[Exception]) = match self {
            Self::Itself => (&[], &[]),
            Self::Kernel | Self::Alone => (&ALWAYS, &[]),
            Self::Process => (&ALWAYS, &PROCESS),
        };
        always.iter().chain(process)
    }
}

/// The exceptions of one comparison, and which of them were met.
pub(crate) struct Exceptions(Vec<(&'static Exception, Vec<bool>)>);

impl Exceptions {
    pub(crate) fn of(compared: Compared) -> Self {
        let exceptions = compared
            .exceptions()
            .map(|exception| (exception, vec![false; exception.answers.len()]));
        Self(exceptions.collect())
    }

    /// Whether that two lines of a case differ is meant.
    pub(crate) fn cover(&mut self, case: &str, stock: &str, other: &str) -> bool {
        let (Some((call, expected)), Some((same, found))) =
            (stock.split_once(ARROW), other.split_once(ARROW))
        else {
            return false;
        };
        if call != same {
            return false;
        }
        for (exception, met) in &mut self.0 {
            let at = exception
                .answers
                .iter()
                .position(|answers| *answers == (expected, found));
            if let Some(at) = at.filter(|_| exception.cases.contains(&case)) {
                met[at] = true;
                return true;
            }
        }
        false
    }

    /// Those that nothing needed.
    pub(crate) fn unmet(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|(exception, met)| {
            let unmet = exception.answers.iter().zip(met).filter(|(_, met)| !**met);
            unmet.map(|((stock, ours), _)| {
                format!("{stock} / {ours} in {:?}: {}", exception.cases, exception.reason)
            })
        })
    }
}

const ARROW: &str = " -> ";
