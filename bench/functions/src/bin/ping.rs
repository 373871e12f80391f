//! A client of `echo` that measures round-trip times.

use cwasi_functions::args::Args;
use cwasi_functions::error::{Context, exit};
use cwasi_functions::pattern::Pattern;
use cwasi_functions::stats::Summary;
use cwasi_functions::{Error, Result, net, report};
use serde::Serialize;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Sends messages to an echo server, checks every echo and prints the round-trip times as one JSON line.

Usage: ping ADDR:PORT --size BYTES --count N [--warmup N] [--nodelay]

  --size BYTES   bytes of each message
  --count N      messages to measure
  --warmup N     messages before them that are not measured (default 0)
  --nodelay      set TCP_NODELAY (a component's host decides: wasi:sockets 0.2 has no such option)";

/// A message is sent in pieces of this size, of which at most two are on their way. Neither side then waits in a write
/// for the other one to read: a client without threads could not read its echo meanwhile.
const PIECE: usize = 64 * 1024;

#[derive(Debug, Serialize)]
struct Report {
    size: usize,
    count: usize,
    #[serde(flatten)]
    times: Summary,
}

fn main() -> ExitCode {
    exit("ping", run)
}

fn run() -> Result<()> {
    let Some(mut args) = Args::from_env(USAGE, &["nodelay"])? else {
        return Ok(());
    };
    let address: String = args.positional("ADDR:PORT")?;
    let size: usize = args.required("size")?;
    let count: usize = args.required("count")?;
    let warmup: usize = args.optional("warmup")?.unwrap_or(0);
    let nodelay = args.flag("nodelay");
    args.finish()?;
    if size == 0 || count == 0 {
        return Err(Error::Usage("--size and --count must be at least 1".into()));
    }

    let mut stream = net::connect(&address, nodelay)?;
    let mut message = vec![0; size];
    let mut echo = vec![0; size];
    let mut pattern = Pattern::new(size as u64);
    let mut times = Vec::with_capacity(count);
    for round in 0..warmup + count {
        // Other bytes every time: a late or doubled echo cannot pass for the right one.
        pattern.fill(&mut message);
        let time = round_trip(&mut stream, &message, &mut echo)?;
        if let Some(at) = message
            .iter()
            .zip(&echo)
            .position(|(sent, received)| sent != received)
        {
            return Err(Error::Data(format!(
                "message {round} came back with another byte {at}"
            )));
        }
        if round >= warmup {
            times.push(time);
        }
    }
    let times = Summary::of(&mut times).expect("count is at least 1");
    report::print(&Report { size, count, times })
}

/// Sends a message and receives as many bytes into `echo`.
fn round_trip(stream: &mut TcpStream, message: &[u8], echo: &mut [u8]) -> Result<Duration> {
    let start = Instant::now();
    let mut echoes = echo.chunks_mut(PIECE);
    for (index, piece) in message.chunks(PIECE).enumerate() {
        stream.write_all(piece).context(|| "cannot send".into())?;
        if index > 0 {
            receive(stream, echoes.next())?;
        }
    }
    receive(stream, echoes.next())?;
    Ok(start.elapsed())
}

fn receive(stream: &mut TcpStream, piece: Option<&mut [u8]>) -> Result<()> {
    let piece = piece.expect("as many pieces come back as were sent");
    stream
        .read_exact(piece)
        .context(|| "cannot receive the echo".into())
}
