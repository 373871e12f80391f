//! Prints docs/metrics.md, for `cargo xtask metrics`.

fn main() {
    print!("{}", cwasi_agent::metrics::reference());
}
