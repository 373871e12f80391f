//! The part of Redis' protocol (RESP 2) that a queue needs.

use crate::error::Context;
use crate::{Error, Result};
use std::io::{BufRead, Read};

/// The longest value that is accepted: Redis' own limit.
const MAX_VALUE: usize = 512 << 20;

/// Appends a command: its name and its arguments.
pub fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads the answer of a command such as LPUSH, an integer.
///
/// # Errors
/// [`Error::Data`] for any other answer, with the server's own words; [`Error::Io`] when reading fails.
pub fn integer(reader: &mut impl BufRead) -> Result<i64> {
    number(&line(reader)?, ':')
}

/// Reads the answer of BRPOP, a key and a value, and puts the value into `value`, whose memory is used again.
///
/// # Errors
/// As [`integer`].
pub fn popped(reader: &mut impl BufRead, value: &mut Vec<u8>) -> Result<()> {
    let words = line(reader)?;
    if number(&words, '*')? != 2 {
        return Err(unexpected(&words));
    }
    bulk(reader, value)?;
    bulk(reader, value)
}

fn bulk(reader: &mut impl BufRead, value: &mut Vec<u8>) -> Result<()> {
    let length = line(reader)?;
    let bytes = usize::try_from(number(&length, '$')?)
        .ok()
        .filter(|bytes| *bytes <= MAX_VALUE)
        .ok_or_else(|| unexpected(&length))?;
    value.resize(bytes, 0);
    let mut end = [0; 2];
    reader
        .read_exact(value)
        .and_then(|()| reader.read_exact(&mut end))
        .context(|| "cannot receive a value".into())?;
    match &end {
        b"\r\n" => Ok(()),
        _ => Err(Error::Data("a value is longer than it says".into())),
    }
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader
        .by_ref()
        // Longer than any line of these answers, errors included.
        .take(4096)
        .read_line(&mut line)
        .context(|| "cannot receive an answer of Redis".into())?;
    match line.strip_suffix("\r\n") {
        Some(whole) => Ok(whole.to_owned()),
        None => Err(Error::Data("Redis closed the connection".into())),
    }
}

fn number(line: &str, kind: char) -> Result<i64> {
    line.strip_prefix(kind)
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| unexpected(line))
}

fn unexpected(line: &str) -> Error {
    Error::Data(format!("Redis answers `{line}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"LPUSH", b"k", b"a\r\nb"]);
        assert_eq!(out, b"*3\r\n$5\r\nLPUSH\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n");
    }

    proptest! {
        #[test]
        fn values_come_out_as_they_went_in(key: Vec<u8>, value: Vec<u8>, old: Vec<u8>) {
            let mut wire = Vec::new();
            // The answer of BRPOP has the form of a command of two words.
            command(&mut wire, &[&key, &value]);
            wire.extend_from_slice(b":7\r\n");
            let mut reader = &wire[..];
            let mut read = old;
            popped(&mut reader, &mut read).unwrap();
            prop_assert_eq!(read, value);
            prop_assert_eq!(integer(&mut reader).unwrap(), 7);
        }
    }

    #[test]
    fn other_answers_are_told() {
        let wrong = |wire: &[u8]| {
            let mut reader = wire;
            popped(&mut reader, &mut Vec::new()).unwrap_err().to_string()
        };
        assert_eq!(
            wrong(b"-OOM command not allowed\r\n"),
            "wrong data: Redis answers `-OOM command not allowed`"
        );
        assert!(wrong(b"*-1\r\n").contains("*-1"));
        assert!(wrong(b"*2\r\n$1\r\nk\r\n$9999999999\r\n").contains("$9999999999"));
        assert!(wrong(b"*2\r\n$1\r\nk\r\n$1\r\nab\r\n").contains("longer"));
        assert!(wrong(b"").contains("closed"));
        assert!(integer(&mut &b"+OK\r\n"[..]).is_err());
    }
}
