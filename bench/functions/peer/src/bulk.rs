//! Bytes in one direction, as fast as they go, counted by the receiver.
//!
//! Neither end touches the bytes but to move them: the figure is the path's and not a checksum's.

use std::io::{Read, Write};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::client::PATIENCE;
use crate::cycle::Cycle;
use crate::error::Context;
use crate::socket::{Address, Listener, Stream};
use crate::{Error, Result};

/// Bytes of one read of the sink.
const READ: usize = 256 << 10;

/// What a source measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Bytes sent, all of which arrived.
    pub bytes: u64,
    /// Bytes of a write.
    pub size: usize,
    /// From the first write until the sink said that it had everything.
    pub seconds: f64,
    /// 10⁹ bytes per second.
    pub gb_per_s: f64,
    /// The sink's count is right, and so is each byte where it verifies.
    pub ok: bool,
}

/// Receives streams, one after the other, and tells the length of each back.
#[derive(Debug)]
pub struct Sink {
    buffer: Vec<u8>,
    expected: Option<Cycle>,
}

impl Sink {
    /// A sink that compares every byte when it is to `verify`: for a run whose speed is not of interest.
    #[must_use]
    pub fn new(verify: bool) -> Self {
        Self {
            buffer: vec![0; READ],
            expected: verify.then(|| Cycle::new(READ)),
        }
    }

    /// Serves a listener until `connections` are over, or for ever. `complain` is told why a connection failed.
    ///
    /// # Errors
    /// Accepting fails.
    pub fn serve(
        &mut self,
        listener: &Listener,
        connections: Option<u64>,
        mut complain: impl FnMut(&Error),
    ) -> Result<()> {
        let mut left = connections;
        while left != Some(0) {
            let stream = listener.accept().context(|| "accept a connection".to_owned())?;
            left = left.map(|left| left - 1);
            if let Err(error) = self.receive(stream) {
                // The next client is not to blame for this one.
                complain(&error);
            }
        }
        Ok(())
    }

    /// Tells 0 for a stream with a wrong byte.
    fn receive(&mut self, mut stream: Stream) -> Result<()> {
        let mut received = 0;
        let mut right = true;
        loop {
            let read = stream
                .read(&mut self.buffer)
                .context(|| "read a stream".to_owned())?;
            if read == 0 {
                break;
            }
            let piece = &self.buffer[..read];
            right &= self
                .expected
                .as_ref()
                .is_none_or(|expected| expected.piece(received, read) == piece);
            received += read as u64;
        }
        let told = if right { received } else { 0 };
        stream
            .write_all(&told.to_le_bytes())
            .context(|| "tell the stream's length".to_owned())
    }
}

/// Sends `bytes` in writes of `size`, the last one excepted, and measures until the sink has all of it.
///
/// # Errors
/// The connection fails, or the sink has something else.
pub fn send(server: &Address, size: usize, bytes: u64, nodelay: bool) -> Result<Sent> {
    if size == 0 {
        return Err(Error::Senseless("a write has at least 1 byte"));
    }
    let cycle = Cycle::new(size);
    let mut stream = Stream::connect(server, nodelay, PATIENCE)?;
    let start = Instant::now();
    let mut sent = 0;
    while sent < bytes {
        let length = usize::try_from(bytes - sent).unwrap_or(usize::MAX).min(size);
        stream
            .write_all(cycle.piece(sent, length))
            .context(|| format!("send after {sent} bytes"))?;
        sent += length as u64;
    }
    stream.shutdown_write().context(|| "end the stream".to_owned())?;
    let mut told = [0; 8];
    stream
        .read_exact(&mut told)
        .context(|| "read the sink's answer".to_owned())?;
    let seconds = start.elapsed().as_secs_f64();
    match u64::from_le_bytes(told) {
        received if received == bytes => Ok(Sent {
            bytes,
            size,
            seconds,
            gb_per_s: bytes as f64 / seconds / 1e9,
            ok: true,
        }),
        0 => Err(Error::Data("a byte of the stream is wrong".to_owned())),
        received => Err(Error::Data(format!(
            "{bytes} bytes were sent, {received} received"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn streams_are_counted_and_verified() {
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local().clone();
        let server = thread::spawn(move || {
            let complain = |error: &Error| panic!("{error}");
            Sink::new(true).serve(&listener, Some(2), complain).unwrap();
        });
        let sent = send(&address, 1000, 1_000_001, true).unwrap();
        assert_eq!((sent.bytes, sent.ok), (1_000_001, true));

        let mut stream = Stream::connect(&address, false, Duration::ZERO).unwrap();
        stream.write_all(&[0; 100]).unwrap();
        stream.shutdown_write().unwrap();
        let mut told = [1; 8];
        stream.read_exact(&mut told).unwrap();
        assert_eq!(told, [0; 8], "wrong bytes are not counted");
        server.join().unwrap();
        assert!(matches!(send(&address, 0, 1, true), Err(Error::Senseless(_))));
    }
}
