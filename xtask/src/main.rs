//! `cargo xtask`: builds, checks and tests of the repository. The work is in the library.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    if xtask::rustc_wrapper::is_asked() {
        eprintln!("error: {}", xtask::rustc_wrapper::exec());
        return ExitCode::FAILURE;
    }
    match xtask::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
