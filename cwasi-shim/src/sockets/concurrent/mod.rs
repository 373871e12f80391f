//! The TCP sockets of WASI 0.3 (`wasi:sockets/types`), in place of the stock host's: the same sockets as those of WASI 0.2, whose
//! steps are one call here and whose bytes go through the component model's streams. UDP and name lookups are the stock host's.

mod settings;
mod streams;

use std::future::poll_fn;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Accessor, ComponentNamedList, FutureReader, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType,
    StreamReader,
};
use wasmtime_wasi::p2::bindings::sockets::network;
use wasmtime_wasi::p3::bindings::sockets::types::{ErrorCode, IpAddressFamily, IpSocketAddress};

use self::streams::{Accepting, Receiving, Sending};
use super::connection::Connection;
use super::socket::TcpSocket;
use crate::state::GuestState;

/// The version of wasmtime-wasi's interfaces, whose place ours take. Guests of other versions of WASI 0.3 get this one.
const VERSION: &str = "0.3.0";

type Answer<T> = Result<T, ErrorCode>;
type State<'a> = StoreContextMut<'a, GuestState>;

/// How a stream of bytes ended.
type Ended = FutureReader<Answer<()>>;

/// A socket of a guest, and which of its streams the guest has had.
struct Socket {
    tcp: TcpSocket,
    receives: bool,
    sends: bool,
}

impl Socket {
    const fn new(tcp: TcpSocket) -> Self {
        Self {
            tcp,
            receives: false,
            sends: false,
        }
    }

    fn take_receiving(&mut self) -> Answer<Arc<Connection>> {
        take(&self.tcp, &mut self.receives)
    }

    fn take_sending(&mut self) -> Answer<Arc<Connection>> {
        take(&self.tcp, &mut self.sends)
    }
}

/// The connection of a socket, for a stream that may be taken once.
fn take(tcp: &TcpSocket, taken: &mut bool) -> Answer<Arc<Connection>> {
    let connection = tcp.connection().map_err(code)?;
    if std::mem::replace(taken, true) {
        return Err(ErrorCode::InvalidState);
    }
    Ok(connection)
}

/// Puts the host's TCP in the place of the stock one.
///
/// # Errors
/// The linker does not allow shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("wasi:sockets/types@{VERSION}"))?;
    types.resource("tcp-socket", ResourceType::host::<Socket>(), |mut store, rep| {
        let (table, _) = store.data_mut().sockets();
        table.delete(Resource::<Socket>::new_own(rep))?;
        Ok(())
    })?;
    let types = &mut types;
    types.func_wrap("[static]tcp-socket.create", create)?;
    connecting(types)?;
    types.func_wrap("[method]tcp-socket.receive", receive)?;
    types.func_wrap("[method]tcp-socket.send", send)?;
    settings::keep_alive(types)?;
    settings::sizes(types)
}

fn create(
    mut store: State<'_>,
    (family,): (IpAddressFamily,),
) -> wasmtime::Result<(Answer<Resource<Socket>>,)> {
    let (table, direct) = store.data_mut().sockets();
    let family = match family {
        IpAddressFamily::Ipv4 => network::IpAddressFamily::Ipv4,
        IpAddressFamily::Ipv6 => network::IpAddressFamily::Ipv6,
    };
    Ok((match TcpSocket::new(direct.network(), family) {
        Ok(socket) => Ok(table.push(Socket::new(socket))?),
        Err(error) => Err(code(error)),
    },))
}

/// Defines a method that needs the socket alone.
fn method<P, R>(
    types: &mut LinkerInstance<'_, GuestState>,
    name: &str,
    call: impl Fn(&mut TcpSocket, P) -> R + Send + Sync + 'static,
) -> wasmtime::Result<()>
where
    P: Send + Sync + 'static,
    R: Lower + Send + Sync + 'static,
    (Resource<Socket>, P): ComponentNamedList + Lift,
    (R,): ComponentNamedList + Lower,
{
    types.func_wrap(
        &format!("[method]tcp-socket.{name}"),
        move |mut store: State<'_>, (socket, argument): (Resource<Socket>, P)| {
            let (table, _) = store.data_mut().sockets();
            Ok((call(&mut table.get_mut(&socket)?.tcp, argument),))
        },
    )
}

/// Defines a method without arguments.
fn getter<R>(
    types: &mut LinkerInstance<'_, GuestState>,
    name: &str,
    call: impl Fn(&mut TcpSocket) -> R + Send + Sync + 'static,
) -> wasmtime::Result<()>
where
    R: Lower + Send + Sync + 'static,
    (R,): ComponentNamedList + Lower,
{
    types.func_wrap(
        &format!("[method]tcp-socket.{name}"),
        move |mut store: State<'_>, (socket,): (Resource<Socket>,)| {
            let (table, _) = store.data_mut().sockets();
            Ok((call(&mut table.get_mut(&socket)?.tcp),))
        },
    )
}

fn connecting(types: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    method(types, "bind", |socket, local: IpSocketAddress| {
        bind(socket, local.into()).map_err(code)
    })?;
    types.func_wrap_concurrent(
        "[method]tcp-socket.connect",
        |store: &Accessor<GuestState>, (socket, remote): (Resource<Socket>, IpSocketAddress)| {
            Box::pin(async move { Ok((connect(store, &socket, remote.into()).await?,)) })
        },
    )?;
    types.func_wrap("[method]tcp-socket.listen", listen)?;
    getter(types, "get-local-address", |socket| {
        address(socket.local_address())
    })?;
    getter(types, "get-remote-address", |socket| {
        address(socket.remote_address())
    })?;
    getter(types, "get-is-listening", |socket| socket.is_listening())?;
    getter(types, "get-address-family", |socket| match socket.family() {
        network::IpAddressFamily::Ipv4 => IpAddressFamily::Ipv4,
        network::IpAddressFamily::Ipv6 => IpAddressFamily::Ipv6,
    })?;
    method(types, "set-listen-backlog-size", |socket, connections: u64| {
        socket.set_backlog(connections).map_err(code)
    })
}

