//! A one-way stream that neither end looks at: the figure is the path's.

use cwasi_functions::args::Args;
use cwasi_functions::error::exit;
use cwasi_functions::{Error, Result, report};
use cwasi_peer::bulk::{self, Sink};
use cwasi_peer::socket::{Address, Listener};
use std::process::ExitCode;

const USAGE: &str = "\
Streams bytes one way, which the sink counts, and prints a JSON line. `stream` also checks them, at a cost that is part of its
figures.

Usage: bulk sink ADDR:PORT [--connections N] [--verify]
       bulk source ADDR:PORT --size WRITE_BYTES --bytes TOTAL [--nodelay]

  --connections N      exit after N connections (default: serve for ever)
  --verify             compare every byte: for a run whose speed is not of interest
  --size WRITE_BYTES   bytes of each write
  --bytes TOTAL        bytes to send
  --nodelay            set TCP_NODELAY (a component's host decides: wasi:sockets 0.2 has no such option)";

fn main() -> ExitCode {
    exit("bulk", run)
}

fn run() -> Result<()> {
    let Some(mut args) = Args::from_env(USAGE, &["nodelay", "verify"])? else {
        return Ok(());
    };
    match args.positional::<String>("`sink` or `source`")?.as_str() {
        "sink" => sink(args),
        "source" => source(args),
        other => Err(Error::Usage(format!("`{other}` is neither `sink` nor `source`"))),
    }
}

fn sink(mut args: Args) -> Result<()> {
    let address: Address = args.positional("ADDR:PORT")?;
    let connections = args.optional("connections")?;
    let verify = args.flag("verify");
    args.finish()?;
    let listener = Listener::bind(&address)?;
    eprintln!("listening on {}", listener.local());
    let mut failed = 0;
    Sink::new(verify).serve(&listener, connections, |error| {
        eprintln!("{error}");
        failed += 1;
    })?;
    match (failed, connections) {
        (1.., Some(served)) => Err(Error::Connections { failed, served }),
        _ => Ok(()),
    }
}

fn source(mut args: Args) -> Result<()> {
    let address: Address = args.positional("ADDR:PORT")?;
    let size: usize = args.required("size")?;
    let bytes = args.required("bytes")?;
    let nodelay = args.flag("nodelay");
    args.finish()?;
    if size == 0 {
        return Err(Error::Usage("--size must be at least 1".into()));
    }
    report::print(&bulk::send(&address, size, bytes, nodelay)?)
}
