//! `cwasi-bench-start`: figures of functions in containerd. The work is in the library.

use std::process::ExitCode;

use clap::Parser;
use cwasi_bench::interrupt;
use cwasi_bench_start::{Args, Error};

fn main() -> ExitCode {
    interrupt::end("cwasi-bench-start", Args::parse().run(), |error| {
        matches!(error, Error::Bench(cwasi_bench::Error::Interrupted))
    })
}
