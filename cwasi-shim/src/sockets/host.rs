//! `wasi:sockets/tcp` and `tcp-create-socket`, as guests import them.

use std::net::SocketAddr;
use std::sync::Arc;

use rustix::net::Shutdown;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentNamedList, Lift, Linker, LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Network};
use wasmtime_wasi::p2::bindings::sockets::tcp::ShutdownType;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::connection::Connection;
use super::options;
use super::socket::TcpSocket;
use super::streams::{Input, Output};
use crate::state::GuestState;

/// The version of wasmtime-wasi's interfaces, whose place ours take. Guests of other versions of WASI 0.2 get this one.
pub(super) const VERSION: &str = "0.2.12";

type Answer<T> = Result<T, ErrorCode>;
type Streams = (Resource<DynInputStream>, Resource<DynOutputStream>);

/// Puts the host's TCP in the place of the stock one.
///
/// # Errors
/// The linker does not allow shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut create = linker.instance(&format!("wasi:sockets/tcp-create-socket@{VERSION}"))?;
    create.func_wrap("create-tcp-socket", create_tcp_socket)?;
    let mut tcp = linker.instance(&format!("wasi:sockets/tcp@{VERSION}"))?;
    tcp.resource(
        "tcp-socket",
        ResourceType::host::<TcpSocket>(),
        |mut store, rep| {
            let (table, _) = store.data_mut().sockets();
            table.delete(Resource::<TcpSocket>::new_own(rep))?;
            Ok(())
        },
    )?;
    let tcp = &mut tcp;
    connecting(tcp)?;
    listening(tcp)?;
    keep_alive(tcp)?;
    sizes(tcp)
}

fn create_tcp_socket(
    mut store: StoreContextMut<'_, GuestState>,
    (family,): (IpAddressFamily,),
) -> wasmtime::Result<(Answer<Resource<TcpSocket>>,)> {
    let (table, direct) = store.data_mut().sockets();
    let socket = TcpSocket::new(direct.network(), family);
    Ok((match socket {
        Ok(socket) => Ok(table.push(socket)?),
        Err(error) => Err(error),
    },))
}

/// Defines a method that needs the socket alone.
fn method<P, R>(
    tcp: &mut LinkerInstance<'_, GuestState>,
    name: &str,
    call: impl Fn(&mut TcpSocket, P) -> R + Send + Sync + 'static,
) -> wasmtime::Result<()>
where
    P: Send + Sync + 'static,
    R: wasmtime::component::Lower + Send + Sync + 'static,
    (Resource<TcpSocket>, P): ComponentNamedList + Lift,
    (R,): ComponentNamedList + wasmtime::component::Lower,
{
    tcp.func_wrap(
        &format!("[method]tcp-socket.{name}"),
        move |mut store: StoreContextMut<'_, GuestState>, (socket, argument): (Resource<TcpSocket>, P)| {
            let (table, _) = store.data_mut().sockets();
            Ok((call(table.get_mut(&socket)?, argument),))
        },
    )
}

/// Defines a method without arguments.
fn getter<R>(
    tcp: &mut LinkerInstance<'_, GuestState>,
    name: &str,
    call: impl Fn(&mut TcpSocket) -> R + Send + Sync + 'static,
) -> wasmtime::Result<()>
where
    R: wasmtime::component::Lower + Send + Sync + 'static,
    (R,): ComponentNamedList + wasmtime::component::Lower,
{
    tcp.func_wrap(
        &format!("[method]tcp-socket.{name}"),
        move |mut store: StoreContextMut<'_, GuestState>, (socket,): (Resource<TcpSocket>,)| {
            let (table, _) = store.data_mut().sockets();
            Ok((call(table.get_mut(&socket)?),))
        },
    )
}

/// Defines a method with an address, for which the guest shows that it has the network.
fn with_network(
    tcp: &mut LinkerInstance<'_, GuestState>,
    name: &str,
    call: impl Fn(&mut TcpSocket, SocketAddr) -> Answer<()> + Send + Sync + 'static,
) -> wasmtime::Result<()> {
    tcp.func_wrap(
        &format!("[method]tcp-socket.{name}"),
        move |mut store: StoreContextMut<'_, GuestState>,
              (socket, network, address): (Resource<TcpSocket>, Resource<Network>, IpSocketAddress)| {
            let (table, _) = store.data_mut().sockets();
            table.get(&network)?;
            Ok((call(table.get_mut(&socket)?, address.into()),))
        },
    )
}

fn connecting(tcp: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    with_network(tcp, "start-bind", TcpSocket::start_bind)?;
    getter(tcp, "finish-bind", TcpSocket::finish_bind)?;
    with_network(tcp, "start-connect", TcpSocket::start_connect)?;
    tcp.func_wrap("[method]tcp-socket.finish-connect", finish_connect)?;
    getter(tcp, "local-address", |socket| address(socket.local_address()))?;
    getter(tcp, "remote-address", |socket| address(socket.remote_address()))?;
    getter(tcp, "address-family", |socket| socket.family())?;
    method(tcp, "shutdown", |socket, how: ShutdownType| {
        socket.shutdown(match how {
            ShutdownType::Receive => Shutdown::Read,
            ShutdownType::Send => Shutdown::Write,
            ShutdownType::Both => Shutdown::Both,
        })
    })?;
    tcp.func_wrap(
        "[method]tcp-socket.subscribe",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Resource<TcpSocket>,)| {
            let (table, _) = store.data_mut().sockets();
            Ok((wasmtime_wasi::p2::subscribe(table, socket)?,))
        },
    )
}

