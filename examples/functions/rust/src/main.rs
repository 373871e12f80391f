//! Sends back every byte of each connection, one connection after the other.

use std::env;
use std::io::{Read, Result, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> Result<()> {
    let address = env::args().nth(1).expect("usage: echo ADDR:PORT");
    let listener = TcpListener::bind(&address)?;
    eprintln!("listening on {address}");
    loop {
        let (connection, peer) = listener.accept()?;
        if let Err(error) = echo(connection) {
            eprintln!("{peer}: {error}");
        }
    }
}

fn echo(mut connection: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match connection.read(&mut buffer)? {
            0 => return Ok(()),
            length => connection.write_all(&buffer[..length])?,
        }
    }
}
