//! Addresses, sockets and connections that the cases begin with.

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::io::poll::{Pollable, poll};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, Network,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

const MILLISECOND: u64 = 1_000_000;
/// How long what does not come is waited for: longer than loopback takes for anything that does come.
const PATIENCE: u64 = 100 * MILLISECOND;
/// Most bytes of one blocking write.
pub(crate) const BLOCKING_WRITE: usize = 4096;

/// The network, and the family that a case runs over.
pub(crate) struct Net {
    pub(crate) network: Network,
    pub(crate) family: IpAddressFamily,
}

/// One end of a connection. Streams are dropped before their socket, as they must be.
pub(crate) struct End {
    pub(crate) input: InputStream,
    pub(crate) output: OutputStream,
    pub(crate) socket: TcpSocket,
}

/// A connection through a listener.
pub(crate) struct Connection {
    pub(crate) client: End,
    pub(crate) server: End,
    pub(crate) listener: TcpSocket,
    /// The listener's.
    pub(crate) address: IpSocketAddress,
}

impl Net {
    pub(crate) fn new(family: IpAddressFamily) -> Self {
        let network = instance_network();
        Self { network, family }
    }

    pub(crate) fn other_family(&self) -> IpAddressFamily {
        match self.family {
            IpAddressFamily::Ipv4 => IpAddressFamily::Ipv6,
            IpAddressFamily::Ipv6 => IpAddressFamily::Ipv4,
        }
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.family == IpAddressFamily::Ipv4
    }

    pub(crate) fn loopback(&self, port: u16) -> IpSocketAddress {
        loopback(self.family, port)
    }

    pub(crate) fn unspecified(&self, port: u16) -> IpSocketAddress {
        match self.family {
            IpAddressFamily::Ipv4 => ipv4([0, 0, 0, 0], port),
            IpAddressFamily::Ipv6 => ipv6([0; 8], port),
        }
    }

    pub(crate) fn socket(&self) -> TcpSocket {
        create_tcp_socket(self.family).expect("a socket")
    }

    /// A socket bound to a port of loopback, any if it is 0.
    pub(crate) fn bound(&self, port: u16) -> TcpSocket {
        let socket = self.socket();
        self.bind(&socket, self.loopback(port)).expect("bound");
        socket
    }

    pub(crate) fn bind(&self, socket: &TcpSocket, address: IpSocketAddress) -> Result<(), ErrorCode> {
        socket.start_bind(&self.network, address)?;
        finish(socket, TcpSocket::finish_bind)
    }

    pub(crate) fn listener(&self) -> (TcpSocket, IpSocketAddress) {
        let socket = self.bound(0);
        listen(&socket).expect("listening");
        let address = socket.local_address().expect("its address");
        (socket, address)
    }

    pub(crate) fn start_connect(
        &self,
        socket: &TcpSocket,
        address: IpSocketAddress,
    ) -> Result<(), ErrorCode> {
        socket.start_connect(&self.network, address)
    }

    pub(crate) fn connect(
        &self,
        socket: &TcpSocket,
        address: IpSocketAddress,
    ) -> Result<(InputStream, OutputStream), ErrorCode> {
        self.start_connect(socket, address)?;
        finish(socket, TcpSocket::finish_connect)
    }

    /// A new socket, connected.
    pub(crate) fn client(&self, address: IpSocketAddress) -> Result<End, ErrorCode> {
        let socket = self.socket();
        let (input, output) = self.connect(&socket, address)?;
        Ok(End {
            input,
            output,
            socket,
        })
    }

    pub(crate) fn connection(&self) -> Connection {
        let (listener, address) = self.listener();
        self.connection_to(listener, address)
    }

    pub(crate) fn connection_to(&self, listener: TcpSocket, address: IpSocketAddress) -> Connection {
        let client = self.client(address).expect("connected");
        let server = accept(&listener).expect("accepted");
        Connection {
            client,
            server,
            listener,
            address,
        }
    }

    /// A port of loopback on which nothing listens.
    pub(crate) fn free_port(&self) -> u16 {
        port(self.bound(0).local_address().expect("its address"))
    }
}

pub(crate) fn loopback(family: IpAddressFamily, port: u16) -> IpSocketAddress {
    match family {
        IpAddressFamily::Ipv4 => ipv4([127, 0, 0, 1], port),
        IpAddressFamily::Ipv6 => ipv6([0, 0, 0, 0, 0, 0, 0, 1], port),
    }
}

pub(crate) fn ipv4([a, b, c, d]: [u8; 4], port: u16) -> IpSocketAddress {
    let address = (a, b, c, d);
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address })
}

pub(crate) fn ipv6([a, b, c, d, e, f, g, h]: [u16; 8], port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv6(Ipv6SocketAddress {
        port,
        flow_info: 0,
        address: (a, b, c, d, e, f, g, h),
        scope_id: 0,
    })
}

pub(crate) fn port(address: IpSocketAddress) -> u16 {
    match address {
        IpSocketAddress::Ipv4(address) => address.port,
        IpSocketAddress::Ipv6(address) => address.port,
    }
}

pub(crate) fn listen(socket: &TcpSocket) -> Result<(), ErrorCode> {
    socket.start_listen()?;
    finish(socket, TcpSocket::finish_listen)
}

pub(crate) fn accept(listener: &TcpSocket) -> Result<End, ErrorCode> {
    let (socket, input, output) = finish(listener, TcpSocket::accept)?;
    Ok(End {
        input,
        output,
        socket,
    })
}

/// Repeats a call until it would not block.
pub(crate) fn finish<T>(
    socket: &TcpSocket,
    call: impl Fn(&TcpSocket) -> Result<T, ErrorCode>,
) -> Result<T, ErrorCode> {
    let pollable = socket.subscribe();
    loop {
        match call(socket) {
            Err(ErrorCode::WouldBlock) => pollable.block(),
            finished => return finished,
        }
    }
}

/// Whether it is ready, or becomes so within [`PATIENCE`].
pub(crate) fn ready(pollable: &Pollable) -> &'static str {
    let timer = subscribe_duration(PATIENCE);
    if poll(&[pollable, &timer]).contains(&0) {
        return "ready";
    }
    // On a busy machine the host may have slept as long as this guest: what it does in the background comes now.
    settle();
    if pollable.ready() { "ready" } else { "pending" }
}

/// Lets everything arrive that is on its way.
pub(crate) fn settle() {
    subscribe_duration(PATIENCE / 2).block();
}

impl End {
    /// Writes everything.
    pub(crate) fn send(&self, mut bytes: &[u8]) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCKING_WRITE));
            self.output.blocking_write_and_flush(piece)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Reads exactly this many bytes.
    pub(crate) fn receive(&self, length: usize) -> Result<Vec<u8>, StreamError> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let missing = (length - bytes.len()) as u64;
            bytes.extend(self.input.blocking_read(missing)?);
        }
        Ok(bytes)
    }

    /// Reads to the end, and gives that too.
    pub(crate) fn receive_all(&self) -> (Vec<u8>, StreamError) {
        let mut bytes = Vec::new();
        loop {
            match self.input.blocking_read(1 << 20) {
                Ok(more) => bytes.extend(more),
                Err(end) => return (bytes, end),
            }
        }
    }
}
