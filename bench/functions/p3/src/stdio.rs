//! The standard streams of WASI 0.3.

use wasip3::cli::{stdin, stdout};

/// Copies standard input to standard output.
pub async fn copy() -> Result<(), String> {
    let (input, read) = stdin::read_via_stream();
    stdout::write_via_stream(input)
        .await
        .map_err(|error| format!("cannot write: {error:?}"))?;
    read.await.map_err(|error| format!("cannot read: {error:?}"))
}
