//! What a suite is asked for.

use std::path::PathBuf;

use clap::ValueEnum;

use super::peer::Peer;
use super::plan::Scale;
use super::workload::Group;
use crate::compare::Cpus;
use crate::report;

/// Options of `cargo xtask bench` and `cwasi-bench suite`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Fewer sizes, two short rounds: figures to develop with, not to publish
    #[arg(long)]
    pub quick: bool,

    /// Kinds of figures to take
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    pub only: Vec<Group>,

    /// Who is compared
    #[arg(long, value_delimiter = ',', value_name = "PEER")]
    pub peers: Vec<Peer>,

    /// Rounds that count, each with every peer [default: 5, or 2 of a quick run]
    #[arg(long, value_parser = report::rounds)]
    pub rounds: Option<usize>,

    /// On which processors the ends run, where the figure is not about that
    #[arg(long, value_enum, default_value_t = Cpus::Free)]
    pub cpus: Cpus,

    /// Where benchmarks.md and the directory benchmarks with charts and figures are written
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Measure nothing: write the report of figures that were taken before
    #[arg(long, value_name = "RESULTS.JSON", conflicts_with_all = ["quick", "only", "peers", "rounds", "cpus"])]
    pub from: Option<PathBuf>,
}

impl Options {
    /// The kinds of figures, all of them where none is chosen.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        chosen(&self.only)
    }

    /// The peers, likewise.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        chosen(&self.peers)
    }

    /// How thoroughly it measures.
    #[must_use]
    pub fn scale(&self) -> Scale {
        let scale = if self.quick { Scale::QUICK } else { Scale::FULL };
        Scale {
            rounds: self.rounds.unwrap_or(scale.rounds),
            ..scale
        }
    }
}

/// In the order of the type, whatever the order on the command line: tables and rounds keep theirs.
fn chosen<T: ValueEnum + Clone + PartialEq>(given: &[T]) -> Vec<T> {
    let all = T::value_variants().iter();
    all.filter(|one| given.is_empty() || given.contains(one))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn what_is_chosen_keeps_its_order() {
        let options = |words: &[&str]| {
            let words = ["x"].iter().chain(words);
            Cli::try_parse_from(words).map(|cli| cli.options)
        };
        let some = options(&["--only", "stream,rtt", "--quick", "--rounds", "3"]).unwrap();
        assert_eq!(some.groups(), [Group::Rtt, Group::Stream]);
        assert_eq!(some.peers(), Peer::ALL);
        assert_eq!((some.scale().rounds, some.scale().quick), (3, true));
        assert_eq!(options(&[]).unwrap().scale(), Scale::FULL);
        assert_eq!(options(&[]).unwrap().cpus, Cpus::Free);
        assert!(options(&["--rounds", "0"]).is_err());
        assert!(options(&["--from", "x.json", "--quick"]).is_err());
    }
}
