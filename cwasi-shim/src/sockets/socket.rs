//! A guest's TCP socket: the states that wasi:sockets gives it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustix::net::Shutdown;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::Pollable;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::sockets::SocketAddrUse;

use super::connection::{Connection, Transport};
use super::dial::{Dialled, dial};
use super::error::code;
use super::listener::Listener;
use super::options::{Inherited, KeepAlive};
use super::{Network, address, kernel};

/// Connections that may wait to be accepted, unless the guest says otherwise; as in Rust's standard library.
const DEFAULT_BACKLOG: u32 = 128;

/// A socket of a guest.
pub(crate) struct TcpSocket {
    network: Arc<Network>,
    family: IpAddressFamily,
    state: State,
    /// What was started and not finished.
    in_progress: Option<Operation>,
    is_bound: bool,
    backlog: u32,
    keep_alive: KeepAlive,
}

enum State {
    /// Neither connected nor listening.
    New(OwnedFd),
    Connecting(Attempt),
    Connected(Arc<Connection>, Settings),
    Listening(Arc<Listener>),
    Closed(ErrorCode),
}

/// A connection in the making.
enum Attempt {
    Trying(Pin<Box<dyn Future<Output = io::Result<Dialled>> + Send>>),
    Done(io::Result<Dialled>),
}

/// Where the options of a connected socket are.
enum Settings {
    /// At the connection's own socket.
    Connection,
    /// At a socket that carries nothing else.
    Apart(OwnedFd),
    /// Nowhere yet: they are those of the listener that accepted it.
    Inherited(Inherited),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Bind,
    Connect,
    Listen,
}

impl TcpSocket {
    /// A new socket.
    pub(super) fn new(network: Arc<Network>, family: IpAddressFamily) -> Result<Self, ErrorCode> {
        let ipv4 = matches!(family, IpAddressFamily::Ipv4);
        let socket = kernel::socket(ipv4).map_err(code)?;
        if !ipv4 {
            // wasi:sockets says so: it is on, and cannot be changed.
            kernel::ipv6_only(&socket).map_err(code)?;
        }
        Ok(Self {
            network,
            family,
            state: State::New(socket),
            in_progress: None,
            is_bound: false,
            backlog: DEFAULT_BACKLOG,
            keep_alive: KeepAlive::default(),
        })
    }

    fn begin(&mut self, operation: Operation) {
        self.in_progress = Some(operation);
    }

    fn idle(&self) -> Result<(), ErrorCode> {
        match self.in_progress {
            Some(_) => Err(ErrorCode::ConcurrencyConflict),
            None => Ok(()),
        }
    }

    fn finish(&mut self, operation: Operation) -> Result<(), ErrorCode> {
        if self.in_progress != Some(operation) {
            return Err(ErrorCode::NotInProgress);
        }
        self.in_progress = None;
        Ok(())
    }

    pub(super) fn start_bind(&mut self, local: SocketAddr) -> Result<(), ErrorCode> {
        self.idle()?;
        let State::New(socket) = &self.state else {
            return Err(ErrorCode::InvalidState);
        };
        if self.is_bound {
            return Err(ErrorCode::InvalidState);
        }
        if !address::can_bind(local.ip(), self.family) {
            return Err(ErrorCode::InvalidArgument);
        }
        self.network.check(local, SocketAddrUse::TcpBind)?;
        kernel::bind(socket, local).map_err(code)?;
        self.is_bound = true;
        self.begin(Operation::Bind);
        Ok(())
    }

    pub(super) fn finish_bind(&mut self) -> Result<(), ErrorCode> {
        self.finish(Operation::Bind)
    }

    pub(super) fn start_connect(&mut self, remote: SocketAddr) -> Result<(), ErrorCode> {
        self.idle()?;
        if !matches!(self.state, State::New(_)) {
            return Err(ErrorCode::InvalidState);
        }
        if !address::can_connect(remote, self.family) {
            return Err(ErrorCode::InvalidArgument);
        }
        if let State::New(socket) = std::mem::replace(&mut self.state, State::Closed(ErrorCode::Unknown)) {
            let attempt = match self.network.check(remote, SocketAddrUse::TcpConnect) {
                Ok(()) => Attempt::Trying(Box::pin(dial(
                    Arc::clone(&self.network),
                    socket,
                    self.is_bound,
                    remote,
                ))),
                Err(_) => Attempt::Done(Err(io::ErrorKind::PermissionDenied.into())),
            };
            self.state = State::Connecting(attempt);
        }
        self.begin(Operation::Connect);
        // The first step of it is a system call that is better made now.
        let _ = self.poll_attempt(&mut Context::from_waker(Waker::noop()));
        Ok(())
    }

