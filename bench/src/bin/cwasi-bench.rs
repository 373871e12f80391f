//! `cwasi-bench`: figures of the data plane. The work is in the library.

use std::process::ExitCode;

use clap::Parser;
use cwasi_bench::{Error, compare, interrupt};

fn main() -> ExitCode {
    match compare::Args::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Interrupted) => ExitCode::from(u8::try_from(interrupt::exit_code()).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("cwasi-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
