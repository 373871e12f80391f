//! The command line of `cwasi-native`.

use std::io::{self, Write};

use clap::{Parser, Subcommand};
use cwasi_peer::bulk::{self, Sink};
use cwasi_peer::socket::Address;
use serde::Serialize;

use super::{connect, echo, file, net, ping, rr};
use crate::error::IoContext;
use crate::{Error, Result};

/// Native peers of the Wasm guests, for A/B figures.
#[derive(Debug, Parser)]
#[command(name = "cwasi-native", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send back each message of SIZE bytes
    Echo(Server),
    /// Measure round trips to an echo server
    Ping {
        #[command(flatten)]
        client: Client,
        /// Round trips that are not measured
        #[arg(long, default_value_t = 0)]
        warmup: u64,
    },
    /// Requests and answers, on one connection or many, with one server or several
    Rr {
        #[command(subcommand)]
        end: RrEnd,
    },
    /// Move bytes in one direction
    #[command(visible_alias = "stream")]
    Bulk {
        #[command(subcommand)]
        end: BulkEnd,
    },
    /// Answer one request of SIZE bytes a connection, then close it
    Serve(Server),
    /// Measure connections per second, one request each
    ConnectRate(Client),
    /// Send a file of SIZE bytes by sendfile(2) for each request
    ServeFile(Server),
    /// Measure how fast a served file arrives
    Fetch {
        #[command(flatten)]
        client: Client,
        /// Compare every byte: for a run whose speed is not of interest
        #[arg(long)]
        verify: bool,
    },
}

#[derive(Debug, Subcommand)]
enum RrEnd {
    /// Answer each request when all of it has arrived
    Serve(rr::Serve),
    /// Send requests and measure until their answers are there
    Client(rr::Call),
}

#[derive(Debug, Subcommand)]
enum BulkEnd {
    /// Receive streams, tell their length back
    Sink {
        /// Where to listen
        #[arg(value_name = "ADDRESS")]
        address: Address,
        /// End after this many connections
        #[arg(long)]
        connections: Option<u64>,
        /// Compare every byte: for a run whose speed is not of interest
        #[arg(long)]
        verify: bool,
    },
    /// Send a stream and measure until the sink has all of it
    Source {
        /// Where the sink listens
        #[arg(value_name = "ADDRESS")]
        address: Address,
        /// Bytes of each write
        #[arg(long, value_parser = positive)]
        size: usize,
        /// Bytes in all
        #[arg(long)]
        bytes: u64,
        /// Set `TCP_NODELAY`
        #[arg(long)]
        nodelay: bool,
    },
}

/// Options of servers.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// Where to listen
    #[arg(value_name = "ADDRESS")]
    pub(super) address: Address,
    /// Bytes of a message
    #[arg(long, default_value = "64", value_parser = positive)]
    pub(super) size: usize,
    /// End after this many connections
    #[arg(long)]
    pub(super) connections: Option<u64>,
    /// Set `TCP_NODELAY`
    #[arg(long)]
    pub(super) nodelay: bool,
}

/// Options of clients.
#[derive(Debug, clap::Args)]
pub(super) struct Client {
    /// Where the server listens
    #[arg(value_name = "ADDRESS")]
    pub(super) address: Address,
    /// Bytes of a message; the server's --size
    #[arg(long, default_value = "64", value_parser = positive)]
    pub(super) size: usize,
    /// Messages or connections
    #[arg(long)]
    pub(super) count: u64,
    /// Set `TCP_NODELAY`
    #[arg(long)]
    pub(super) nodelay: bool,
}

pub(super) fn positive(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must not be 0".to_owned()),
        Ok(value) => Ok(value),
        Err(error) => Err(format!("{error}")),
    }
}

impl Args {
    /// Runs the chosen peer.
    ///
    /// # Errors
    /// A socket call fails, or the peer sends what it should not.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Echo(server) => echo::serve(&server),
            Command::Ping { client, warmup } => print(&ping::run(&client, warmup)?),
            Command::Rr { end } => match end {
                RrEnd::Serve(options) => rr::serve(&options),
                RrEnd::Client(options) => rr::call(options),
            },
            Command::Bulk { end } => match end {
                BulkEnd::Sink {
                    address,
                    connections,
                    verify,
                } => {
                    let listener = net::listen(&address)?;
                    let complain = |error: &_| eprintln!("cwasi-native: {error}");
                    Ok(Sink::new(verify).serve(&listener, connections, complain)?)
                }
                BulkEnd::Source {
                    address,
                    size,
                    bytes,
                    nodelay,
                } => print(&bulk::send(&address, size, bytes, nodelay)?),
            },
            Command::Serve(server) => connect::serve(&server),
            Command::ConnectRate(client) => print(&connect::run(&client)?),
            Command::ServeFile(server) => file::serve(&server),
            Command::Fetch { client, verify } => print(&file::fetch(&client, verify)?),
        }
    }
}

pub(super) fn print(result: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(result).map_err(|error| Error::Output {
        program: "cwasi-native".to_owned(),
        detail: error.to_string(),
    })?;
    line.push(b'\n');
    io::stdout().write_all(&line).action(|| "print the result")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
        assert!(Args::try_parse_from(["cwasi-native", "echo", "127.0.0.1:1", "--size", "0"]).is_err());
    }
}
