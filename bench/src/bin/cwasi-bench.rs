//! `cwasi-bench`: figures of the data plane. The work is in the library.

use std::process::ExitCode;

use clap::Parser;
use cwasi_bench::{Error, compare, interrupt};

fn main() -> ExitCode {
    interrupt::end("cwasi-bench", compare::Args::parse().run(), |error| {
        matches!(error, Error::Interrupted)
    })
}
