//! Results for people and for programs.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::Result;
use crate::error::IoContext;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table
    #[default]
    Table,
    /// JSON
    Json,
}

/// The number of rounds that a command line asks for.
///
/// # Errors
/// No number, or 0: there would be nothing to report.
pub fn rounds(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(rounds) => Ok(rounds),
        Err(error) => Err(format!("{error}")),
    }
}

/// The number of minutes that a command line asks for.
///
/// # Errors
/// No number, less than three seconds, or more than months.
pub fn minutes(text: &str) -> std::result::Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.05..=100_000.0).contains(&minutes) {
        Ok(minutes)
    } else {
        Err("from 0.05 to 100000".to_owned())
    }
}

/// A table whose first columns, `names` of them, are text and whose others are numbers.
#[must_use]
pub fn table<const N: usize>(
    header: [&str; N],
    names: usize,
    rows: impl IntoIterator<Item = [String; N]>,
) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Prints JSON on stdout, indented.
///
/// # Errors
/// stdout is closed.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)
        .map_err(io::Error::from)
        .and_then(|()| out.write_all(b"\n"))
        .action(|| "print the result")
}

/// A number with three significant digits, or none after the point from 100 on.
#[must_use]
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        large if large >= 99.95 => 0,
        medium if medium >= 9.995 => 1,
        small if small >= 0.9995 || small == 0.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// A size in bytes with a unit of which it is a whole number: a binary one, or from 10⁶ bytes on a decimal one.
#[must_use]
pub fn bytes(size: u64) -> String {
    match size {
        mb if mb >= 1_000_000 && mb % 1_000_000 == 0 => format!("{} MB", mb / 1_000_000),
        mib if mib >= 1 << 20 && mib % (1 << 20) == 0 => format!("{} MiB", mib >> 20),
        kib if kib >= 1 << 10 && kib % (1 << 10) == 0 => format!("{} KiB", kib >> 10),
        _ => format!("{size} B"),
    }
}

/// Progress on stderr: a bar on a terminal, a line for each part elsewhere.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    part: String,
}

impl Progress {
    /// Begins work of `steps` steps.
    #[must_use]
    pub fn new(steps: u64) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} (left: {eta}) {msg}")
            .expect("a constant template is valid");
        let bar = ProgressBar::new(steps).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            bar,
            plain: !io::stderr().is_terminal(),
            part: String::new(),
        }
    }

    /// The next step begins, as `detail` of `part`.
    pub fn step(&mut self, part: &str, detail: &str) {
        if self.plain && self.part != part {
            eprintln!("{part} …");
        }
        part.clone_into(&mut self.part);
        self.bar.inc(1);
        self.bar.set_message(format!("{part}, {detail}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 0.5234, 1.234, 12.345, 99.96, 123.4, 250_000.2].map(number);
        assert_eq!(shown, ["0.00", "0.523", "1.23", "12.3", "100", "123", "250000"]);
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(
            [64, 1024, 1500, 65_536, 1 << 20, 100_000_000].map(bytes),
            ["64 B", "1 KiB", "1500 B", "64 KiB", "1 MiB", "100 MB"]
        );
    }

    #[test]
    fn rows_are_shown() {
        let text = table(["name", "value"], 1, [["a".to_owned(), "1".to_owned()]]).to_string();
        assert!(
            text.contains("name") && text.contains('a') && text.contains('1'),
            "{text}"
        );
    }
}
