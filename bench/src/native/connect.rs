//! Connections of one request each.

use std::io::Write;
use std::time::Instant;

use cwasi_peer::socket::Address;
use serde::{Deserialize, Serialize};

use super::args::{Client, Server};
use super::net;
use crate::error::IoContext;
use crate::{Error, Result};

/// What a client of one-request connections measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes of a request and of its answer.
    pub size: usize,
    /// Connections made, one after the other.
    pub count: u64,
    /// Time for all of them.
    pub seconds: f64,
    /// Connections per second, from connect to the server's end of stream.
    pub per_second: f64,
}

/// Answers one request on each connection and closes it first, so that the client's ports never wait in TIME_WAIT.
pub(super) fn serve(server: &Server) -> Result<()> {
    let mut message = vec![0; server.size];
    let listener = net::listen(&server.address)?;
    net::serve(&listener, server.connections, server.nodelay, |mut stream| {
        if stream.read_message(&mut message).action(|| "read a request")? {
            stream.write_all(&message).action(|| "answer")?;
        }
        Ok(())
    })
}

pub(super) fn run(client: &Client) -> Result<Rate> {
    let request = vec![0x5a; client.size];
    let mut answer = vec![0; client.size];
    let start = Instant::now();
    for number in 0..client.count {
        request_once(&client.address, client.nodelay, &request, &mut answer)?;
        if answer != request {
            return Err(Error::Data(format!("answer {number} is altered")));
        }
        answer.fill(0);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Rate {
        size: client.size,
        count: client.count,
        seconds,
        per_second: client.count as f64 / seconds,
    })
}

fn request_once(address: &Address, nodelay: bool, request: &[u8], answer: &mut [u8]) -> Result<()> {
    let mut stream = net::connect(address, nodelay)?;
    stream.write_all(request).action(|| "send a request")?;
    let closed = |what| Error::Data(format!("the server {what}"));
    if !stream.read_message(answer).action(|| "read an answer")? {
        return Err(closed("closed without an answer"));
    }
    if stream
        .read_message(&mut [0])
        .action(|| "read the end of stream")?
    {
        return Err(closed("sent more than the answer"));
    }
    Ok(())
}
