//! A process's place on the network: a cgroup and a network namespace, whose sockets this test holds.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use cwasi_agent::kernel::sockets::SocketFactory;
use cwasi_client::cgroup::Leaf;
use cwasi_ebpf_common::maps::Sockets;
use nix::poll::PollFlags;
use socket2::Socket;

use super::epoll::watch;
use super::netns::NetNs;
use super::node::Node;
use super::stream::wait_for;

/// A function, or a process that is none.
pub struct Pod {
    // The factory's child lives in the leaf: it goes first.
    factory: Mutex<SocketFactory>,
    leaf: Leaf,
    /// Id of the function, 0 when it is not registered.
    pub id: u32,
    /// Its network namespace.
    pub netns: Arc<NetNs>,
}

impl Pod {
    /// A registered function.
    pub fn enrolled(node: &Node, netns: &Arc<NetNs>) -> Self {
        Self::enrolled_for(node, netns, Sockets::NonBlocking)
    }

    /// A registered function of which these sockets may be enrolled.
    pub fn enrolled_for(node: &Node, netns: &Arc<NetNs>, sockets: Sockets) -> Self {
        let mut pod = Self::stranger(netns);
        pod.id = node.function(pod.leaf.path(), sockets);
        pod
    }

    /// A process that the node does not know.
    pub fn stranger(netns: &Arc<NetNs>) -> Self {
        let leaf = Leaf::create("kernel-test").expect("make a cgroup");
        let factory = SocketFactory::start(Some(leaf.path()), Some(&netns.path())).expect("enter the pod");
        Self {
            factory: Mutex::new(factory),
            leaf,
            id: 0,
            netns: Arc::clone(netns),
        }
    }

    /// Its cgroup.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// A non-blocking TCP socket for an address of this family.
    pub fn socket(&self, family: IpAddr) -> Socket {
        let domain = if family.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let mut factory = self.factory.lock().expect("no panic before");
        let made = factory.socket(domain, libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
        Socket::from(made.expect("socket"))
    }

    /// A listener, with port 0 on one of the kernel's choice.
    pub fn listen(&self, address: impl Into<SocketAddr>) -> TcpListener {
        self.listen_with(address, |_| {})
    }

    /// A listener whose socket is prepared before it listens.
    pub fn listen_with(&self, address: impl Into<SocketAddr>, prepare: impl FnOnce(&Socket)) -> TcpListener {
        let address = address.into();
        let socket = self.socket(address.ip());
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        socket.bind(&address.into()).expect("bind");
        prepare(&socket);
        socket.listen(4096).expect("listen");
        socket.into()
    }

    /// Connects, within [`patience`](super::patience). The stream is non-blocking, watched by epoll and has TCP_NODELAY.
    pub fn dial(&self, address: impl Into<SocketAddr>) -> io::Result<TcpStream> {
        self.dial_with(address, |_| {})
    }

    /// Connects with a socket that is prepared before.
    pub fn dial_with(
        &self,
        address: impl Into<SocketAddr>,
        prepare: impl FnOnce(&Socket),
    ) -> io::Result<TcpStream> {
        let address = address.into();
        let socket = self.socket(address.ip());
        socket.set_tcp_nodelay(true)?;
        prepare(&socket);
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            done => done?,
        }
        wait_for(&socket, PollFlags::POLLOUT)?;
        match socket.take_error()? {
            Some(error) => Err(error),
            None => {
                watch(&socket);
                Ok(socket.into())
            }
        }
    }
}

/// Accepts a connection, within [`patience`](super::patience). The stream is like one of [`Pod::dial`].
pub fn accept(listener: &TcpListener) -> TcpStream {
    wait_for(listener, PollFlags::POLLIN).expect("a connection to accept");
    let (stream, _) = listener.accept().expect("accept");
    stream.set_nonblocking(true).expect("O_NONBLOCK");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    watch(&stream);
    stream
}

/// A connection from one pod to a listener of another, as (client, server).
pub fn connect(
    client: &Pod,
    listener: &TcpListener,
    address: impl Into<SocketAddr>,
) -> (TcpStream, TcpStream) {
    let dialled = client.dial(address).expect("connect");
    (dialled, accept(listener))
}

/// A connection from one pod to an address that the other has, on a port of the kernel's choice.
pub fn pair(client: &Pod, server: &Pod, address: impl Into<IpAddr>) -> (TcpStream, TcpStream) {
    let listener = server.listen((address.into(), 0));
    connect(client, &listener, listener.local_addr().expect("getsockname"))
}
