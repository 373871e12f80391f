//! The last step of the picture workflow: writes pictures to files.

use cwasi_functions::args::Args;
use cwasi_functions::error::{Context, exit};
use cwasi_functions::{Error, Result, frame, net, report};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
Receives pictures, writes them to DIR/image-N.jpg and answers each with its SHA-256; prints a JSON line at the end of
each connection.

Usage: store ADDR:PORT --dir DIR [--connections N]

  --dir DIR         where to write; must exist
  --connections N   exit after N connections (default: serve for ever)";

#[derive(Debug, Default, Serialize)]
struct Report {
    images: u64,
    bytes: u64,
    /// The digest of the last picture.
    sha256: String,
    /// The file of the last picture.
    file: PathBuf,
}

fn main() -> ExitCode {
    exit("store", run)
}

fn run() -> Result<()> {
    let Some(mut args) = Args::from_env(USAGE, &[])? else {
        return Ok(());
    };
    let address: String = args.positional("ADDR:PORT")?;
    let directory: PathBuf = args.required("dir")?;
    let connections = args.optional("connections")?;
    args.finish()?;
    if !directory.is_dir() {
        return Err(Error::Usage(format!(
            "--dir {} is not a directory",
            directory.display()
        )));
    }
    let mut stored = 0;
    net::serve(&net::listen(&address)?, connections, |stream| {
        store(stream, &directory, &mut stored)
    })
}

fn store(mut stream: TcpStream, directory: &Path, stored: &mut u64) -> Result<()> {
    let mut report = Report::default();
    while let Some(picture) = frame::read(&mut stream)? {
        *stored += 1;
        let file = directory.join(format!("image-{stored}.jpg"));
        std::fs::write(&file, &picture).context(|| format!("cannot write {}", file.display()))?;
        let sha256 = hex(&Sha256::digest(&picture));
        frame::write(&mut stream, sha256.as_bytes())?;
        report = Report {
            images: report.images + 1,
            bytes: report.bytes + picture.len() as u64,
            sha256,
            file,
        };
    }
    report::print(&report)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes every write");
        text
    })
}
