//! `cwasi-run`: run a component as a function of this node. See `cwasi_shim::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cwasi_shim::cli::main()
}