    fn poll_attempt(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let State::Connecting(attempt) = &mut self.state
            && let Attempt::Trying(trying) = attempt
        {
            *attempt = Attempt::Done(ready!(trying.as_mut().poll(cx)));
        }
        Poll::Ready(())
    }

    /// Waits for the attempt's end, from which on the socket is connected or closed.
    pub(super) fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_attempt(cx));
        if let State::Connecting(_) = &self.state
            && let State::Connecting(Attempt::Done(done)) =
                std::mem::replace(&mut self.state, State::Closed(ErrorCode::Unknown))
        {
            self.state = match done.map_err(code) {
                Ok(dialled) => {
                    self.is_bound = true;
                    let settings = dialled.apart.map_or(Settings::Connection, Settings::Apart);
                    let connection = Connection::new(dialled.transport, self.network.unsent.clone());
                    State::Connected(connection, settings)
                }
                Err(error) => State::Closed(error),
            };
        }
        Poll::Ready(())
    }

    /// The connection of which the guest gets the streams.
    pub(super) fn finish_connect(&mut self) -> Result<Arc<Connection>, ErrorCode> {
        if self.in_progress != Some(Operation::Connect) {
            return Err(ErrorCode::NotInProgress);
        }
        if self
            .poll_connected(&mut Context::from_waker(Waker::noop()))
            .is_pending()
        {
            return Err(ErrorCode::WouldBlock);
        }
        self.in_progress = None;
        match &self.state {
            State::Connected(connection, _) => Ok(Arc::clone(connection)),
            State::Closed(error) => Err(*error),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(super) fn start_listen(&mut self) -> Result<(), ErrorCode> {
        self.idle()?;
        // wasi:sockets 0.2 listens only where the guest has bound.
        if !self.is_bound || !matches!(self.state, State::New(_)) {
            return Err(ErrorCode::InvalidState);
        }
        let local = self.local_address()?;
        self.network.check(local, SocketAddrUse::TcpListen)?;
        if let State::New(socket) = std::mem::replace(&mut self.state, State::Closed(ErrorCode::Unknown)) {
            let network = Arc::clone(&self.network);
            let listener = Listener::begin(network, socket, local, self.backlog, self.keep_alive);
            self.state = State::Listening(Arc::new(listener.map_err(code)?));
        }
        self.begin(Operation::Listen);
        Ok(())
    }

    pub(super) fn finish_listen(&mut self) -> Result<(), ErrorCode> {
        self.finish(Operation::Listen)
    }

    /// The next connection, and its socket.
    pub(super) fn accept(&mut self) -> Result<(Self, Arc<Connection>), ErrorCode> {
        let State::Listening(listener) = &self.state else {
            return Err(ErrorCode::InvalidState);
        };
        if self.in_progress.is_some() {
            return Err(ErrorCode::InvalidState);
        }
        Self::accepted(listener).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => ErrorCode::WouldBlock,
            _ => code(error),
        })
    }

    /// The next connection of a listener, and its socket.
    pub(super) fn accepted(listener: &Listener) -> io::Result<(Self, Arc<Connection>)> {
        let transport = listener.accept()?;
        let settings = match &transport {
            Transport::Kernel(_) => Settings::Connection,
            Transport::Pipe(_) => Settings::Inherited(listener.inherited()?),
        };
        let network = listener.network();
        let connection = Connection::new(transport, network.unsent.clone());
        let state = State::Connected(Arc::clone(&connection), settings);
        Ok((Self::of(listener, state), connection))
    }

    /// What is accepted where accepting failed: a socket that tells why.
    #[cfg(feature = "p3")]
    pub(super) fn not_accepted(listener: &Listener, error: io::Error) -> Self {
        Self::of(listener, State::Closed(code(error)))
    }

    fn of(listener: &Listener, state: State) -> Self {
        Self {
            network: listener.network(),
            family: listener.family(),
            state,
            in_progress: None,
            is_bound: true,
            backlog: DEFAULT_BACKLOG,
            keep_alive: listener.keep_alive(),
        }
    }

    /// The connection of a socket that is connected.
    #[cfg(feature = "p3")]
    pub(super) fn connection(&self) -> Result<Arc<Connection>, ErrorCode> {
        match &self.state {
            State::Connected(connection, _) if self.in_progress.is_none() => Ok(Arc::clone(connection)),
            State::Closed(error) => Err(*error),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    /// The listener of a socket that listens.
    #[cfg(feature = "p3")]
    pub(super) fn listener(&self) -> Result<Arc<Listener>, ErrorCode> {
        match &self.state {
            State::Listening(listener) => Ok(Arc::clone(listener)),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    /// Whether it is bound, by the guest or by what it has done since.
    #[cfg(feature = "p3")]
    pub(super) const fn is_bound(&self) -> bool {
        self.is_bound
    }

    pub(super) fn local_address(&self) -> Result<SocketAddr, ErrorCode> {
        match &self.state {
            State::New(socket) if self.is_bound => kernel::local_address(socket).map_err(code),
            State::New(_) | State::Connecting(_) => Err(ErrorCode::InvalidState),
            State::Connected(connection, _) => connection.transport().local_address().map_err(code),
            State::Listening(listener) => Ok(listener.local_address()),
            State::Closed(error) => Err(*error),
        }
    }

    pub(super) fn remote_address(&self) -> Result<SocketAddr, ErrorCode> {
        match &self.state {
            State::Connected(connection, _) => connection.transport().remote_address().map_err(code),
            State::Closed(error) => Err(*error),
            _ => Err(ErrorCode::InvalidState),
        }
    }

    pub(super) const fn is_listening(&self) -> bool {
        matches!(self.state, State::Listening(_))
    }

    pub(super) const fn family(&self) -> IpAddressFamily {
        self.family
    }

    pub(super) fn set_backlog(&mut self, connections: u64) -> Result<(), ErrorCode> {
        if connections == 0 {
            return Err(ErrorCode::InvalidArgument);
        }
        // The kernel takes an int, and caps it at what the system allows.
        let backlog = u32::try_from(connections)
            .unwrap_or(u32::MAX)
            .min(i32::MAX.unsigned_abs());
        match &self.state {
            State::New(_) => {}
            State::Listening(listener) => listener
                .set_backlog(backlog)
                .map_err(|_| ErrorCode::NotSupported)?,
            State::Closed(error) => return Err(*error),
            _ => return Err(ErrorCode::InvalidState),
        }
        self.backlog = backlog;
        Ok(())
    }

    pub(super) const fn keep_alive(&self) -> KeepAlive {
        self.keep_alive
    }

    /// Changes the keepalive that the guest sees, and with it the socket's.
    pub(super) fn change_keep_alive<T>(
        &mut self,
        change: impl FnOnce(&mut KeepAlive, BorrowedFd<'_>) -> Result<T, ErrorCode>,
    ) -> Result<T, ErrorCode> {
        let mut keep_alive = self.keep_alive;
        let changed = change(&mut keep_alive, self.settings()?)?;
        self.keep_alive = keep_alive;
        if let State::Listening(listener) = &self.state {
            listener.set_keep_alive(keep_alive);
        }
        Ok(changed)
    }

    /// The socket whose options are this socket's.
    pub(super) fn settings(&mut self) -> Result<BorrowedFd<'_>, ErrorCode> {
        match &mut self.state {
            State::New(socket) => Ok((*socket).as_fd()),
            State::Connected(connection, settings) => settings.of(connection),
            State::Listening(listener) => Ok((**listener).as_fd()),
            State::Connecting(_) => Err(ErrorCode::InvalidState),
            State::Closed(error) => Err(*error),
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> Result<(), ErrorCode> {
        match &self.state {
            // Not before the guest has the streams.
            State::Connected(connection, _) if self.in_progress.is_none() => {
                connection.shutdown(how);
                Ok(())
            }
            _ => Err(ErrorCode::InvalidState),
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match (self.in_progress, &self.state) {
            (Some(Operation::Connect), _) => self.poll_connected(cx),
            (None, State::Listening(listener)) => listener.poll_acceptable(cx),
            _ => Poll::Ready(()),
        }
    }
}

impl Settings {
    fn of<'a>(&'a mut self, connection: &'a Connection) -> Result<BorrowedFd<'a>, ErrorCode> {
        if let Self::Inherited(inherited) = self {
            let ipv4 = connection.transport().local_address().map_err(code)?.is_ipv4();
            let socket = kernel::socket(ipv4).map_err(code)?;
            inherited.give(&socket).map_err(code)?;
            *self = Self::Apart(socket);
        }
        match (self, connection.transport()) {
            (Self::Apart(socket), _) => Ok((*socket).as_fd()),
            (_, Transport::Kernel(stream)) => Ok(stream.as_fd()),
            (_, Transport::Pipe(_)) => Err(ErrorCode::InvalidState),
        }
    }
}

#[async_trait]
impl Pollable for TcpSocket {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await;
    }
}
