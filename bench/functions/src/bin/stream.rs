//! A one-way stream at full speed, with a checksum over every byte.

use cwasi_functions::args::Args;
use cwasi_functions::error::exit;
use cwasi_functions::transfer::{self, Header, Report};
use cwasi_functions::{Error, Result, net, report};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

const USAGE: &str = "\
Streams pseudo-random bytes one way and checks every one of them; both ends print a JSON line.

Usage: stream sink ADDR:PORT [--connections N]
       stream source ADDR:PORT --size WRITE_BYTES --bytes TOTAL [--nodelay]

  --connections N      exit after N connections (default: serve for ever)
  --size WRITE_BYTES   bytes of each write
  --bytes TOTAL        bytes to send
  --nodelay            set TCP_NODELAY (a component's host decides: wasi:sockets 0.2 has no such option)";

fn main() -> ExitCode {
    exit("stream", run)
}

fn run() -> Result<()> {
    let Some(mut args) = Args::from_env(USAGE, &["nodelay"])? else {
        return Ok(());
    };
    match args.positional::<String>("`sink` or `source`")?.as_str() {
        "sink" => sink(args),
        "source" => source(args),
        other => Err(Error::Usage(format!("`{other}` is neither `sink` nor `source`"))),
    }
}

fn sink(mut args: Args) -> Result<()> {
    let address: String = args.positional("ADDR:PORT")?;
    let connections = args.optional("connections")?;
    args.finish()?;
    net::serve(&net::listen(&address)?, connections, |mut stream| {
        finish(&transfer::receive(&mut stream)?)
    })
}

fn source(mut args: Args) -> Result<()> {
    let address: String = args.positional("ADDR:PORT")?;
    let size: u64 = args.required("size")?;
    let total = args.required("bytes")?;
    let nodelay = args.flag("nodelay");
    args.finish()?;
    if size == 0 {
        return Err(Error::Usage("--size must be at least 1".into()));
    }
    let mut stream = net::connect(&address, nodelay)?;
    finish(&transfer::send(
        &mut stream,
        Header {
            total,
            seed: seed(),
            size,
        },
    )?)
}

/// Another stream every time, so that bytes left over from an earlier one cannot pass.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() << 30 | u64::from(now.subsec_nanos())
}

fn finish(result: &Report) -> Result<()> {
    report::print(result)?;
    if result.ok {
        Ok(())
    } else {
        Err(Error::Data("the two ends have other bytes".into()))
    }
}
