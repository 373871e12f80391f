//! The part of HTTP/1.1 that a request with a body and its answer need: heads with a Content-Length.

use crate::error::Context;
use crate::{Error, Result};
use std::io::{BufRead, Read};

/// The longest head that is accepted.
const MAX_HEAD: u64 = 16 * 1024;

/// The beginning of a request or an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its first line.
    pub start: String,
    /// Bytes of the body that follows.
    pub content_length: u64,
}

/// Reads a head; `None` when the peer closed the connection instead.
///
/// # Errors
/// [`Error::Data`] when it ends early, is longer than 16 KiB, or does not say how long its body is; [`Error::Io`] when reading
/// fails.
pub fn head(reader: &mut impl BufRead) -> Result<Option<Head>> {
    let mut lines = reader.by_ref().take(MAX_HEAD);
    let Some(start) = line(&mut lines)? else {
        return Ok(None);
    };
    let mut content_length = None;
    loop {
        let field = line(&mut lines)?
            .ok_or_else(|| Error::Data("a head of HTTP ends early, or is longer than 16 KiB".into()))?;
        if field.is_empty() {
            break;
        }
        if let Some((name, value)) = field.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            content_length = value.trim().parse().ok();
        }
    }
    let content_length =
        content_length.ok_or_else(|| Error::Data(format!("no Content-Length after `{start}`")))?;
    Ok(Some(Head {
        start,
        content_length,
    }))
}

fn line(reader: &mut impl BufRead) -> Result<Option<String>> {
    let mut line = String::new();
    reader
        .read_line(&mut line)
        .context(|| "cannot receive a head of HTTP".into())?;
    if line.is_empty() {
        return Ok(None);
    }
    match line.strip_suffix("\r\n") {
        Some(whole) => Ok(Some(whole.to_owned())),
        None => Err(Error::Data("a head of HTTP ends within a line".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_say_how_long_their_body_is() {
        let wire = b"POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 3\r\n\r\nabcGET";
        let mut reader = &wire[..];
        let read = head(&mut reader).unwrap().unwrap();
        assert_eq!((read.start.as_str(), read.content_length), ("POST / HTTP/1.1", 3));
        assert_eq!(reader, b"abcGET");
        assert_eq!(head(&mut &b""[..]).unwrap(), None);
    }

    #[test]
    fn cut_endless_and_chunked_heads_are_refused() {
        for (wire, says) in [
            (&b"HTTP/1.1 200 OK\r\nHost"[..], "within a line"),
            (b"HTTP/1.1 200 OK\r\n", "ends early"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "no Content-Length",
            ),
            (&[b'x'; 20_000], "within a line"),
        ] {
            let error = head(&mut &wire[..]).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
