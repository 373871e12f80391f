//! `cwasi-agent`: the work is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cwasi_agent::cli::main()
}
