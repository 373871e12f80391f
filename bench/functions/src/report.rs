//! Results: one JSON line on stdout.

use crate::Result;
use crate::error::Context;
use serde::Serialize;
use std::io::{Write, stdout};

/// Prints a result as one JSON line.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) when stdout is closed.
pub fn print(result: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(result).expect("results are structs of numbers and strings");
    line.push(b'\n');
    stdout()
        .write_all(&line)
        .context(|| "cannot print the result".into())
}
