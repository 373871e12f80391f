//! Why a connection, or a message, goes by TCP.

/// Number of [`Reason`]s: the length of the arrays indexed by them.
pub const REASONS: usize = Reason::ALL.len();

/// Why a connection, or a message, goes by TCP. The discriminants are part of the layout of the pinned maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// Acceleration is switched off.
    Disabled = 0,
    /// The destination is not on this node.
    Remote = 1,
    /// The socket belongs to a cgroup that is not registered.
    NotAFunction = 2,
    /// Earlier connections to the destination gained nothing from redirection.
    Learned = 3,
    /// The map of connections, or of pairs, is full.
    FlowsFull = 4,
    /// The sockhash is full.
    SockhashFull = 5,
    /// Another program owns the socket's sk_msg hook (errno EBUSY).
    SocketBusy = 6,
    /// The kernel would not put the socket into the sockhash for another reason.
    SocketRefused = 7,
    /// The other end never became a pair: it is remote or not a function.
    Unpaired = 8,
    /// The receiver's redirect queue is over its budget, or memory is short, see [`crate::memory`].
    Budget = 9,
    /// The receiver has not read everything that was sent by TCP.
    Undrained = 10,
    /// Many small writes without an answer: TCP coalesces them, redirection cannot.
    SmallWrites = 11,
    /// An upper layer protocol (kTLS) transforms the bytes of one of the sockets.
    UpperLayer = 12,
    /// The sender has shut down its writing, or the receiver's socket is gone.
    Closing = 13,
    /// The receiver's queue could not be measured.
    Unmeasured = 14,
    /// The socket blocks: a read that sleeps on an enrolled socket can end with EAGAIN, see [`crate::maps::Sockets`].
    Blocking = 15,
    /// The receiver is polled edge-triggered, and its launcher does not vouch for it, see [`crate::reader`].
    EdgeTriggered = 16,
    /// Nobody is seen to wait for the receiver's bytes level-triggered, see [`crate::reader`].
    Unpolled = 17,
}

impl Reason {
    /// Every reason, by discriminant.
    pub const ALL: [Self; 18] = [
        Self::Disabled,
        Self::Remote,
        Self::NotAFunction,
        Self::Learned,
        Self::FlowsFull,
        Self::SockhashFull,
        Self::SocketBusy,
        Self::SocketRefused,
        Self::Unpaired,
        Self::Budget,
        Self::Undrained,
        Self::SmallWrites,
        Self::UpperLayer,
        Self::Closing,
        Self::Unmeasured,
        Self::Blocking,
        Self::EdgeTriggered,
        Self::Unpolled,
    ];

    /// The reason of a discriminant read from a map, `None` where a newer program wrote it.
    #[must_use]
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(index).ok()?).copied()
    }

    /// Index into arrays of [`REASONS`] elements.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Label in metrics and in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Remote => "remote",
            Self::NotAFunction => "not_a_function",
            Self::Learned => "learned",
            Self::FlowsFull => "flows_full",
            Self::SockhashFull => "sockhash_full",
            Self::SocketBusy => "socket_busy",
            Self::SocketRefused => "socket_refused",
            Self::Unpaired => "unpaired",
            Self::Budget => "budget",
            Self::Undrained => "undrained",
            Self::SmallWrites => "small_writes",
            Self::UpperLayer => "upper_layer",
            Self::Closing => "closing",
            Self::Unmeasured => "unmeasured",
            Self::Blocking => "blocking",
            Self::EdgeTriggered => "edge_triggered",
            Self::Unpolled => "unpolled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_index_all() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(Reason::from_index(u32::try_from(index).unwrap()), Some(reason));
        }
        assert_eq!(Reason::from_index(18), None);
    }
}
