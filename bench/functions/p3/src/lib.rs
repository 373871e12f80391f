//! An echo and its client over the sockets of WASI 0.3, and what else a host of 0.3 is asked for: standard streams, exit codes.

mod address;
mod echo;
mod stdio;

use std::env;
use std::net::SocketAddr;
use std::str::FromStr;

const USAGE: &str = "\
Sockets of WASI 0.3.

Usage: echo-p3 serve ADDR:PORT [--connections N] [--through]
       echo-p3 client ADDR:PORT --bytes N
       echo-p3 copy
       echo-p3 exit CODE
       echo-p3 spin

  serve    send back every byte of each connection until its end, one connection after the other
           --connections N   exit after N connections (default: serve for ever)
           --through         give each connection's incoming stream back to it, without reading it
  client   send N bytes to an echo, end writing, compare what comes back until its end, and print the count
  copy     copy standard input to standard output
  exit     end with this code
  spin     print `started`, and compute without end";

wasip3::cli::command::export!(Function);

struct Function;

impl wasip3::exports::cli::run::Guest for Function {
    async fn run() -> Result<(), ()> {
        let words: Vec<String> = env::args().skip(1).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        run(&words).await.map_err(|error| eprintln!("echo-p3: {error}"))
    }
}

async fn run(words: &[&str]) -> Result<(), String> {
    match words {
        ["--help"] => {
            println!("{USAGE}");
            Ok(())
        }
        ["serve", address, options @ ..] => {
            let address = parse(address)?;
            let (mut connections, mut through) = (None, false);
            let mut options = options.iter();
            while let Some(option) = options.next() {
                match *option {
                    "--connections" => {
                        connections = Some(parse(options.next().ok_or("--connections needs a value")?)?);
                    }
                    "--through" => through = true,
                    other => return Err(format!("unknown option {other}")),
                }
            }
            echo::serve(address, connections, through).await
        }
        ["client", address, "--bytes", bytes] => echo::call(parse(address)?, parse(bytes)?).await,
        ["copy"] => stdio::copy().await,
        ["exit", code] => {
            wasip3::cli::exit::exit_with_code(parse(code)?);
            Ok(())
        }
        ["spin"] => {
            println!("started");
            loop {
                std::hint::black_box(());
            }
        }
        _ => Err(USAGE.to_owned()),
    }
}

fn parse<T: FromStr>(word: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    word.parse()
        .map_err(|error| format!("not a value of its kind: {word}: {error}"))
}

/// What failed, on what.
fn failed<E: std::fmt::Debug>(what: &str, address: SocketAddr) -> impl Fn(E) -> String {
    move |error| format!("cannot {what} {address}: {error:?}")
}
