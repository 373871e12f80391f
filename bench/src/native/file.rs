//! Files by sendfile(2).

use std::fs::File;
use std::io::{Read, Write};
use std::time::Instant;

use cwasi_peer::cycle::Cycle;
use cwasi_peer::socket::{PollFlags, Stream};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use serde::{Deserialize, Serialize};

use super::args::{Client, Server};
use super::net;
use crate::error::IoContext;
use crate::{Error, Result};

/// A request for the file.
const REQUEST: [u8; 8] = *b"the file";

/// What a client of a file server measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fetched {
    /// Bytes of the file.
    pub size: usize,
    /// How often it was fetched, on one connection.
    pub count: u64,
    /// Time for all of them.
    pub seconds: f64,
    /// 10⁹ bytes per second.
    pub gb_per_s: f64,
    /// Every byte arrived, and is right where that is verified.
    pub ok: bool,
}

/// Sends a file of the server's `size` for each request on a connection.
pub(super) fn serve(server: &Server) -> Result<()> {
    let file = file(server.size)?;
    let listener = net::listen(&server.address)?;
    net::serve(&listener, server.connections, server.nodelay, |stream| {
        let (file, size) = (file.try_clone().action(|| "duplicate the file")?, server.size);
        net::in_background(move || answer(stream, &file, size));
        Ok(())
    })
}

/// A file in memory: no disk is measured.
fn file(size: usize) -> Result<File> {
    let descriptor =
        memfd_create(c"cwasi-native", MFdFlags::MFD_CLOEXEC).action(|| "create a file (memfd_create)")?;
    let mut file = File::from(descriptor);
    file.write_all(Cycle::new(size).piece(0, size))
        .action(|| "fill the file")?;
    Ok(file)
}

fn answer(mut stream: Stream, file: &File, size: usize) -> Result<()> {
    let mut request = REQUEST;
    while stream.read_message(&mut request).action(|| "read a request")? {
        let mut offset = 0;
        let mut left = size;
        while left > 0 {
            let sent = stream.until_done(PollFlags::OUT, || {
                Ok(sendfile(&stream, file, Some(&mut offset), left)?)
            });
            left -= match sent.action(|| "sendfile")? {
                0 => return Err(Error::Data("the file is shorter than it was".to_owned())),
                sent => sent,
            };
        }
    }
    Ok(())
}

pub(super) fn fetch(client: &Client, verify: bool) -> Result<Fetched> {
    let size = client.size;
    let mut buffer = vec![0; size];
    let cycle = verify.then(|| Cycle::new(size));
    let mut stream = net::connect(&client.address, client.nodelay)?;
    let start = Instant::now();
    for number in 0..client.count {
        stream.write_all(&REQUEST).action(|| "send a request")?;
        stream.read_exact(&mut buffer).action(|| "read the file")?;
        if cycle.as_ref().is_some_and(|cycle| cycle.piece(0, size) != buffer) {
            return Err(Error::Data(format!("a byte of file {number} is wrong")));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Fetched {
        size,
        count: client.count,
        seconds,
        gb_per_s: client.count as f64 * size as f64 / seconds / 1e9,
        ok: true,
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn files_arrive_whole() {
        let listener = net::listen(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local().clone();
        let size = 300_001;
        let server = thread::spawn(move || {
            let file = file(size).unwrap();
            net::serve(&listener, Some(1), false, |stream| answer(stream, &file, size))
        });
        let client = Client {
            address,
            size,
            count: 3,
            nodelay: false,
        };
        let fetched = fetch(&client, true).unwrap();
        assert_eq!((fetched.size, fetched.count, fetched.ok), (size, 3, true));
        server.join().unwrap().unwrap();
    }
}
