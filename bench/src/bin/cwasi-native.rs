//! `cwasi-native`: native peers of the Wasm guests. The work is in the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cwasi_bench::native::Args::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cwasi-native: {error}");
            ExitCode::FAILURE
        }
    }
}
