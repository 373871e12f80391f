//! The report for people: Markdown.

use std::fmt::Write;

use super::goals;
use super::results::Results;
use super::sections;
use super::table::Table;
use crate::report;

/// Directory, beside the document, of its charts and figures.
pub const FILES: &str = "benchmarks";

/// The document. `charts` are the file names of those that were drawn.
#[must_use]
pub fn document(results: &Results, charts: &[&str]) -> String {
    let mut text = String::from("# Benchmarks: guest to guest\n\n");
    let _ = writeln!(text, "{}\n", origin(results));
    let _ = writeln!(text, "## Goals\n\n{}\n", goals::table(&goals::of(results)).text());
    for section in sections::of(results) {
        let _ = writeln!(text, "## {}\n\n{}\n", section.title, section.text);
        for chart in section.charts.iter().filter(|chart| charts.contains(chart)) {
            let name = chart.trim_end_matches(".svg");
            let _ = writeln!(text, "![{}: {name}]({FILES}/{chart})\n", section.title);
        }
        for table in &section.tables {
            text += &captioned(table);
        }
    }
    text
}

fn captioned(table: &Table) -> String {
    if table.caption.is_empty() {
        format!("{}\n\n", table.text())
    } else {
        format!("{}:\n\n{}\n\n", table.caption, table.text())
    }
}

/// Where the figures are from and how they are to be read.
fn origin(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "Written by the harness: do not edit. Commit {}, {} processors ({}), {} MiB of memory, Linux {}, load average {} before the \
         run, which took {} min. Command: `{}`.\n\n\
         Medians of {} rounds, and in parentheses the lowest and the highest of them. In a round every peer runs once, in an order that \
         rotates and turns round, on fresh processes; a first round is not counted. Ratios are of figures of the same round: their median counts. \
         Unless a row says otherwise: {}.",
        results.commit,
        machine.cpus,
        machine.processor,
        machine.memory_mib,
        machine.kernel,
        report::number(machine.load),
        report::number(results.seconds / 60.0),
        results.command,
        results.rounds,
        results.cpus.phrase(),
    );
    if results.quick {
        text += "\n\n**A quick run: few sizes, short runs, few rounds. Its figures are for developing, not for quoting.**";
    }
    text += "\n\n| peer | what it is |\n|---|---|\n";
    for peer in results.peers(&results.workloads()) {
        let _ = writeln!(text, "| {} | {} |", peer.name(), peer.phrase());
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::sample;
    use super::*;

    #[test]
    fn it_tells_where_figures_are_from_and_what_was_left_out() {
        let text = document(&sample(), &["rtt.svg"]);
        for expected in [
            "cargo xtask bench --quick",
            "A quick run",
            "abc123",
            "](benchmarks/rtt.svg)",
            "not there",
            "| stock |",
            "## Goals",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert!(!text.contains("stream.svg"), "a chart that was not drawn");
    }
}
