//! The table of docs/kernel-policy.md that says what each line of kernels does, and how a kernel differs from it.

use std::collections::BTreeSet;
use std::fs;

use super::results::{Probe, Results};
use super::version::Version;
use crate::error::FileContext;
use crate::{Error, Result, paths};

const FILE: &str = "docs/kernel-policy.md";
/// The first cells of the table's head.
const HEAD: &str = "| Linux from | accelerated | queue measured by | probe finds | tests skipped |";

/// What kernels from a release on do, until another row says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    from: Version,
    accelerated: bool,
    measures: BTreeSet<String>,
    findings: BTreeSet<String>,
    skipped: BTreeSet<String>,
}

/// The whole table.
#[derive(Debug)]
pub struct Policy(Vec<Row>);

impl Policy {
    /// Reads the table.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Output`] when the page has no such table.
    pub fn read() -> Result<Self> {
        let path = paths::root().join(FILE);
        Self::parse(&fs::read_to_string(&path).file("read", path)?)
    }

    fn parse(page: &str) -> Result<Self> {
        let malformed = |detail: String| Error::Output {
            program: FILE.to_owned(),
            detail,
        };
        let mut lines = page.lines().skip_while(|line| !line.starts_with(HEAD));
        if lines.next().is_none() {
            return Err(malformed(format!("no table that begins with {HEAD}")));
        }
        let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
        let mut rows: Vec<Row> = rows
            .map(|line| Row::parse(line).ok_or_else(|| malformed(format!("row {line}"))))
            .collect::<Result<_>>()?;
        rows.sort_by_key(|row| row.from);
        Ok(Self(rows))
    }

    /// In what a kernel differs from its row; nothing when it is as the page says.
    #[must_use]
    pub fn differences(&self, version: Version, results: &Results) -> Vec<String> {
        let Some(row) = self.0.iter().rfind(|row| row.from <= version) else {
            return vec![format!("{FILE} has no row for {version}")];
        };
        let Some(probe) = &results.probe else {
            return vec!["`cwasi-agent probe` gave no report".to_owned()];
        };
        row.differences(probe, results)
    }
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        Some(Self {
            from: cells.next()?.parse().ok()?,
            accelerated: match cells.next()? {
                "yes" => true,
                "no" => false,
                _ => return None,
            },
            measures: names(cells.next()?),
            findings: names(cells.next()?),
            skipped: names(cells.next()?),
        })
    }

    fn differences(&self, probe: &Probe, results: &Results) -> Vec<String> {
        let mut found = Vec::new();
        if probe.usable != self.accelerated {
            let word = |yes: bool| if yes { "is" } else { "is not" };
            let why = probe.rows.iter().filter(|row| row.finding == "missing");
            let why: Vec<String> = why.map(|row| format!("{}: {}", row.name, row.detail)).collect();
            found.push(format!(
                "{FILE} says that it {} accelerated, and it {} ({})",
                word(self.accelerated),
                word(probe.usable),
                why.join("; ")
            ));
        }
        let mut differ = |what: &str, said: &BTreeSet<String>, seen: BTreeSet<String>| {
            if *said != seen {
                let list = |names: &BTreeSet<String>| match names.len() {
                    0 => "nothing".to_owned(),
                    _ => Vec::from_iter(names.iter().map(String::as_str)).join(", "),
                };
                found.push(format!(
                    "{what}: {FILE} says {}, seen was {}",
                    list(said),
                    list(&seen)
                ));
            }
        };
        differ(
            "queue measured by",
            &self.measures,
            probe.queue_measure.iter().cloned().collect(),
        );
        let findings = probe
            .rows
            .iter()
            .filter(|row| matches!(row.finding.as_str(), "warning" | "missing"));
        differ(
            "probe finds",
            &self.findings,
            findings.map(|row| row.name.clone()).collect(),
        );
        if !self.accelerated {
            // Tests skip whatever needs acceleration.
            return found;
        }
        let skipped = results.skipped.iter().map(|skipped| skipped.test.clone());
        // A run may be one of some suites only.
        let ran = |test: &&String| {
            let suite = test.split("::").next().unwrap_or_default();
            results.suites.contains_key(suite)
        };
        let said = self.skipped.iter().filter(ran).cloned().collect();
        differ("tests skipped", &said, skipped.collect());
        found
    }
}

