//! What a kernel under test said on its two serial lines: the results of the tests, and the kernel's own messages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A test that did not run, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Skipped {
    /// Suite and test, as `kernel_limits::an_upper_layer_protocol_goes_by_tcp`.
    pub test: String,
    /// What the test said.
    pub reason: String,
}

/// What `cwasi-agent probe -o json` found, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Probe {
    /// Whether the agent accelerates on this kernel.
    pub usable: bool,
    /// How the receiver's queue is measured.
    pub queue_measure: Option<String>,
    /// Everything that was looked at.
    #[serde(default)]
    pub rows: Vec<ProbeRow>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ProbeRow {
    /// What it is.
    pub name: String,
    /// `ok`, `warning`, `missing` or `not_probed`.
    pub finding: String,
    /// More about it.
    pub detail: String,
}

/// Everything that a kernel reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Results {
    /// `uname -r`.
    pub release: String,
    /// `None` when the probe did not end, or printed something else.
    pub probe: Option<Probe>,
    /// Number of tests that passed and were not skipped.
    pub passed: usize,
    /// Suite and test of each that failed.
    pub failed: Vec<String>,
    /// Tests that did not run.
    pub skipped: Vec<Skipped>,
    /// Suites that ended, with their exit status.
    pub suites: BTreeMap<String, i32>,
    /// Kernel objects that tests left behind.
    pub left: Vec<String>,
    /// Whether the last line was reached.
    pub complete: bool,
}

impl Results {
    /// Reads the report of `init.sh`, which may end anywhere.
    #[must_use]
    pub fn parse(report: &str) -> Self {
        let mut results = Self::default();
        let mut suite = String::new();
        let mut passed = Vec::new();
        let mut probe: Option<String> = None;
        for line in report.lines().map(|line| line.trim_end_matches('\r')) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "@release" => rest.clone_into(&mut results.release),
                "@probe" => probe = Some(String::new()),
                "@probed" => {
                    results.probe = probe.take().and_then(|json| serde_json::from_str(&json).ok());
                }
                "@suite" => rest.clone_into(&mut suite),
                "@exit" => {
                    let status = rest.split(' ').next().and_then(|status| status.parse().ok());
                    results.suites.insert(suite.clone(), status.unwrap_or(-1));
                }
                "@left" => results.left.push(rest.to_owned()),
                "@end" => results.complete = true,
                "skipped:" => {
                    let (test, reason) = rest.split_once(": ").unwrap_or(("", rest));
                    results.skipped.push(Skipped {
                        test: format!("{suite}::{test}"),
                        reason: reason.to_owned(),
                    });
                }
                "test" => match rest.split_once(" ... ") {
                    Some((test, "ok")) => passed.push(format!("{suite}::{test}")),
                    Some((test, "FAILED")) => results.failed.push(format!("{suite}::{test}")),
                    _ => {}
                },
                _ => {
                    if let Some(json) = &mut probe {
                        *json += line;
                    }
                }
            }
        }
        results.skipped.sort();
        results.skipped.dedup();
        let is_skipped = |test: &String| results.skipped.iter().any(|skipped| skipped.test == *test);
        results.passed = passed.iter().filter(|test| !is_skipped(test)).count();
        results
    }
}

/// Lines of the console with which a kernel says that it is broken.
#[must_use]
pub fn complaints(console: &str) -> Vec<String> {
    const SIGNS: [&str; 8] = [
        "WARNING: ",
        "BUG: ",
        "Oops: ",
        "Kernel panic",
        "general protection fault",
        "refcount_t: ",
        "INFO: task ",
        "UBSAN: ",
    ];
    let mut found: Vec<String> = console
        .lines()
        .filter(|line| SIGNS.iter().any(|sign| line.contains(sign)))
        .map(|line| {
            // The time since boot differs each time.
            let text = line.split_once("] ").map_or(line, |(_, text)| text);
            text.trim().to_owned()
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "@release 6.1.0-56-cloud-amd64\r\n@probe\r\n{\r\n \"usable\": true,\r\n\
        \"queue_measure\": \"rmem_alloc\",\r\n \"rows\": []}\r\n@probed\r\n@suite kernel_a\r\n\r\nrunning 3 tests\r\n\
        skipped: two: no tls\r\ntest one ... ok\r\ntest two ... ok\r\ntest three ... FAILED\r\n\
        test three has been running for over 60 seconds\r\n@exit 101 7.2\r\n@suite kernel_b\r\ntest one ... ok\r\n@exit 0 8\r\n\
        @left /sys/fs/bpf/cwasi-test-1\r\n";

    #[test]
    fn a_report_is_read() {
        let results = Results::parse(REPORT);
        assert_eq!(results.release, "6.1.0-56-cloud-amd64");
        let probe = results.probe.as_ref().unwrap();
        assert_eq!(
            (probe.usable, probe.queue_measure.as_deref()),
            (true, Some("rmem_alloc"))
        );
        assert_eq!(results.passed, 2);
        assert_eq!(results.failed, ["kernel_a::three"]);
        assert_eq!(
            results.skipped,
            [Skipped {
                test: "kernel_a::two".to_owned(),
                reason: "no tls".to_owned()
            }]
        );
        assert_eq!(
            Vec::from_iter(
                results
                    .suites
                    .iter()
                    .map(|(name, status)| (name.as_str(), *status))
            ),
            [("kernel_a", 101), ("kernel_b", 0)]
        );
        assert_eq!(results.left, ["/sys/fs/bpf/cwasi-test-1"]);
        assert!(!results.complete, "there was no last line");
        assert!(Results::parse(&format!("{REPORT}@end\r\n")).complete);
    }

    #[test]
    fn a_kernel_that_died_early_is_not_complete() {
        let results = Results::parse("@release 5.10\n@probe\n{\"usable\":");
        assert_eq!((results.probe, results.complete), (None, false));
    }

    #[test]
    fn complaints_of_a_kernel_are_found() {
        let console = "[    1.2] acpi: fail to add\r\n[   17.004] WARNING: CPU: 0 PID: 12 at net/core/stream.c:207 x\r\n\
                       [   18.004] WARNING: CPU: 0 PID: 12 at net/core/stream.c:207 x\r\n";
        assert_eq!(
            complaints(console),
            ["WARNING: CPU: 0 PID: 12 at net/core/stream.c:207 x"]
        );
    }
}
