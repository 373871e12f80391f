//! Bodies that are posted over HTTP/1.1 and answered when all was read.

use cwasi_functions::args::Args;
use cwasi_functions::error::{Context, exit};
use cwasi_functions::pattern::Pattern;
use cwasi_functions::stats::Summary;
use cwasi_functions::{Error, Result, http1, net, report};
use serde::Serialize;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Posts bodies over HTTP/1.1, on one connection that is kept alive, and prints the times until each answer as one JSON line.
The answer is the body's length, in digits. `http`, which a host serves, answers `/length` in the same way.

Usage: post serve ADDR:PORT [--connections N]
       post client ADDR:PORT --size BYTES --count N [--warmup N] [--path PATH] [--nodelay]

  --connections N   exit after N connections (default: serve for ever)
  --size BYTES      bytes of each body
  --count N         requests to measure
  --warmup N        requests before them that are not measured (default 0)
  --path PATH       what to post to (default /)
  --nodelay         set TCP_NODELAY (a component's host decides: wasi:sockets 0.2 has no such option)";

/// A buffer for heads and short answers; a longer body is read past it.
const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Debug, Serialize)]
struct Report {
    size: usize,
    count: usize,
    seconds: f64,
    per_second: f64,
    gb_per_s: f64,
    /// From before a request is sent to when its answer is there.
    #[serde(flatten)]
    times: Summary,
}

fn main() -> ExitCode {
    exit("post", run)
}

fn run() -> Result<()> {
    let Some(mut args) = Args::from_env(USAGE, &["nodelay"])? else {
        return Ok(());
    };
    match args.positional::<String>("`serve` or `client`")?.as_str() {
        "serve" => serve(args),
        "client" => client(args),
        other => Err(Error::Usage(format!("`{other}` is neither `serve` nor `client`"))),
    }
}

fn serve(mut args: Args) -> Result<()> {
    let address: String = args.positional("ADDR:PORT")?;
    let connections = args.optional("connections")?;
    args.finish()?;
    let mut body = Vec::new();
    net::serve(&net::listen(&address)?, connections, |stream| {
        answer(&stream, &mut body)
    })
}

fn answer(stream: &TcpStream, body: &mut Vec<u8>) -> Result<()> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
    while let Some(head) = http1::head(&mut reader)? {
        let length = usize::try_from(head.content_length)
            .map_err(|_| Error::Data(format!("a body of {} bytes", head.content_length)))?;
        body.resize(length, 0);
        reader
            .read_exact(body)
            .context(|| format!("cannot receive a body of {length} bytes"))?;
        let text = length.to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        let mut writer = stream;
        writer
            .write_all(answer.as_bytes())
            .context(|| "cannot answer".into())?;
    }
    Ok(())
}

fn client(mut args: Args) -> Result<()> {
    let address: String = args.positional("ADDR:PORT")?;
    let size: usize = args.required("size")?;
    let count: usize = args.required("count")?;
    let warmup: usize = args.optional("warmup")?.unwrap_or(0);
    let path = args.optional("path")?.unwrap_or_else(|| "/".to_owned());
    let nodelay = args.flag("nodelay");
    args.finish()?;
    if count == 0 {
        return Err(Error::Usage("--count must be at least 1".into()));
    }
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {size}\r\n\r\n").into_bytes();
    let body = request.len();
    request.resize(body + size, 0);
    Pattern::new(size as u64).fill(&mut request[body..]);

    let stream = net::connect(&address, nodelay)?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, &stream);
    let mut times = Vec::with_capacity(count);
    let mut begun = Instant::now();
    for round in 0..warmup + count {
        if round == warmup {
            begun = Instant::now();
        }
        let time = post(&stream, &mut reader, &request, size)?;
        if round >= warmup {
            times.push(time);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    report::print(&Report {
        size,
        count,
        seconds,
        per_second: count as f64 / seconds,
        gb_per_s: count as f64 * size as f64 / seconds / 1e9,
        times: Summary::of(&mut times).expect("count is at least 1"),
    })
}

fn post(
    mut stream: &TcpStream,
    reader: &mut BufReader<&TcpStream>,
    request: &[u8],
    size: usize,
) -> Result<Duration> {
    let start = Instant::now();
    stream
        .write_all(request)
        .context(|| "cannot send a request".into())?;
    let head = http1::head(reader)?.ok_or_else(|| Error::Data("the server closed the connection".into()))?;
    let mut answer = String::new();
    reader
        .take(head.content_length)
        .read_to_string(&mut answer)
        .context(|| "cannot receive the answer".into())?;
    let time = start.elapsed();
    let right = head.start.starts_with("HTTP/1.1 200 ") && answer.trim() == size.to_string();
    if right {
        return Ok(time);
    }
    Err(Error::Data(format!(
        "a body of {size} bytes is answered by `{}`: {answer}",
        head.start
    )))
}
