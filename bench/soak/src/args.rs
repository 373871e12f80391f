//! The command line of `cwasi-soak`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use cwasi_bench::error::IoContext;
use cwasi_bench::interrupt;
use cwasi_bench::report::{self, Format};

use crate::{Error, Options, Programs, Result, soak};

/// Moves bytes over every path for minutes, compares each, and meanwhile kills, stops and replaces agent, containerd, shims,
/// pods and functions.
///
/// Needs root, and cwasi-agent, cwasi-run, cwasi-native and containerd-shim-cwasi-v1 beside this program.
#[derive(Debug, Parser)]
#[command(name = "cwasi-soak", version)]
pub struct Args {
    /// How long, in minutes
    #[arg(long, default_value_t = 5.0, value_parser = report::minutes)]
    minutes: f64,
    /// What faults, sizes and moments are drawn from, to have them again; default: another each time
    #[arg(long)]
    seed: Option<u64>,
    /// Directory of the guests' .wasm files
    #[arg(long, default_value = "bench/functions/prebuilt")]
    guests: PathBuf,
    /// How to print the results
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Args {
    /// Soaks, and prints what came of it.
    ///
    /// # Errors
    /// Not root; something is missing; after the results were printed, [`Error::Broken`] and [`Error::Left`].
    pub fn run(self) -> Result<()> {
        interrupt::watch()?;
        let here = std::env::current_exe().action(|| "find this program's own file")?;
        let programs = Programs {
            built: here.parent().map(PathBuf::from).unwrap_or_default(),
            guests: self.guests,
        };
        let options = Options {
            length: Duration::from_secs_f64(self.minutes * 60.0),
            seed: self.seed,
        };
        let results = soak(&programs, &options)?;
        match self.output {
            Format::Json => report::print_json(&results)?,
            Format::Table => println!("{results}"),
        }
        match (&results.broken[..], results.left.as_str()) {
            ([], "") => Ok(()),
            ([], left) => Err(Error::Left(left.to_owned())),
            (broken, _) => Err(Error::Broken {
                broken: broken.len(),
                wrong: results.wrong,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
        let args = Args::try_parse_from(["x", "--minutes", "0.1", "--seed", "7", "-o", "json"]).unwrap();
        assert_eq!((args.minutes, args.seed), (0.1, Some(7)));
        assert!(Args::try_parse_from(["x", "--minutes", "0"]).is_err());
    }
}
