//! The command lines of `rr`, which are those of the guest.

use cwasi_peer::client::Client;
use cwasi_peer::server::{self, Server};
use cwasi_peer::socket::Address;

use super::args::{positive, print};
use super::net;
use crate::{Error, Result};

/// Options of `rr serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Where to listen
    #[arg(value_name = "ADDRESS")]
    address: Address,
    /// End after this many connections
    #[arg(long)]
    connections: Option<u64>,
    /// Read nothing before so many connections are there
    #[arg(long, default_value = "1", value_parser = positive)]
    together: usize,
    /// Print what was served whenever no connection is open any more
    #[arg(long)]
    report: bool,
    /// Compare every byte: for a run whose speed is not of interest
    #[arg(long)]
    verify: bool,
    /// Set `TCP_NODELAY`
    #[arg(long)]
    nodelay: bool,
}

/// Options of `rr client`.
#[derive(Debug, clap::Args)]
pub(super) struct Call {
    /// Where the servers listen
    #[arg(required = true, value_name = "ADDRESS")]
    servers: Vec<Address>,
    /// Bytes of a request
    #[arg(long, value_parser = positive)]
    size: usize,
    /// Bytes of an answer, at most those of its request
    #[arg(long, default_value = "1", value_parser = positive)]
    answer: usize,
    /// Requests to measure, on each connection
    #[arg(long)]
    count: u64,
    /// Requests before them
    #[arg(long, default_value_t = 0)]
    warmup: u64,
    /// Connections to each server
    #[arg(long, default_value = "1", value_parser = positive)]
    connections: usize,
    /// Send the next requests when all answers are there, and measure these rounds too
    #[arg(long)]
    rounds: bool,
    /// A new connection for each request
    #[arg(long)]
    fresh: bool,
    /// Compare every byte: for a run whose speed is not of interest
    #[arg(long)]
    verify: bool,
    /// Set `TCP_NODELAY`
    #[arg(long)]
    nodelay: bool,
}

pub(super) fn serve(options: &Serve) -> Result<()> {
    let listener = net::listen(&options.address)?;
    let server = Server {
        connections: options.connections,
        together: options.together,
        nodelay: options.nodelay,
        verify: options.verify,
    };
    let mut failed = 0;
    server::serve(
        &listener,
        server,
        |served| {
            failed += served.failed;
            if options.report { print(served) } else { Ok(()) }
        },
        |error| eprintln!("cwasi-native: {error}"),
    )?;
    match failed {
        0 => Ok(()),
        _ => Err(Error::Data(format!("{failed} connections failed"))),
    }
}

pub(super) fn call(options: Call) -> Result<()> {
    let client = Client {
        servers: options.servers,
        connections: options.connections,
        size: options.size,
        answer: options.answer,
        count: options.count,
        warmup: options.warmup,
        rounds: options.rounds,
        fresh: options.fresh,
        nodelay: options.nodelay,
        verify: options.verify,
    };
    print(&client.run()?)
}
