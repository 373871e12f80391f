//! Errors as WASI names them.

use std::io;

use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::sockets;

/// What WASI calls an error of a socket's call.
pub(super) fn code(error: impl Into<io::Error>) -> ErrorCode {
    // The same two steps as the stock host takes, so that both answer alike.
    sockets::ErrorCode::from(error.into()).into()
}
