//! What the reasons mean for which a connection, or a message, goes by TCP.

use cwasi_ebpf_common::reason::Reason;
use serde::Serialize;

/// What a reason means, and what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// Ends the sentence "goes by TCP because …".
    pub meaning: &'static str,
    /// What an operator can do; `None` where TCP is the right path.
    pub remedy: Option<&'static str>,
}

const fn as_it_should(meaning: &'static str) -> Advice {
    Advice {
        meaning,
        remedy: None,
    }
}

const fn fixed_by(meaning: &'static str, remedy: &'static str) -> Advice {
    Advice {
        meaning,
        remedy: Some(remedy),
    }
}

const FEWER: &str = "close connections: the node has more enrolled sockets than fit";

/// What a reason means, and what can be done about it.
#[must_use]
pub const fn advice(reason: Reason) -> Advice {
    match reason {
        Reason::Disabled => fixed_by(
            "acceleration is switched off",
            "cwasi-agent enable switches it on",
        ),
        Reason::Remote => fixed_by(
            "no prefix says that the destination is on this node",
            "where it is, give its range by --local-cidr or --service-cidr",
        ),
        Reason::NotAFunction => as_it_should("the socket's cgroup is not registered, or no more"),
        Reason::Learned => as_it_should(
            "earlier connections to that address and port gained nothing; one in 64 is tried again",
        ),
        Reason::FlowsFull => fixed_by("the map of connections is full", FEWER),
        Reason::SockhashFull => fixed_by("the map of sockets is full", FEWER),
        Reason::SocketBusy => fixed_by(
            "another sk_msg owner (Cilium, OBI, Beyla) holds the socket",
            "keep one of the two away from the functions' cgroups",
        ),
        Reason::SocketRefused => fixed_by(
            "the kernel refused the socket",
            "see the kernel's log, and run cwasi-agent probe",
        ),
        Reason::Unpaired => as_it_should("the other end is remote, or no function"),
        Reason::Budget => fixed_by(
            "the receiver's queue is over its budget: it reads slower than it is sent to",
            "where memory allows, a larger --budget-bytes",
        ),
        Reason::Undrained => as_it_should("the receiver has not read everything that was sent by TCP"),
        Reason::SmallWrites => fixed_by(
            "many small writes came without an answer: TCP coalesces them",
            "where the program allows, larger writes",
        ),
        Reason::UpperLayer => as_it_should("kTLS or another protocol transforms the bytes"),
        Reason::Closing => {
            as_it_should("the sender has shut down its writing, or the receiver's socket is gone")
        }
        Reason::Unmeasured => fixed_by(
            "the receiver's queue could not be measured",
            "run cwasi-agent probe",
        ),
        Reason::Blocking => fixed_by(
            "the socket blocks, and its function did not ask for all sockets",
            "where it handles EAGAIN, register it with sockets: all",
        ),
        Reason::EdgeTriggered => fixed_by(
            "the receiver waits edge-triggered, and its function did not ask for all sockets",
            "where it reads until EAGAIN, register it with sockets: all",
        ),
        Reason::Unpolled => as_it_should("nobody is seen to wait for the receiver's bytes"),
    }
}