fn bind(socket: &mut TcpSocket, local: SocketAddr) -> Result<(), network::ErrorCode> {
    socket.start_bind(local)?;
    socket.finish_bind()
}

fn address(address: Result<SocketAddr, network::ErrorCode>) -> Answer<IpSocketAddress> {
    address.map(IpSocketAddress::from).map_err(code)
}

async fn connect(
    store: &Accessor<GuestState>,
    socket: &Resource<Socket>,
    remote: SocketAddr,
) -> wasmtime::Result<Answer<()>> {
    let begun = with_socket(store, socket, |socket| socket.start_connect(remote))?;
    if let Err(error) = begun {
        return Ok(Err(code(error)));
    }
    poll_fn(|cx| {
        let polled = with_socket(store, socket, |socket| socket.poll_connected(cx));
        polled.map_or_else(|gone| Err(gone).into(), |polled| polled.map(Ok))
    })
    .await?;
    let connected = with_socket(store, socket, TcpSocket::finish_connect)?;
    Ok(connected.map(drop).map_err(code))
}

fn with_socket<R>(
    store: &Accessor<GuestState>,
    socket: &Resource<Socket>,
    act: impl FnOnce(&mut TcpSocket) -> R,
) -> wasmtime::Result<R> {
    store.with(|mut store| {
        let (table, _) = store.data_mut().sockets();
        Ok(act(&mut table.get_mut(socket)?.tcp))
    })
}

fn listen(
    mut store: State<'_>,
    (socket,): (Resource<Socket>,),
) -> wasmtime::Result<(Answer<StreamReader<Resource<Socket>>>,)> {
    let (table, _) = store.data_mut().sockets();
    let socket = &mut table.get_mut(&socket)?.tcp;
    Ok((match begin_listening(socket) {
        Ok(accepting) => Ok(StreamReader::new(&mut store, accepting)?),
        Err(error) => Err(code(error)),
    },))
}

fn begin_listening(socket: &mut TcpSocket) -> Result<Accepting, network::ErrorCode> {
    if !socket.is_bound() {
        let any = match socket.family() {
            network::IpAddressFamily::Ipv4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            network::IpAddressFamily::Ipv6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        bind(socket, any)?;
    }
    socket.start_listen()?;
    socket.finish_listen()?;
    Ok(Accepting(socket.listener()?))
}

fn receive(
    mut store: State<'_>,
    (socket,): (Resource<Socket>,),
) -> wasmtime::Result<((StreamReader<u8>, Ended),)> {
    let (table, _) = store.data_mut().sockets();
    let (ended, end) = oneshot::channel();
    let bytes = match table.get_mut(&socket)?.take_receiving() {
        Ok(connection) => StreamReader::new(&mut store, Receiving::new(connection, ended))?,
        Err(error) => {
            // The guest has the other end.
            let _ = ended.send(Err(error));
            StreamReader::new(&mut store, std::iter::empty())?
        }
    };
    Ok(((bytes, FutureReader::new(&mut store, end)?),))
}

fn send(
    mut store: State<'_>,
    (socket, mut bytes): (Resource<Socket>, StreamReader<u8>),
) -> wasmtime::Result<(Ended,)> {
    let (table, _) = store.data_mut().sockets();
    let (ended, end) = oneshot::channel();
    match table.get_mut(&socket)?.take_sending() {
        Ok(connection) => bytes.pipe(&mut store, Sending::new(connection, ended))?,
        Err(error) => {
            // The guest has the other end.
            let _ = ended.send(Err(error));
            bytes.close(&mut store)?;
        }
    }
    Ok((FutureReader::new(&mut store, end)?,))
}

/// What WASI 0.3 calls an error of 0.2. Those that are of steps which 0.3 does not have mean a socket in another state.
fn code(error: network::ErrorCode) -> ErrorCode {
    use network::ErrorCode as Of02;
    match error {
        Of02::AccessDenied => ErrorCode::AccessDenied,
        Of02::NotSupported => ErrorCode::NotSupported,
        Of02::InvalidArgument => ErrorCode::InvalidArgument,
        Of02::OutOfMemory | Of02::NewSocketLimit => ErrorCode::OutOfMemory,
        Of02::Timeout => ErrorCode::Timeout,
        Of02::InvalidState | Of02::ConcurrencyConflict | Of02::NotInProgress | Of02::WouldBlock => {
            ErrorCode::InvalidState
        }
        Of02::AddressNotBindable => ErrorCode::AddressNotBindable,
        Of02::AddressInUse => ErrorCode::AddressInUse,
        Of02::RemoteUnreachable => ErrorCode::RemoteUnreachable,
        Of02::ConnectionRefused => ErrorCode::ConnectionRefused,
        Of02::ConnectionReset => ErrorCode::ConnectionReset,
        Of02::ConnectionAborted => ErrorCode::ConnectionAborted,
        Of02::DatagramTooLarge => ErrorCode::DatagramTooLarge,
        Of02::Unknown
        | Of02::NameUnresolvable
        | Of02::TemporaryResolverFailure
        | Of02::PermanentResolverFailure => ErrorCode::Other(None),
    }
}
