//! A server that sends back every byte it receives.

use cwasi_functions::args::Args;
use cwasi_functions::error::{Context, exit};
use cwasi_functions::{Result, net};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

const USAGE: &str = "\
Sends back every byte of each connection until its end, one connection after the other.

Usage: echo ADDR:PORT [--connections N]

  --connections N   exit after N connections (default: serve for ever)";

/// `ping` keeps at most twice this in flight: see there.
const BUFFER_BYTES: usize = 64 * 1024;

fn main() -> ExitCode {
    exit("echo", run)
}

fn run() -> Result<()> {
    let Some(mut args) = Args::from_env(USAGE, &[])? else {
        return Ok(());
    };
    let address: String = args.positional("ADDR:PORT")?;
    let connections = args.optional("connections")?;
    args.finish()?;
    let mut buffer = vec![0; BUFFER_BYTES];
    net::serve(&net::listen(&address)?, connections, |stream| {
        echo(stream, &mut buffer)
    })
}

fn echo(mut stream: TcpStream, buffer: &mut [u8]) -> Result<()> {
    // An answer must not wait for the acknowledgement of the one before.
    stream
        .set_nodelay(true)
        .context(|| "cannot set TCP_NODELAY".into())?;
    loop {
        let read = stream.read(buffer).context(|| "cannot receive".into())?;
        if read == 0 {
            return Ok(());
        }
        stream
            .write_all(&buffer[..read])
            .context(|| "cannot send".into())?;
    }
}
