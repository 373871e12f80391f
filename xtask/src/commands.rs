//! The command line: one variant per command, one module per variant.

pub mod bench;
pub mod book;
pub mod build_ebpf;
pub mod build_functions;
pub mod deb;
pub mod demo;
pub mod dist;
pub mod examples;
pub mod fuzz;
pub mod images;
pub mod lint;
pub mod manifests;
pub mod metrics;
pub mod soak;
pub mod test;

use crate::Result;
use clap::{Parser, Subcommand};

/// Builds, checks and tests of the cwasi repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Args),
    Book(book::Args),
    BuildEbpf(build_ebpf::Args),
    BuildFunctions(build_functions::Args),
    Deb(deb::Args),
    Demo(demo::Args),
    Dist(dist::Args),
    Examples(examples::Args),
    Fuzz(fuzz::Args),
    Images(images::Args),
    Lint(lint::Args),
    Manifests(manifests::Args),
    Metrics(metrics::Args),
    Soak(soak::Args),
    Test(test::Args),
}

impl Cli {
    /// Runs the chosen command.
    ///
    /// # Errors
    /// The first failure of the command, as one line with its remedy.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Bench(args) => bench::run(&args),
            Command::Book(args) => book::run(&args),
            Command::BuildEbpf(args) => build_ebpf::run(&args),
            Command::BuildFunctions(args) => build_functions::run(&args),
            Command::Deb(args) => deb::run(&args),
            Command::Demo(args) => demo::run(&args),
            Command::Dist(args) => dist::run(&args),
            Command::Examples(args) => examples::run(&args),
            Command::Fuzz(args) => fuzz::run(&args),
            Command::Images(args) => images::run(&args),
            Command::Lint(args) => lint::run(&args),
            Command::Manifests(args) => manifests::run(&args),
            Command::Metrics(args) => metrics::run(&args),
            Command::Soak(args) => soak::run(&args),
            Command::Test(args) => test::run(&args),
        }
    }
}
