//! What the kernel and the node offer the data plane, and what to do about each miss.
//!
//! `host`: what files tell. `programs`: what libbpf tries, with the cargo feature `libbpf`. `fixes`: releases known to
//! lack a fix. The live self-test has the last word: it tries everything together.

mod fixes;
mod host;
mod programs;

use std::path::Path;

use serde::Serialize;

use crate::kernel::selftest::{self, Check, NOT_TRIED};

/// What was found of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It is there.
    Ok,
    /// The data plane works without it, with the consequence that the detail tells.
    Warning,
    /// The data plane needs it.
    Missing,
    /// It was not, or could not be, looked at.
    NotProbed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `host`, `program`, `map`, `helper` or `self_test`.
    pub group: &'static str,
    /// What it is.
    pub name: String,
    /// What was found.
    pub finding: Finding,
    /// More about it, one line.
    pub detail: String,
    /// What to do, when something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Row {
    fn new(
        group: &'static str,
        name: impl Into<String>,
        finding: Finding,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            group,
            name: name.into(),
            finding,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn remedy(self, remedy: &str) -> Self {
        let needed = matches!(self.finding, Finding::Missing | Finding::Warning);
        Self {
            remedy: needed.then(|| remedy.to_owned()),
            ..self
        }
    }
}

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Kernel release.
    pub kernel: String,
    /// Whether nothing that is needed is missing, and the self-test was passed.
    pub usable: bool,
    /// How the self-test found that the receiver's queue can be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_measure: Option<&'static str>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Looks at everything. Needs root for most of it; takes a second or two.
#[must_use]
pub fn probe(bpffs: &Path) -> Report {
    let kernel = host::release();
    let mut rows = host::rows(bpffs, &kernel);
    rows.extend(host::upstream(&kernel).and_then(fixes::row));
    let capable = host::capable();
    rows.extend(programs::rows(capable));
    let (tested, queue_measure) = self_test(capable);
    rows.extend(tested);
    let usable = queue_measure.is_some() && rows.iter().all(|row| row.finding != Finding::Missing);
    Report {
        kernel,
        usable,
        queue_measure,
        rows,
    }
}

/// Detail of what cannot be tried.
const NOT_CAPABLE: &str = "needs the capabilities above";

fn self_test(capable: bool) -> (Vec<Row>, Option<&'static str>) {
    const GROUP: &str = "self_test";
    if !capable {
        let row = |name| Row::new(GROUP, name, Finding::NotProbed, NOT_CAPABLE);
        return (selftest::CHECKS.into_iter().map(row).collect(), None);
    }
    let report = selftest::run();
    let rows = report.checks.into_iter().map(|check| {
        let finding = if check.passed {
            Finding::Ok
        } else {
            Finding::Missing
        };
        Row::new(GROUP, check.name, finding, one_line(&check.detail)).remedy(remedy_of_check(&check))
    });
    (
        rows.collect(),
        report
            .measure
            .map(cwasi_ebpf_common::offsets::QueueMeasure::label),
    )
}

/// What is told is one line: of a verifier's log it has the first and the last line that says something.
pub(crate) fn one_line(detail: &str) -> String {
    /// What the verifier says of itself at the end.
    const STATISTICS: [&str; 3] = ["processed ", "verification time ", "stack depth "];
    let said = |line: &&str| !line.trim().is_empty() && !STATISTICS.iter().any(|word| line.starts_with(word));
    let mut lines = detail.lines().filter(said).map(str::trim);
    match (lines.next(), lines.next_back()) {
        (Some(first), Some(last)) => format!("{first} … {last}"),
        (first, _) => first.unwrap_or_default().to_owned(),
    }
}

/// What to do when a check of the self-test fails.
#[must_use]
pub fn remedy_of_check(check: &Check) -> &'static str {
    if check.detail == NOT_TRIED {
        return "do what the earlier check asks for";
    }
    match check.name {
        "redirect" => {
            "run `cwasi-agent probe` as root for what is missing, give the agent the capabilities it names, and see that no \
             other sk_msg owner (Cilium, OBI, Beyla) takes every socket of the node"
        }
        "queue_charged" => {
            "the receiver's queue cannot be bounded on this kernel; use one from docs/kernel-policy.md. Until then \
             connections stay on TCP"
        }
        "unaccepted_removed" => {
            "this kernel keeps connections that nobody accepted; use one from docs/kernel-policy.md (5.10 from 5.10.222). \
             Until then connections stay on TCP"
        }
        _ => {
            "report it with the kernel's release: this kernel reorders or loses the end of a stream; connections stay on TCP"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_log_is_one_line() {
        let log = "load of program sk_msg: EINVAL\n0: (b7) r0 = 0\n1: (85) call bpf_x#1\nunknown func bpf_x#1\nverification time 6 usec\nstack depth 0\nprocessed 2 insns\n\n";
        assert_eq!(
            one_line(log),
            "load of program sk_msg: EINVAL … unknown func bpf_x#1"
        );
        assert_eq!(one_line("moved 3 bytes"), "moved 3 bytes");
        assert_eq!(one_line(""), "");
    }

    #[test]
    fn a_report_says_what_to_do_about_each_miss() {
        let report = probe(Path::new("/sys/fs/bpf/cwasi"));
        for row in &report.rows {
            let needed = matches!(row.finding, Finding::Missing | Finding::Warning);
            assert_eq!(row.remedy.is_some(), needed, "{row:?}");
            assert!(!row.detail.contains('\n'), "{row:?}");
        }
        for check in selftest::CHECKS {
            assert_eq!(
                report
                    .rows
                    .iter()
                    .filter(|row| row.group == "self_test" && row.name == check)
                    .count(),
                1
            );
        }
        if report.usable {
            assert!(report.queue_measure.is_some());
        }
    }
}
