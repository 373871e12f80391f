//! Requests and answers: over one connection or many, to one server or several.

use cwasi_functions::args::Args;
use cwasi_functions::error::exit;
use cwasi_functions::{Error, Result, report};
use cwasi_peer::client::Client;
use cwasi_peer::server::{self, Server};
use cwasi_peer::socket::{Address, Listener};
use std::process::ExitCode;

const USAGE: &str = "\
Sends requests, each answered when all of it has arrived, and prints the times as one JSON line. Requests have numbers, which
both ends check.

Usage: rr serve ADDR:PORT [--connections N] [--together N] [--report] [--verify] [--nodelay]
       rr client ADDR:PORT... --size BYTES --count N [--answer BYTES] [--warmup N] [--connections N]
                              [--rounds] [--fresh] [--verify] [--nodelay]

  --connections N   server: exit after N connections (default: serve for ever)
                    client: connections to each server, with one request on its way on each (default 1)
  --together N      read nothing before N connections are there
  --report          print what was served, as one JSON line, whenever no connection is open any more
  --size BYTES      bytes of each request
  --answer BYTES    bytes of each answer, at most those of its request (default 1)
  --count N         requests to measure, on each connection
  --warmup N        requests before them that are not measured (default 0)
  --rounds          send the next requests when all answers are there, and measure these rounds too
  --fresh           a new connection for each request
  --verify          compare every byte: for a run whose speed is not of interest
  --nodelay         set TCP_NODELAY (a component's host decides: wasi:sockets 0.2 has no such option)";

fn main() -> ExitCode {
    exit("rr", run)
}

fn run() -> Result<()> {
    let Some(mut args) = Args::from_env(USAGE, &["report", "rounds", "fresh", "verify", "nodelay"])? else {
        return Ok(());
    };
    match args.positional::<String>("`serve` or `client`")?.as_str() {
        "serve" => serve(args),
        "client" => client(args),
        other => Err(Error::Usage(format!("`{other}` is neither `serve` nor `client`"))),
    }
}

fn serve(mut args: Args) -> Result<()> {
    let address: Address = args.positional("ADDR:PORT")?;
    let server = Server {
        connections: args.optional("connections")?,
        together: args.optional("together")?.unwrap_or(1),
        nodelay: args.flag("nodelay"),
        verify: args.flag("verify"),
    };
    let reports = args.flag("report");
    args.finish()?;
    let listener = Listener::bind(&address)?;
    eprintln!("listening on {}", listener.local());
    let (mut served, mut failed) = (0, 0);
    server::serve(
        &listener,
        server,
        |batch| {
            served += batch.connections;
            failed += batch.failed;
            if reports { report::print(batch) } else { Ok(()) }
        },
        |error| eprintln!("{error}"),
    )?;
    match failed {
        0 => Ok(()),
        _ => Err(Error::Connections { failed, served }),
    }
}

fn client(mut args: Args) -> Result<()> {
    let client = Client {
        servers: args.rest("ADDR:PORT")?,
        connections: args.optional("connections")?.unwrap_or(1),
        size: args.required("size")?,
        answer: args.optional("answer")?.unwrap_or(1),
        count: args.required("count")?,
        warmup: args.optional("warmup")?.unwrap_or(0),
        rounds: args.flag("rounds"),
        fresh: args.flag("fresh"),
        nodelay: args.flag("nodelay"),
        verify: args.flag("verify"),
    };
    args.finish()?;
    client.check().map_err(|error| Error::Usage(error.to_string()))?;
    report::print(&client.run()?)
}
