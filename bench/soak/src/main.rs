//! `cwasi-soak`: traffic with faults for minutes. The work is in the library.

use std::process::ExitCode;

use clap::Parser;
use cwasi_bench::interrupt;
use cwasi_soak::{Args, Error};

fn main() -> ExitCode {
    match Args::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Bench(cwasi_bench::Error::Interrupted)) => {
            ExitCode::from(u8::try_from(interrupt::exit_code()).unwrap_or(u8::MAX))
        }
        Err(error) => {
            eprintln!("cwasi-soak: {error}");
            ExitCode::FAILURE
        }
    }
}
