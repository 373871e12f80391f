//! The first step of the picture workflow: sends a picture again and again and waits for each to be stored.

use cwasi_functions::args::Args;
use cwasi_functions::error::{Context, exit};
use cwasi_functions::stats::Summary;
use cwasi_functions::{Error, Result, frame, net, report};
use serde::Serialize;
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "\
Sends a picture through `resize` to `store`, waits until it is stored and prints the times as one JSON line.

Usage: source ADDR:PORT --image FILE [--count N]

  --image FILE   the picture, a JPEG file
  --count N      how often to send it (default 1)";

#[derive(Debug, Serialize)]
struct Report {
    images: usize,
    bytes: u64,
    seconds: f64,
    #[serde(flatten)]
    times: Summary,
    /// The digest of the last stored picture, as `store` answered it.
    sha256: String,
}

fn main() -> ExitCode {
    exit("source", run)
}

fn run() -> Result<()> {
    let Some(mut args) = Args::from_env(USAGE, &[])? else {
        return Ok(());
    };
    let address: String = args.positional("ADDR:PORT")?;
    let path: String = args.required("image")?;
    let count: usize = args.optional("count")?.unwrap_or(1);
    args.finish()?;
    if count == 0 {
        return Err(Error::Usage("--count must be at least 1".into()));
    }

    let image = std::fs::read(&path).context(|| format!("cannot read {path}"))?;
    let mut stream = net::connect(&address, true)?;
    let mut sha256 = String::new();
    let mut times = Vec::with_capacity(count);
    let start = Instant::now();
    for _ in 0..count {
        let sent = Instant::now();
        sha256 = frame::request(&mut stream, &image)?;
        times.push(sent.elapsed());
    }
    let seconds = start.elapsed().as_secs_f64();
    let times = Summary::of(&mut times).expect("count is at least 1");
    report::print(&Report {
        images: count,
        bytes: image.len() as u64 * count as u64,
        seconds,
        times,
        sha256,
    })
}
