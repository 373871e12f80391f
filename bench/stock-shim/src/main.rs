//! `containerd-shim-stock-v1`. The work is in the library.

use containerd_shim_wasm::shim::{Cli, Config};
use cwasi_stock_shim::StockShim;

fn main() {
    StockShim::run(Config::default());
}
