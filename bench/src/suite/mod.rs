//! Guest to guest: functions, and what they are compared with, side by side in one run.
//!
//! Figures are medians of rounds of one run, and ratios of figures of the same round. In a round each workload is run by every
//! peer once, in an order that rotates from round to round, on fresh processes and another port. A first round is not counted; it tells
//! how much of the workload fits into the time of a run. A peer that fails is reported and left out of later rounds.
//!
//! - [`peer`]: who runs the two ends, and what lies between them.
//! - [`workload`]: what the ends do, and the figures that are taken.
//! - [`plan`], [`amount`]: which workloads, with which peers, how much of each, and about how long it takes.
//! - [`cast`], [`outcome`]: the command lines of a workload's functions, and what they print.
//! - [`containerd`]: the same in containers.
//! - [`programs`]: the files that a run needs.
//! - [`cpu`], [`machine`]: processor time, and where it was spent.
//! - [`options`]: what a suite is asked for.
//! - [`results`]: the figures, from which everything below is made.
//! - [`table`], [`sections`], [`document`]: the report.
//! - [`goals`]: what is to be reached, and whether it is.
//! - [`published`]: what others published, beside it.
//! - [`chart`], [`charts`]: its charts.

pub mod amount;
pub mod cast;
pub mod chart;
pub mod charts;
pub mod containerd;
pub mod cpu;
pub mod document;
pub mod goals;
pub mod machine;
pub mod options;
pub mod outcome;
pub mod peer;
pub mod plan;
pub mod programs;
pub mod published;
pub mod results;
mod run;
pub mod sections;
mod stage;
mod start;
pub mod table;
pub mod workload;

use std::fs;
use std::path::Path;

pub use options::Options;
pub use programs::Programs;
use results::Results;

use serde::Serialize;

use crate::error::{IoContext, on};
use crate::{Error, Result};

/// The file of figures, which a later report can be made from.
#[derive(Serialize)]
struct Written<'a> {
    goals: Vec<goals::Goal>,
    #[serde(flatten)]
    results: &'a Results,
}

/// Takes the figures, or reads those that were taken before; prints the report, and writes it where that is asked for. Call
/// [`crate::interrupt::watch`] before, and Ctrl-C cleans up too.
///
/// # Errors
/// Not root; a program is missing; nothing can be written; at the end, when a run failed.
pub fn run(programs: &Programs, options: &Options, command: &str) -> Result<()> {
    let results = match &options.from {
        Some(file) => read(file)?,
        None => run::run(programs, options, command)?,
    };
    let charts = charts::of(&results);
    let names: Vec<&str> = charts.iter().map(|(file, _)| *file).collect();
    let document = document::document(&results, &names);
    println!("{document}");
    if let Some(out) = &options.out {
        write(out, &document, &charts, &results)?;
    }
    match results.failed.len() {
        0 => Ok(()),
        failed => Err(Error::Suite { failed }),
    }
}

fn read(file: &Path) -> Result<Results> {
    let text = fs::read(file).action(on("read", file))?;
    serde_json::from_slice(&text).map_err(|error| Error::Output {
        program: file.display().to_string(),
        detail: error.to_string(),
    })
}

fn write(out: &Path, document: &str, charts: &[(&str, String)], results: &Results) -> Result<()> {
    let files = out.join(document::FILES);
    fs::create_dir_all(&files).action(on("create", &files))?;
    let write = |path: &Path, text: &[u8]| fs::write(path, text).action(on("write", path));
    write(&out.join("benchmarks.md"), document.as_bytes())?;
    for (file, svg) in charts {
        write(&files.join(file), svg.as_bytes())?;
    }
    let written = Written {
        goals: goals::of(results),
        results,
    };
    let json = serde_json::to_vec_pretty(&written).map_err(std::io::Error::from);
    let file = files.join("results.json");
    write(&file, &json.action(on("write", &file))?)
}
