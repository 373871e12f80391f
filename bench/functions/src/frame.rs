//! Length-prefixed frames: a little-endian `u32` length, then that many bytes.

use crate::error::Context;
use crate::{Error, Result};
use std::io::{ErrorKind, Read, Write};

/// The longest frame that is sent or accepted: a larger length is taken for garbage, not for memory to allocate.
pub const MAX: usize = 64 << 20;

/// Writes one frame.
///
/// # Errors
/// [`Error::Data`] when it is longer than [`MAX`], [`Error::Io`] when writing fails.
pub fn write(stream: &mut impl Write, payload: &[u8]) -> Result<()> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX);
    let length =
        length.ok_or_else(|| Error::Data(format!("a frame of {} bytes is too long", payload.len())))?;
    let result = stream
        .write_all(&length.to_le_bytes())
        .and_then(|()| stream.write_all(payload));
    result.context(|| "cannot send a frame".into())
}

/// Reads one frame; `None` when the peer ended the stream between two frames.
///
/// # Errors
/// [`Error::Data`] for a length over [`MAX`] or an end within a frame, [`Error::Io`] when reading fails.
pub fn read(stream: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match fill(stream, &mut length)? {
        0 => return Ok(None),
        4 => {}
        read => {
            return Err(Error::Data(format!(
                "the stream ended in a frame's length, {read} bytes of 4"
            )));
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX {
        return Err(Error::Data(format!(
            "a frame of {length} bytes is announced, at most {MAX} are allowed"
        )));
    }
    let mut payload = vec![0; length];
    let read = fill(stream, &mut payload)?;
    if read < length {
        return Err(Error::Data(format!(
            "the stream ended in a frame, {read} bytes of {length}"
        )));
    }
    Ok(Some(payload))
}

/// Sends a frame and waits for the text frame that answers it.
///
/// # Errors
/// As [`write()`] and [`read`], and [`Error::Data`] when the peer ends the stream instead or answers other than text.
pub fn request(stream: &mut (impl Read + Write), payload: &[u8]) -> Result<String> {
    write(stream, payload)?;
    let answer = read(stream)?.ok_or_else(|| Error::Data("the stream ended before the answer".into()))?;
    String::from_utf8(answer).map_err(|_| Error::Data("the answer is not text".into()))
}

/// Reads until the buffer is full or the stream ends and returns how much was read.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(|| "cannot receive a frame".into()),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Hands out at most `step` bytes a read, as a socket may.
    struct Slow<'a> {
        rest: &'a [u8],
        step: usize,
    }

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let len = self.step.min(buffer.len());
            self.rest.read(&mut buffer[..len])
        }
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(frames: Vec<Vec<u8>>, step in 1usize..9) {
            let mut wire = Vec::new();
            for frame in &frames {
                write(&mut wire, frame).unwrap();
            }
            let mut slow = Slow { rest: &wire, step };
            for frame in &frames {
                let read = read(&mut slow).unwrap();
                prop_assert_eq!(read.as_ref(), Some(frame));
            }
            prop_assert!(read(&mut slow).unwrap().is_none());
        }

        #[test]
        fn a_cut_frame_is_an_error(frame in proptest::collection::vec(any::<u8>(), 0..50), cut: usize) {
            let mut wire = Vec::new();
            write(&mut wire, &frame).unwrap();
            let cut = 1 + cut % wire.len();
            let short = &wire[..wire.len() - cut];
            let result = read(&mut &short[..]);
            if short.is_empty() {
                prop_assert!(result.unwrap().is_none());
            } else {
                prop_assert!(matches!(result, Err(Error::Data(_))));
            }
        }
    }

    #[test]
    fn absurd_lengths_are_refused_without_allocating() {
        assert!(matches!(read(&mut &[255_u8; 8][..]), Err(Error::Data(_))));
        assert!(matches!(
            write(&mut std::io::sink(), &vec![0; MAX + 1]),
            Err(Error::Data(_))
        ));
    }
}
