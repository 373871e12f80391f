//! The TCP sockets of WASI 0.2 (`wasi:sockets/tcp`, `tcp-create-socket`) and of WASI 0.3 (`wasi:sockets/types`), in place of the stock
//! host's.
//!
//! One socket type, two transports: a socket of the kernel, and a pipe between functions of one process. A guest cannot tell
//! them apart, except by the time they take.
//!
//! - `host`: the functions that a guest imports; `direct`: the calls of `wasi:io` that carry bytes, without the copies and
//!   the bookkeeping of the stock ones. `stream`: connections for protocols that the host speaks for a guest.
//! - `concurrent` (with the feature `p3`): the same for guests of WASI 0.3, whose bytes go through streams of the component model.
//! - `socket`: the states of a socket; `dial` and `listener`: how it gets to a connection.
//! - `connection`: a connection over either transport, and its `streams`; `pending`: what the kernel did not take at once.
//! - `kernel`: sockets of the kernel; `options`: their options.
//! - `local`: the network inside the process; `backlog`, `pipe`, `flow`: what it is made of.

use std::net::SocketAddr;
use std::sync::Arc;

use wasmtime::component::Linker;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::sockets::SocketAddrUse;

use crate::guest::GuestConfig;
use crate::network::{NetworkPolicy, Refusals};
use crate::state::GuestState;

mod address;
mod backlog;
#[cfg(feature = "p3")]
mod concurrent;
mod connection;
mod dial;
pub(crate) mod direct;
mod error;
mod flow;
mod host;
mod kernel;
mod listener;
mod local;
mod options;
mod pending;
mod pipe;
mod socket;
mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod turn;

#[cfg(feature = "p3")]
pub(crate) use concurrent::add_to_linker as add_concurrent_to_linker;
pub(crate) use stream::{Acceptor, Stream};

pub use local::{LocalConnection, LocalNetwork, LocalTraffic};

/// Puts all of this in the place of the stock host's. `tasks` says whether other imports may leave work to tasks, which have to run
/// while the guest waits.
///
/// # Errors
/// The linker does not allow shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>, tasks: bool) -> wasmtime::Result<()> {
    host::add_to_linker(linker)?;
    direct::add_to_linker(linker, tasks)
}

/// What the sockets of one guest share.
#[derive(Debug)]
pub(crate) struct Network {
    function: Arc<str>,
    policy: NetworkPolicy,
    refusals: Refusals,
    local: Option<LocalNetwork>,
    alone: bool,
    unsent: pending::Unsent,
}

impl Network {
    /// The network of a guest called `function`, which may choose the peers of `policy`; connections to listeners of `local` stay
    /// in the process.
    pub(crate) fn new(
        function: &str,
        policy: NetworkPolicy,
        refusals: Refusals,
        local: Option<LocalNetwork>,
        alone: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            function: function.into(),
            policy,
            refusals,
            local,
            alone,
            unsent: pending::Unsent::default(),
        })
    }

    /// The network of the guest that is given `config`.
    pub(crate) fn of(config: &GuestConfig) -> Arc<Self> {
        Self::new(
            &config.name,
            config.network.clone(),
            config.refusals.clone(),
            config.local.clone(),
            config.alone,
        )
    }

    /// Whether nothing has to run on the guest's thread while it waits.
    fn may_hold_thread(&self) -> bool {
        self.alone && self.unsent.is_none()
    }

    /// Waits until the kernel has taken everything that the guest wrote.
    pub(crate) async fn all_sent(&self) {
        self.unsent.none().await;
    }

    /// Whether the guest may use `address` in this way.
    pub(crate) fn permits(&self, address: SocketAddr, used_for: SocketAddrUse) -> bool {
        self.policy.permits(address, used_for)
    }

    /// Tells that the guest was refused `address`.
    pub(crate) fn refused(&self, address: SocketAddr) {
        self.refusals.add(address);
    }

    fn check(&self, address: SocketAddr, used_for: SocketAddrUse) -> Result<(), ErrorCode> {
        if self.permits(address, used_for) {
            return Ok(());
        }
        self.refused(address);
        Err(ErrorCode::AccessDenied)
    }
}
