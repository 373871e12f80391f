//! Connections of the peers, served one after the other or each on a thread.

use std::thread;
use std::time::Duration;

use cwasi_peer::socket::{Address, Listener, Stream};

use crate::Result;
use crate::error::IoContext;

/// Listens, and says so.
pub(super) fn listen(address: &Address) -> Result<Listener> {
    let listener = Listener::bind(address)?;
    eprintln!("listening on {}", listener.local());
    Ok(listener)
}

/// Gives each accepted connection to `handle`, one after the other, until `connections` are over.
pub(super) fn serve(
    listener: &Listener,
    connections: Option<u64>,
    nodelay: bool,
    mut handle: impl FnMut(Stream) -> Result<()>,
) -> Result<()> {
    let mut left = connections;
    while left != Some(0) {
        let stream = listener.accept().action(|| "accept a connection")?;
        left = left.map(|left| left - 1);
        stream.set_nodelay(nodelay)?;
        if let Err(error) = handle(stream) {
            // The next client is not to blame for this one.
            eprintln!("cwasi-native: {error}");
        }
    }
    Ok(())
}

/// Connects to a server that listens already.
pub(super) fn connect(address: &Address, nodelay: bool) -> Result<Stream> {
    Ok(Stream::connect(address, nodelay, Duration::ZERO)?)
}

/// Runs `handle` on a thread of its own, so that one connection never waits for another.
pub(super) fn in_background(handle: impl FnOnce() -> Result<()> + Send + 'static) {
    thread::spawn(move || {
        if let Err(error) = handle() {
            eprintln!("cwasi-native: {error}");
        }
    });
}