fn address(address: Answer<SocketAddr>) -> Answer<IpSocketAddress> {
    address.map(IpSocketAddress::from)
}

fn finish_connect(
    mut store: StoreContextMut<'_, GuestState>,
    (socket,): (Resource<TcpSocket>,),
) -> wasmtime::Result<(Answer<Streams>,)> {
    let state = store.data_mut();
    let (table, _) = state.sockets();
    let connected = table.get_mut(&socket)?.finish_connect();
    Ok((match connected {
        Ok(connection) => Ok(streams(state, &socket, &connection)?),
        Err(error) => Err(error),
    },))
}

/// Gives the guest both streams of a connection, as children of its socket.
fn streams(
    state: &mut GuestState,
    socket: &Resource<TcpSocket>,
    connection: &Arc<Connection>,
) -> wasmtime::Result<Streams> {
    let (table, direct) = state.sockets();
    let input: DynInputStream = Box::new(Input(Arc::clone(connection)));
    let output: DynOutputStream = Box::new(Output(Arc::clone(connection)));
    let input = table.push_child(input, socket)?;
    let output = table.push_child(output, socket)?;
    direct.add_streams(&input, &output, connection);
    Ok((input, output))
}

fn listening(tcp: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    getter(tcp, "start-listen", TcpSocket::start_listen)?;
    getter(tcp, "finish-listen", TcpSocket::finish_listen)?;
    getter(tcp, "is-listening", |socket| socket.is_listening())?;
    method(tcp, "set-listen-backlog-size", TcpSocket::set_backlog)?;
    tcp.func_wrap("[method]tcp-socket.accept", accept)
}

type Accepted = (
    Resource<TcpSocket>,
    Resource<DynInputStream>,
    Resource<DynOutputStream>,
);

fn accept(
    mut store: StoreContextMut<'_, GuestState>,
    (listener,): (Resource<TcpSocket>,),
) -> wasmtime::Result<(Answer<Accepted>,)> {
    let state = store.data_mut();
    let (table, _) = state.sockets();
    let (socket, connection) = match table.get_mut(&listener)?.accept() {
        Ok(accepted) => accepted,
        Err(error) => return Ok((Err(error),)),
    };
    let socket = table.push(socket)?;
    let (input, output) = streams(state, &socket, &connection)?;
    Ok((Ok((socket, input, output)),))
}

fn keep_alive(tcp: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    getter(tcp, "keep-alive-enabled", |socket| {
        socket.settings()?;
        Ok::<_, ErrorCode>(socket.keep_alive().enabled())
    })?;
    method(tcp, "set-keep-alive-enabled", |socket, enabled: bool| {
        socket.change_keep_alive(|keep_alive, fd| keep_alive.set_enabled(fd, enabled))
    })?;
    getter(tcp, "keep-alive-idle-time", |socket| {
        socket.keep_alive().idle_time(socket.settings()?)
    })?;
    // What no option can be is refused in every state, also where there is nothing to set.
    method(tcp, "set-keep-alive-idle-time", |socket, nanos: u64| {
        options::not_zero(nanos)?;
        socket.change_keep_alive(|keep_alive, fd| keep_alive.set_idle_time(fd, nanos))
    })?;
    getter(tcp, "keep-alive-interval", |socket| {
        options::keep_alive_interval(socket.settings()?)
    })?;
    method(tcp, "set-keep-alive-interval", |socket, nanos: u64| {
        options::not_zero(nanos)?;
        options::set_keep_alive_interval(socket.settings()?, nanos)
    })?;
    getter(tcp, "keep-alive-count", |socket| {
        options::keep_alive_count(socket.settings()?)
    })?;
    method(tcp, "set-keep-alive-count", |socket, count: u32| {
        options::not_zero(count.into())?;
        options::set_keep_alive_count(socket.settings()?, count)
    })
}

fn sizes(tcp: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    getter(tcp, "hop-limit", |socket| {
        let family = socket.family();
        options::hop_limit(socket.settings()?, family)
    })?;
    method(tcp, "set-hop-limit", |socket, hops: u8| {
        let family = socket.family();
        options::set_hop_limit(socket.settings()?, family, hops)
    })?;
    getter(tcp, "receive-buffer-size", |socket| {
        options::receive_buffer_size(socket.settings()?)
    })?;
    method(tcp, "set-receive-buffer-size", |socket, bytes: u64| {
        options::set_receive_buffer_size(socket.settings()?, bytes)
    })?;
    getter(tcp, "send-buffer-size", |socket| {
        options::send_buffer_size(socket.settings()?)
    })?;
    method(tcp, "set-send-buffer-size", |socket, bytes: u64| {
        options::set_send_buffer_size(socket.settings()?, bytes)
    })
}
