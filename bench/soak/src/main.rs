//! `cwasi-soak`: traffic with faults for minutes. The work is in the library.

use std::process::ExitCode;

use clap::Parser;
use cwasi_bench::interrupt;
use cwasi_soak::{Args, Error};

fn main() -> ExitCode {
    interrupt::end("cwasi-soak", Args::parse().run(), |error| {
        matches!(error, Error::Bench(cwasi_bench::Error::Interrupted))
    })
}
