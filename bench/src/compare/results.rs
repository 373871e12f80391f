//! The figures of a run.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::mode::{Cpus, Destination, Mode};
use super::workload::{Measure, Unit};
use crate::report;
use crate::stats::{self, Ratio};

/// A measure in all modes.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// What was measured.
    pub workload: String,
    /// Its unit; less of "us" is better, more of the others.
    pub unit: Unit,
    /// Neither peer enrolled, by round.
    pub plain: Vec<f64>,
    /// Both enrolled, acceleration off, by round.
    pub off: Vec<f64>,
    /// Both enrolled, acceleration on, by round.
    pub kernel: Vec<f64>,
    /// `kernel` over `plain`, by round.
    pub kernel_over_plain: Option<Ratio>,
    /// `off` over `plain`, by round.
    pub off_over_plain: Option<Ratio>,
    /// Share of the bytes of the `kernel` rounds that the kernel program moved; none when no connection was enrolled.
    pub redirected_share: Option<f64>,
}

impl Compared {
    pub(super) fn new(measure: Measure, values: [Vec<f64>; 3], redirected_share: Option<f64>) -> Self {
        let [plain, off, kernel] = values;
        Self {
            workload: measure.name,
            unit: measure.unit,
            kernel_over_plain: Ratio::paired(&kernel, &plain),
            off_over_plain: Ratio::paired(&off, &plain),
            plain,
            off,
            kernel,
            redirected_share,
        }
    }

    fn row(&self) -> [String; 9] {
        let shown = |values: &[f64]| report::number(stats::median(values));
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
        [
            self.workload.clone(),
            self.unit.symbol().to_owned(),
            shown(&self.plain),
            shown(&self.off),
            shown(&self.kernel),
            or_none(self.kernel_over_plain.map(|ratio| format!("{:.2}", ratio.median))),
            or_none(
                self.kernel_over_plain
                    .map(|ratio| format!("{:.2}–{:.2}", ratio.low, ratio.high)),
            ),
            or_none(self.off_over_plain.map(|ratio| format!("{:.2}", ratio.median))),
            or_none(
                self.redirected_share
                    .map(|share| format!("{:.1} %", share * 100.0)),
            ),
        ]
    }
}

/// A workload that was not run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Skipped {
    /// Which.
    pub workload: String,
    /// Why, with what to do about it.
    pub reason: String,
}

/// All figures of a run, and where they are from.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Release of the kernel.
    pub kernel_release: String,
    /// Processors of the machine.
    pub cpus: usize,
    /// On which of them the peers ran.
    pub placement: Cpus,
    /// What was known of the server.
    pub destination: Destination,
    /// Rounds that were counted.
    pub rounds: usize,
    /// The figures.
    pub results: Vec<Compared>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
}

impl Report {
    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let header = [
            "workload",
            "unit",
            Mode::Plain.name(),
            Mode::Off.name(),
            Mode::Kernel.name(),
            "kernel/plain",
            "spread",
            "off/plain",
            "redirected",
        ];
        let mut text = report::table(header, 2, self.results.iter().map(Compared::row)).to_string();
        let _ = write!(
            text,
            "\nLinux {}, {} CPUs, {}, {}, medians of {} rounds; ratios are medians of the rounds' ratios, spread is the \
             lowest and the highest. Of µs less is better, of the others more.",
            self.kernel_release,
            self.cpus,
            self.placement.phrase(),
            self.destination.phrase(),
            self.rounds
        );
        for skipped in &self.skipped {
            let _ = write!(text, "\nskipped: {}: {}", skipped.workload, skipped.reason);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_become_ratios() {
        let measure = Measure {
            name: "round trip".to_owned(),
            unit: Unit::Microseconds,
        };
        let values = [vec![20.0, 40.0], vec![20.0, 40.0], vec![10.0, 22.0]];
        let compared = Compared::new(measure, values, Some(0.995));
        assert_eq!(
            compared.row(),
            [
                "round trip",
                "µs",
                "30.0",
                "30.0",
                "16.0",
                "0.53",
                "0.50–0.55",
                "1.00",
                "99.5 %"
            ]
        );
        let report = Report {
            kernel_release: "6.1".to_owned(),
            cpus: 2,
            placement: Cpus::Apart,
            destination: Destination::Known,
            rounds: 2,
            results: vec![compared],
            skipped: vec![Skipped {
                workload: "redis".to_owned(),
                reason: "missing".to_owned(),
            }],
        };
        let table = report.table();
        assert!(
            table.contains("0.50–0.55")
                && table.contains("known destinations")
                && table.ends_with("skipped: redis: missing"),
            "{table}"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["destination"], "known");
        assert_eq!(json["results"][0]["unit"], "us");
        assert_eq!(json["results"][0]["kernel_over_plain"]["low"], 0.5);
    }
}
