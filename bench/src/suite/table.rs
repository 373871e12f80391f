//! Tables of figures by peer.

use comfy_table::{CellAlignment, presets};

use super::peer::Peer;
use super::results::Results;
use super::workload::{Metric, Workload};
use crate::report;
use crate::stats::{self, Ratio};

/// A cell for which nothing was measured.
pub const NONE: &str = "–";

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What it has, and in which unit.
    pub caption: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// As many cells each as there are columns.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// One row for each peer, one column for each workload.
    #[must_use]
    pub fn of(results: &Results, workloads: &[Workload], metric: Metric, caption: &str) -> Self {
        let mut header = vec!["peer".to_owned()];
        header.extend(workloads.iter().map(Workload::column));
        let row = |peer: Peer| {
            let cells = workloads
                .iter()
                .map(|workload| figure(results.values(workload, peer, metric)));
            [peer.name().to_owned()].into_iter().chain(cells).collect()
        };
        Self {
            caption: format!("{caption} ({})", metric.unit()),
            header,
            rows: results.peers(workloads).into_iter().map(row).collect(),
        }
    }

    /// It, as Markdown that is also readable as it is.
    #[must_use]
    pub fn text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header(&self.header);
        table.add_rows(&self.rows);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// A median with its spread.
#[must_use]
pub fn figure(values: &[f64]) -> String {
    if values.is_empty() {
        return NONE.to_owned();
    }
    let (low, high) = stats::range(values);
    let [median, low, high] = [stats::median(values), low, high].map(report::number);
    format!("{median} ({low}–{high})")
}

/// The median of rounds' ratios with their spread.
#[must_use]
pub fn ratio(ratio: Option<Ratio>) -> String {
    ratio.map_or_else(
        || NONE.to_owned(),
        |ratio| format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.low, ratio.high),
    )
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::sample;
    use super::*;

    #[test]
    fn each_peer_has_a_row_and_each_workload_a_column() {
        let results = sample();
        let workloads = results.workloads();
        let table = Table::of(&results, &workloads, workloads[0].kind.metric(), "round trips");
        assert_eq!(table.caption, "round trips (µs)");
        assert_eq!(table.header, ["peer", "64 B"]);
        assert_eq!(table.rows[0], ["stock", "40.0 (38.0–42.0)"]);
        assert!(table.text().starts_with("| peer"), "{}", table.text());
    }

    #[test]
    fn no_figure_is_a_dash() {
        assert_eq!(figure(&[]), "–");
        assert_eq!(figure(&[0.5, 2.0, 1.0]), "1.00 (0.500–2.00)");
    }
}
