//! The two ends of an echo.

use crate::address::{family, from_wasi, to_wasi};
use crate::failed;
use cwasi_peer::cycle::Cycle;
use futures_util::future::join;
use std::net::SocketAddr;
use wasip3::clocks::monotonic_clock;
use wasip3::sockets::types::{ErrorCode, TcpSocket};
use wasip3::wit_bindgen::{StreamReader, StreamResult, StreamWriter};
use wasip3::wit_stream;

/// Bytes of one read, and of one write.
const BUFFER: usize = 64 * 1024;

/// How often a refused connection is tried, and the pause between two tries in nanoseconds: ten seconds for a server to start.
const TRIES: u32 = 100;
const PAUSE: u64 = 100_000_000;

/// Serves `connections` connections, or for ever.
pub async fn serve(address: SocketAddr, connections: Option<u64>, through: bool) -> Result<(), String> {
    let socket = TcpSocket::create(family(address)).map_err(failed("make a socket for", address))?;
    socket
        .bind(to_wasi(address))
        .map_err(failed("bind to", address))?;
    let mut clients = socket.listen().map_err(failed("listen on", address))?;
    let local = socket
        .get_local_address()
        .map_err(failed("read the address of", address))?;
    eprintln!("listening on {}", from_wasi(local));
    let (mut served, mut failures) = (0, 0);
    while connections.is_none_or(|most| served < most) {
        let client = clients.next().await.ok_or("no connection comes any more")?;
        let echoed = if through {
            pass_through(&client).await
        } else {
            echo(&client).await
        };
        if let Err(error) = echoed {
            eprintln!("a connection failed: {error:?}");
            failures += 1;
        }
        served += 1;
    }
    match failures {
        0 => Ok(()),
        _ => Err(format!("{failures} of {served} connections failed")),
    }
}

/// The host moves the bytes: none of them comes into this component.
async fn pass_through(client: &TcpSocket) -> Result<(), ErrorCode> {
    let (incoming, received) = client.receive();
    client.send(incoming).await?;
    received.await
}

async fn echo(client: &TcpSocket) -> Result<(), ErrorCode> {
    let (mut incoming, received) = client.receive();
    let (mut outgoing, data) = wit_stream::new();
    let sent = client.send(data);
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        let (result, read) = incoming.read(buffer).await;
        let rest = outgoing.write_all(read).await;
        if !rest.is_empty() || !matches!(result, StreamResult::Complete(_)) {
            break;
        }
        buffer = rest;
        buffer.reserve(BUFFER);
    }
    drop(outgoing);
    sent.await?;
    received.await
}

/// Sends `bytes` bytes to an echo and compares what comes back.
pub async fn call(address: SocketAddr, bytes: u64) -> Result<(), String> {
    let socket = connect(address).await?;
    let (incoming, received) = socket.receive();
    let (outgoing, data) = wit_stream::new();
    let sent = socket.send(data);
    let cycle = Cycle::new(BUFFER);
    let (written, read) = join(write(outgoing, &cycle, bytes), compare(incoming, &cycle)).await;
    sent.await.map_err(failed("send to", address))?;
    received.await.map_err(failed("receive from", address))?;
    written?;
    let read = read?;
    if read != bytes {
        return Err(format!("{bytes} bytes were sent and {read} came back"));
    }
    println!("{{\"bytes\":{read}}}");
    Ok(())
}

async fn connect(address: SocketAddr) -> Result<TcpSocket, String> {
    let mut tries = 1;
    loop {
        let socket = TcpSocket::create(family(address)).map_err(failed("make a socket for", address))?;
        match socket.connect(to_wasi(address)).await {
            Err(ErrorCode::ConnectionRefused) if tries < TRIES => {
                tries += 1;
                monotonic_clock::wait_for(PAUSE).await;
            }
            connected => {
                connected.map_err(failed("connect to", address))?;
                return Ok(socket);
            }
        }
    }
}

async fn write(mut outgoing: StreamWriter<u8>, cycle: &Cycle, bytes: u64) -> Result<(), String> {
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).unwrap_or(BUFFER).min(BUFFER);
        let rest = outgoing.write_all(cycle.piece(at, length).to_vec()).await;
        if !rest.is_empty() {
            return Err(format!("the stream took no more after {at} bytes"));
        }
        at += length as u64;
    }
    Ok(())
}

/// Compares to the end, and returns how much came.
async fn compare(mut incoming: StreamReader<u8>, cycle: &Cycle) -> Result<u64, String> {
    let mut at = 0;
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        let (result, mut read) = incoming.read(buffer).await;
        if read != cycle.piece(at, read.len()) {
            return Err(format!("bytes from {at} on are altered"));
        }
        at += read.len() as u64;
        if !matches!(result, StreamResult::Complete(_)) {
            return Ok(at);
        }
        read.clear();
        buffer = read;
    }
}
