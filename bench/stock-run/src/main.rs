//! `cwasi-stock-run`: a component on the stock host. The work is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cwasi_stock_run::main()
}
