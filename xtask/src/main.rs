//! `cargo xtask`: builds, checks and tests of the repository. The work is in the library.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match xtask::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
