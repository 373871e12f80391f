//! Bytes in one direction, counted by the receiver.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::net::{self, Stream};
use super::pattern::Pattern;
use crate::error::IoContext;
use crate::{Error, Result};

/// Bytes of one read of the sink.
const READ: usize = 256 << 10;

/// What a source measured; the fields of the guest of the same name but its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Streamed {
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

/// Receives streams and tells the length of each back, or 0 for one with a wrong byte.
pub(super) fn sink(address: SocketAddr, connections: Option<u64>, verify: bool) -> Result<()> {
    let pattern = verify.then(|| Pattern::new(READ));
    let mut buffer = vec![0; READ];
    let listener = net::listen(address)?;
    net::serve(&listener, connections, false, |stream| {
        receive(stream, &mut buffer, pattern.as_ref())
    })
}

fn receive(mut stream: Stream, buffer: &mut [u8], pattern: Option<&Pattern>) -> Result<()> {
    let mut received = 0;
    let mut right = true;
    loop {
        let read = stream.read(buffer).action(|| "read a stream")?;
        if read == 0 {
            break;
        }
        right &= pattern.is_none_or(|pattern| pattern.piece(received, read) == &buffer[..read]);
        received += read as u64;
    }
    let told = if right { received } else { 0 };
    stream
        .write_all(&told.to_le_bytes())
        .action(|| "tell the stream's length")
}

pub(super) fn source(address: SocketAddr, size: usize, bytes: u64, nodelay: bool) -> Result<Streamed> {
    let pattern = Pattern::new(size);
    let mut stream = net::connect(address, nodelay)?;
    let start = Instant::now();
    let mut sent = 0;
    while sent < bytes {
        let length = usize::try_from(bytes - sent).unwrap_or(usize::MAX).min(size);
        stream
            .write_all(pattern.piece(sent, length))
            .action(|| format!("send after {sent} bytes"))?;
        sent += length as u64;
    }
    stream.shutdown_write().action(|| "end the stream")?;
    let mut told = [0; 8];
    stream.read_exact(&mut told).action(|| "read the sink's answer")?;
    let seconds = start.elapsed().as_secs_f64();
    match u64::from_le_bytes(told) {
        received if received == bytes => Ok(Streamed {
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

    use super::*;

    #[test]
    fn streams_are_counted_and_verified() {
        let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let pattern = Pattern::new(READ);
            let mut buffer = vec![0; READ];
            net::serve(&listener, Some(2), false, |stream| {
                receive(stream, &mut buffer, Some(&pattern))
            })
        });
        let streamed = source(address, 1000, 1_000_001, true).unwrap();
        assert_eq!((streamed.bytes, streamed.ok), (1_000_001, true));

        let mut stream = net::connect(address, false).unwrap();
        stream.write_all(&[0; 100]).unwrap();
        stream.shutdown_write().unwrap();
        let mut told = [1; 8];
        stream.read_exact(&mut told).unwrap();
        assert_eq!(told, [0; 8], "wrong bytes are not counted");
        server.join().unwrap().unwrap();
    }
}
