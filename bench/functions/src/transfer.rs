//! The protocol of `stream`: a header, the data, its checksum, then an acknowledgement the other way.

use crate::checksum::Checksum;
use crate::error::Context;
use crate::pattern::Pattern;
use crate::{Error, Result};
use serde::Serialize;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// The sink's buffer: several times what one host call returns.
const READ_BYTES: usize = 256 * 1024;

/// What the source announces: how many bytes follow, the checksum's seed and the size of its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of data that follow.
    pub total: u64,
    /// The seed of the pattern and of the checksum.
    pub seed: u64,
    /// Bytes of each of the source's writes, the last one excepted.
    pub size: u64,
}

/// The result of one transfer, at either end.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Bytes of data that went through.
    pub bytes: u64,
    /// Bytes of each of the source's writes.
    pub size: u64,
    /// From the first byte of data to the last one at the sink, to the acknowledgement at the source.
    pub seconds: f64,
    /// `bytes / seconds`, in 10^9 bytes.
    pub gb_per_s: f64,
    /// The checksum of the data, in hexadecimal.
    pub checksum: String,
    /// Whether both ends have the same count and checksum.
    pub ok: bool,
}

impl Report {
    fn new(header: Header, checksum: &Checksum, elapsed: Duration, ok: bool) -> Self {
        let seconds = elapsed.as_secs_f64();
        Self {
            bytes: checksum.bytes(),
            size: header.size,
            seconds,
            gb_per_s: checksum.bytes() as f64 / seconds / 1e9,
            checksum: format!("{:016x}", checksum.value()),
            ok,
        }
    }
}

/// Sends `header.total` bytes in writes of `header.size` and waits for the sink's count and checksum.
///
/// # Errors
/// [`Error::Io`] when the connection fails. A mismatch is no error: the report has `ok: false`.
pub fn send(stream: &mut TcpStream, header: Header) -> Result<Report> {
    let size = usize::try_from(header.size).map_err(|error| Error::Usage(error.to_string()))?;
    let mut buffer = vec![0; size];
    let mut pattern = Pattern::new(header.seed);
    let mut checksum = Checksum::new(header.seed);
    write_words(stream, [header.total, header.seed, header.size])?;
    let start = Instant::now();
    let mut left = header.total;
    while left > 0 {
        let len = usize::try_from(left).map_or(size, |left| left.min(size));
        let piece = &mut buffer[..len];
        pattern.fill(piece);
        checksum.update(piece);
        stream
            .write_all(piece)
            .context(|| format!("cannot send, {left} of {} bytes left", header.total))?;
        left -= len as u64;
    }
    write_words(stream, [checksum.value()])?;
    stream
        .shutdown(Shutdown::Write)
        .context(|| "cannot shut down the sending side".into())?;
    let acknowledged = read_words(stream)?;
    let ok = acknowledged == [checksum.bytes(), checksum.value()];
    Ok(Report::new(header, &checksum, start.elapsed(), ok))
}

/// Receives one transfer, acknowledges it and expects the end of the stream after it.
///
/// # Errors
/// [`Error::Io`] when the connection fails, [`Error::Data`] when the stream ends early. A mismatch is no error: the
/// report has `ok: false`.
pub fn receive(stream: &mut TcpStream) -> Result<Report> {
    let [total, seed, size] = read_words(stream)?;
    let header = Header { total, seed, size };
    let start = Instant::now();
    let mut checksum = Checksum::new(seed);
    let mut buffer = vec![0; READ_BYTES];
    while checksum.bytes() < total {
        let want = usize::try_from(total - checksum.bytes()).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        let read = stream
            .read(&mut buffer[..want])
            .context(|| "cannot receive".into())?;
        if read == 0 {
            return Err(Error::Data(format!(
                "the stream ended after {} of {total} bytes",
                checksum.bytes()
            )));
        }
        checksum.update(&buffer[..read]);
    }
    let elapsed = start.elapsed();
    let [sent] = read_words(stream)?;
    let extra = stream.read(&mut buffer).context(|| "cannot receive".into())?;
    let ok = sent == checksum.value() && extra == 0;
    write_words(stream, [checksum.bytes(), checksum.value()])?;
    Ok(Report::new(header, &checksum, elapsed, ok))
}

/// One write, so that no small write waits for the acknowledgement of another (Nagle).
fn write_words<const N: usize>(stream: &mut impl Write, words: [u64; N]) -> Result<()> {
    let bytes = words.map(u64::to_le_bytes);
    stream
        .write_all(bytes.as_flattened())
        .context(|| "cannot send".into())
}

fn read_words<const N: usize>(stream: &mut impl Read) -> Result<[u64; N]> {
    let mut bytes = [[0; 8]; N];
    stream
        .read_exact(bytes.as_flattened_mut())
        .context(|| "cannot receive".into())?;
    Ok(bytes.map(u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// Runs `client` against a sink and returns both ends' results.
    fn against_sink<T>(client: impl FnOnce(&mut TcpStream) -> T) -> (T, Result<Report>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sink = thread::spawn(move || receive(&mut listener.accept().unwrap().0));
        let sent = client(&mut TcpStream::connect(address).unwrap());
        (sent, sink.join().unwrap())
    }

    #[test]
    fn both_ends_agree() {
        for (total, size) in [(0, 1), (1, 64), (1_000_003, 1009), (3 << 20, 1 << 20)] {
            let header = Header {
                total,
                seed: 11,
                size,
            };
            let (sent, received) = against_sink(|stream| send(stream, header).unwrap());
            let received = received.unwrap();
            assert!(sent.ok && received.ok, "{header:?}");
            assert_eq!((sent.bytes, received.bytes), (total, total));
            assert_eq!(sent.checksum, received.checksum);
        }
    }

    #[test]
    fn one_wrong_byte_is_found() {
        let (acknowledged, received) = against_sink(|stream| {
            let mut checksum = Checksum::new(3);
            checksum.update(&[1; 100]);
            write_words(stream, [100, 3, 100]).unwrap();
            stream.write_all(&[[1; 50], [2; 50]].concat()).unwrap();
            write_words(stream, [checksum.value()]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            read_words::<2>(stream).unwrap() == [100, checksum.value()]
        });
        assert!(!acknowledged);
        assert!(!received.unwrap().ok);
    }

    #[test]
    fn a_duplicated_byte_and_an_early_end_are_found() {
        let mut checksum = Checksum::new(3);
        checksum.update(&[1; 100]);
        let value = checksum.value();
        let ((), extra) = against_sink(|stream| {
            write_words(stream, [100, 3, 100]).unwrap();
            stream.write_all(&[1; 100]).unwrap();
            write_words(stream, [value]).unwrap();
            stream.write_all(&[1]).unwrap();
        });
        assert!(!extra.unwrap().ok);
        let ((), early) = against_sink(|stream| write_words(stream, [100, 3, 100]).unwrap());
        assert!(matches!(early, Err(Error::Data(_))), "{early:?}");
    }
}
