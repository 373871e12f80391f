//! The same functions as containers in pods of one containerd, with this shim and with a stock one, measured by
//! `cwasi-bench-start`.
//!
//! They run in rounds of their own, after those of the suite: a node with containerd is too much to start in each round.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::Scale;
use super::table::{self, Table};
use crate::compare::Skipped;
use crate::process::Process;
use crate::{Error, Result};

/// The program, and what it is asked for.
const PROGRAM: &str = "cwasi-bench-start";
const GROUPS: &str = "guests,answer";

/// What it takes at most: a start of containerd, and a few seconds for each round.
const LIMIT: Duration = Duration::from_secs(300);

/// About what it takes: the start, and each round.
const START: Duration = Duration::from_secs(10);
const ROUND: Duration = Duration::from_secs(8);

/// The figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Containerd {
    /// The containerd that all ran in.
    pub containerd: String,
    /// Rounds that count.
    pub rounds: usize,
    /// One for each figure.
    pub results: Vec<Measure>,
}

/// A figure of all peers, by round; empty for those that have no part in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measure {
    measure: String,
    unit: String,
    cwasi: Vec<f64>,
    cold: Vec<f64>,
    stock: Vec<f64>,
    runc: Vec<f64>,
}

/// About how long it takes.
pub(super) fn estimate(scale: Scale) -> Duration {
    START + ROUND * (u32::try_from(scale.rounds).unwrap_or(u32::MAX).saturating_add(1))
}

/// Takes the figures, or says why there are none.
///
/// # Errors
/// Interrupted.
pub(super) fn run(built: &Path, scale: Scale) -> Result<std::result::Result<Containerd, Skipped>> {
    let skipped = |reason: String| Skipped {
        workload: "functions in containerd".to_owned(),
        reason,
    };
    let program = built.join(PROGRAM);
    if !program.is_file() {
        return Ok(Err(skipped(format!("{} is not built", program.display()))));
    }
    let mut command = Command::new(program);
    command
        .args(["--only", GROUPS, "--output", "json"])
        .args(["--rounds", &scale.rounds.to_string()]);
    match Process::spawn(&mut command, None).and_then(|process| process.wait(LIMIT)) {
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => Ok(Err(skipped(error.to_string()))),
        Ok(stdout) => Ok(serde_json::from_str(&stdout)
            .map_err(|error| skipped(format!("unexpected output of {PROGRAM}: {error}")))),
    }
}

impl Containerd {
    /// One row for each kind of function, one column for each figure.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut header = vec!["peer".to_owned()];
        header.extend(
            self.results
                .iter()
                .map(|result| format!("{} ({})", result.measure, result.unit.replace("us", "µs"))),
        );
        let row = |name: &str, of: fn(&Measure) -> &Vec<f64>| {
            let cells = self.results.iter().map(|result| table::figure(of(result)));
            [name.to_owned()].into_iter().chain(cells).collect()
        };
        Table {
            caption: format!("{}, {} rounds", self.containerd, self.rounds),
            header,
            rows: vec![
                row("stock shim", |result| &result.stock),
                row("cwasi's shim", |result| &result.cwasi),
                row("cwasi's shim, not compiled before", |result| &result.cold),
                row("runc, static C", |result| &result.runc),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_program_prints_becomes_a_table() {
        let printed = r#"{"kernel_release":"6.1","cpus":2,"containerd":"containerd 1.6","rounds":2,"images":[],"results":[
            {"measure":"round trip 64 B, two pods","unit":"us","cwasi":[10.0,12.0],"cold":[],"stock":[20.0,22.0],"runc":[],
             "cwasi_over_runc":null,"cwasi_over_stock":{"median":0.5,"low":0.5,"high":0.5}}]}"#;
        let containerd: Containerd = serde_json::from_str(printed).unwrap();
        let table = containerd.table();
        assert_eq!(table.header[1], "round trip 64 B, two pods (µs)");
        assert_eq!(table.rows[0], ["stock shim", "21.0 (20.0–22.0)"]);
        assert_eq!(table.rows[3], ["runc, static C", table::NONE]);
    }

    #[test]
    fn what_is_not_built_is_skipped() {
        let skipped = run(Path::new("/nowhere"), Scale::QUICK).unwrap().unwrap_err();
        assert_eq!(skipped.reason, "/nowhere/cwasi-bench-start is not built");
    }
}
