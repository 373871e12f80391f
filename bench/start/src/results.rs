//! The figures of a run.

use std::fmt::Write;

use cwasi_bench::report;
use cwasi_bench::stats::{self, Ratio};
use serde::Serialize;

use crate::Peer;
use crate::group::Unit;
use crate::stage::ImageSize;

/// A figure of all peers, by round; empty for those that were not measured.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// What was measured.
    pub measure: String,
    /// Its unit; more of "1/s" and "GB/s" is better, less of the others.
    pub unit: Unit,
    /// This shim, compiled before.
    pub cwasi: Vec<f64>,
    /// This shim, with nothing compiled before.
    pub cold: Vec<f64>,
    /// The stock shim, compiled before.
    pub stock: Vec<f64>,
    /// Containers of runc.
    pub runc: Vec<f64>,
    /// `cwasi` over `runc`.
    pub cwasi_over_runc: Option<Ratio>,
    /// `cwasi` over `stock`.
    pub cwasi_over_stock: Option<Ratio>,
}

impl Compared {
    /// Figures by [`Peer::index`] and round.
    #[must_use]
    pub fn new(measure: String, unit: Unit, values: [Vec<f64>; Peer::ALL.len()]) -> Self {
        let [cwasi, cold, stock, runc] = values;
        let ratio = |other: &[f64]| {
            // A peer that was left out has no rounds to pair.
            (other.len() == cwasi.len()).then(|| Ratio::paired(&cwasi, other))?
        };
        Self {
            measure,
            unit,
            cwasi_over_runc: ratio(&runc),
            cwasi_over_stock: ratio(&stock),
            cwasi,
            cold,
            stock,
            runc,
        }
    }

    fn row(&self) -> [String; 10] {
        let none = || "–".to_owned();
        let shown = |values: &[f64]| match values {
            [] => none(),
            values => report::number(stats::median(values)),
        };
        let median = |ratio: Option<Ratio>| ratio.map_or_else(none, |ratio| format!("{:.2}", ratio.median));
        let spread = |ratio: Option<Ratio>| {
            ratio.map_or_else(none, |ratio| format!("{:.2}–{:.2}", ratio.low, ratio.high))
        };
        [
            self.measure.clone(),
            self.unit.symbol().to_owned(),
            shown(&self.cwasi),
            shown(&self.cold),
            shown(&self.stock),
            shown(&self.runc),
            median(self.cwasi_over_runc),
            spread(self.cwasi_over_runc),
            median(self.cwasi_over_stock),
            spread(self.cwasi_over_stock),
        ]
    }
}

/// All figures of a run, and where they are from.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Release of the kernel.
    pub kernel_release: String,
    /// Processors of the machine.
    pub cpus: usize,
    /// The containerd that all peers ran in.
    pub containerd: String,
    /// Rounds that were counted.
    pub rounds: usize,
    /// The figures.
    pub results: Vec<Compared>,
    /// The sizes of the peers' images.
    pub images: Vec<ImageSize>,
}

impl Report {
    /// The tables for people.
    #[must_use]
    pub fn table(&self) -> String {
        let [cwasi, cold, stock, runc] = Peer::ALL.map(Peer::name);
        let header = [
            "measure",
            "unit",
            cwasi,
            cold,
            stock,
            runc,
            "cwasi/runc",
            "spread",
            "cwasi/stock",
            "spread",
        ];
        let mut text = report::table(header, 2, self.results.iter().map(Compared::row)).to_string();
        let _ = write!(
            text,
            "\nLinux {}, {} CPUs, {}, medians of {} rounds; ratios are medians of the rounds' ratios, spread is the lowest and \
             the highest. Of 1/s and GB/s more is better, of the others less.\n\n",
            self.kernel_release, self.cpus, self.containerd, self.rounds
        );
        let images = self.images.iter().map(|image| {
            let kib = |bytes: usize| bytes.div_ceil(1024).to_string();
            [image.image.clone(), kib(image.bytes), kib(image.program_bytes)]
        });
        text + &report::table(["image", "KiB", "of which program, unpacked"], 1, images).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_become_ratios() {
        let values = [vec![50.0, 60.0], vec![], vec![100.0, 100.0], vec![200.0, 200.0]];
        let compared = Compared::new("start".to_owned(), Unit::Milliseconds, values);
        assert_eq!(
            compared.row(),
            [
                "start",
                "ms",
                "55.0",
                "–",
                "100",
                "200",
                "0.28",
                "0.25–0.30",
                "0.55",
                "0.50–0.60"
            ]
        );
    }

    #[test]
    fn peers_that_were_left_out_have_no_ratio() {
        let values = [vec![50.0], vec![], vec![], vec![100.0]];
        let compared = Compared::new("start".to_owned(), Unit::Milliseconds, values);
        assert!(compared.cwasi_over_stock.is_none() && compared.cwasi_over_runc.is_some());
        let none = Compared::new("start".to_owned(), Unit::Milliseconds, Default::default());
        assert!(none.cwasi_over_runc.is_none());
    }

    #[test]
    fn the_report_names_its_sources() {
        let report = Report {
            kernel_release: "6.1".to_owned(),
            cpus: 2,
            containerd: "containerd 1.6".to_owned(),
            rounds: 3,
            results: Vec::new(),
            images: vec![ImageSize {
                image: "echo".to_owned(),
                bytes: 2049,
                program_bytes: 1024,
            }],
        };
        let table = report.table();
        assert!(
            table.contains("Linux 6.1, 2 CPUs, containerd 1.6, medians of 3 rounds"),
            "{table}"
        );
        let row: Vec<_> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row, ["|", "echo", "|", "3", "|", "1", "|"]);
    }
}
