//! The second step of the picture workflow: makes pictures smaller and hands them on.

use cwasi_functions::args::Args;
use cwasi_functions::error::exit;
use cwasi_functions::{Error, Result, frame, net, report};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use serde::Serialize;
use std::net::TcpStream;
use std::process::ExitCode;

const USAGE: &str = "\
Receives JPEG pictures, scales them to a width and forwards them to `store`, one connection after the other; prints a
JSON line for each connection.

Usage: resize LISTEN_ADDR:PORT NEXT_ADDR:PORT --width PIXELS [--connections N]

  --width PIXELS    the width of the result; the height follows
  --connections N   exit after N connections (default: serve for ever)";

/// The usual compromise of size and looks for pictures on the web.
const QUALITY: u8 = 80;

#[derive(Debug, Default, Serialize)]
struct Report {
    images: u64,
    bytes_in: u64,
    bytes_out: u64,
}

fn main() -> ExitCode {
    exit("resize", run)
}

fn run() -> Result<()> {
    let Some(mut args) = Args::from_env(USAGE, &[])? else {
        return Ok(());
    };
    let address: String = args.positional("LISTEN_ADDR:PORT")?;
    let next: String = args.positional("NEXT_ADDR:PORT")?;
    let width: u32 = args.required("width")?;
    let connections = args.optional("connections")?;
    args.finish()?;
    if width == 0 {
        return Err(Error::Usage("--width must be at least 1".into()));
    }
    net::serve(&net::listen(&address)?, connections, |stream| {
        forward(stream, &next, width)
    })
}

fn forward(mut stream: TcpStream, next: &str, width: u32) -> Result<()> {
    let mut next = net::connect(next, true)?;
    let mut report = Report::default();
    while let Some(picture) = frame::read(&mut stream)? {
        let smaller = resize(&picture, width)?;
        let answer = frame::request(&mut next, &smaller)?;
        frame::write(&mut stream, answer.as_bytes())?;
        report.images += 1;
        report.bytes_in += picture.len() as u64;
        report.bytes_out += smaller.len() as u64;
    }
    report::print(&report)
}

fn resize(picture: &[u8], width: u32) -> Result<Vec<u8>> {
    let decoded = image::load_from_memory_with_format(picture, image::ImageFormat::Jpeg)?;
    let scaled = decoded.resize(width, u32::MAX, FilterType::Triangle);
    let mut encoded = Vec::new();
    scaled.write_with_encoder(JpegEncoder::new_with_quality(&mut encoded, QUALITY))?;
    Ok(encoded)
}
