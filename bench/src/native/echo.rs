//! Sends each message back, whole: a true ping-pong, whatever the size.

use std::io::Write;

use super::args::Server;
use super::net;
use crate::Result;
use crate::error::IoContext;

pub(super) fn serve(server: &Server) -> Result<()> {
    let mut message = vec![0; server.size];
    let listener = net::listen(&server.address)?;
    net::serve(&listener, server.connections, server.nodelay, |mut stream| {
        while stream.read_message(&mut message).action(|| "read a message")? {
            stream.write_all(&message).action(|| "send a message")?;
        }
        Ok(())
    })
}