/// What a cell has in backticks.
fn names(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::results::{ProbeRow, Skipped};
    use super::*;

    const PAGE: &str = "# Kernel policy\n\n\
| Linux from | accelerated | queue measured by | probe finds | tests skipped | why |\n|---|---|---|---|---|---|\n\
| 5.10 | yes | `since_empty` | `known fixes` | `kernel_limits::tls` | no TLS |\n\
| 5.10.300 | no | | `redirect` | those that redirect | |\n\
| 6.1 | yes | `rmem_alloc` | | | |\n\
| 6.12.100 | yes | `msg_tot_len` | | | |\n\nMore text.\n";

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn results(measure: &str) -> Results {
        Results {
            probe: Some(Probe {
                usable: true,
                queue_measure: Some(measure.to_owned()),
                rows: Vec::new(),
            }),
            suites: [("kernel_limits".to_owned(), 0)].into(),
            ..Results::default()
        }
    }

    #[test]
    fn a_kernel_is_held_against_the_last_row_before_it() {
        let policy = Policy::parse(PAGE).unwrap();
        let differences = |release, measure| policy.differences(version(release), &results(measure)).len();
        assert_eq!(differences("6.1.170", "rmem_alloc"), 0);
        assert_eq!(differences("6.12.43", "rmem_alloc"), 0);
        assert_eq!(differences("6.12.117", "rmem_alloc"), 1);
        assert_eq!(differences("7.3.4", "msg_tot_len"), 0);
        assert_eq!(differences("4.19.1", "rmem_alloc"), 1);
    }

    #[test]
    fn skips_and_findings_must_be_exactly_those_of_the_row() {
        let policy = Policy::parse(PAGE).unwrap();
        let mut results = results("since_empty");
        let differences = |results: &Results| policy.differences(version("5.10.218"), results);
        assert_eq!(differences(&results).len(), 2, "both are missing");
        results.skipped.push(Skipped {
            test: "kernel_limits::tls".to_owned(),
            reason: "no tls".to_owned(),
        });
        let row = |name: &str, finding: &str| ProbeRow {
            name: name.to_owned(),
            finding: finding.to_owned(),
            detail: "x".to_owned(),
        };
        results
            .probe
            .as_mut()
            .unwrap()
            .rows
            .extend([row("known fixes", "warning"), row("redirect", "ok")]);
        assert!(differences(&results).is_empty());
        results.probe.as_mut().unwrap().usable = false;
        assert_eq!(differences(&results).len(), 1);
        results.probe = None;
        assert_eq!(differences(&results).len(), 1);
    }

    #[test]
    fn a_kernel_that_is_held_off_skips_what_it_likes() {
        let policy = Policy::parse(PAGE).unwrap();
        let mut results = results("since_empty");
        let differences = |results: &Results| policy.differences(version("5.10.301"), results);
        assert_eq!(differences(&results).len(), 3, "it is not held off");
        results.probe = Some(Probe {
            usable: false,
            queue_measure: None,
            rows: vec![ProbeRow {
                name: "redirect".to_owned(),
                finding: "missing".to_owned(),
                detail: "x".to_owned(),
            }],
        });
        results.skipped.push(Skipped {
            test: "kernel_limits::tls".to_owned(),
            reason: "held off".to_owned(),
        });
        assert_eq!(differences(&results), Vec::<String>::new());
    }

    #[test]
    fn skips_of_suites_that_did_not_run_are_not_missed() {
        let policy = Policy::parse(PAGE).unwrap();
        let mut results = results("since_empty");
        let differences = |results: &Results| policy.differences(version("5.10.218"), results).len();
        let before = differences(&results);
        results.suites.clear();
        assert_eq!(differences(&results), before - 1);
    }

    #[test]
    fn a_page_without_the_table_or_with_a_broken_row_is_an_error() {
        assert!(Policy::parse("# Kernel policy\n").is_err());
        assert!(Policy::parse(&PAGE.replace("| 6.1 | yes", "| 6.1 | maybe")).is_err());
    }

    #[test]
    fn the_committed_page_has_the_table() {
        assert!(!Policy::read().unwrap().0.is_empty());
    }
}
