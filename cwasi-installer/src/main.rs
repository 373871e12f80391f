//! `cwasi-installer`: the work is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cwasi_installer::cli::main()
}
