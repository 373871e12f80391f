//! The tests on several kernels, some at a time.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use cwasi_bench::report;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::catalog::{Choice, Kernel};
use super::guest::{self, Accelerator};
use super::image::{Image, Store};
use super::initramfs::Programs;
use super::policy::Policy;
use super::results::{Results, Skipped, complaints};
use super::version::Version;
use crate::error::FileContext;
use crate::{Error, Result};

/// Kernels that run side by side: each has two processors.
const AT_ONCE: usize = 2;

/// What came of one kernel.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Upstream release.
    pub version: Version,
    /// What `uname -r` says.
    pub release: String,
    /// Whether everything is as it should be: `problems` is empty.
    pub passed: bool,
    /// Whether the agent accelerates on it.
    pub accelerated: bool,
    /// How the receiver's queue is measured.
    pub queue_measure: Option<String>,
    /// Number of tests that ran and passed.
    pub tests_passed: usize,
    /// Tests that did not run.
    pub skipped: Vec<Skipped>,
    /// Everything that is wrong, one line each.
    pub problems: Vec<String>,
    /// From the start of qemu to its end.
    pub seconds: u64,
    /// The report of the tests.
    pub report: PathBuf,
    /// The kernel's console.
    pub console: PathBuf,
}

/// Runs the tests, all or those of the suites named, on the kernels chosen.
///
/// # Errors
/// The tests cannot be built, or a kernel cannot be had or started. That a test fails is no error here, see
/// [`Outcome::passed`].
pub fn run(choices: &[Choice], suites: &[String]) -> Result<Vec<Outcome>> {
    let policy = Policy::read()?;
    let (store, catalog) = Store::open()?;
    let kernels = catalog.select(choices)?;
    let images: Vec<(Kernel, Image)> = kernels
        .into_iter()
        .map(|kernel| store.get(&kernel).map(|image| (kernel, image)))
        .collect::<Result<_>>()?;
    let programs = Programs::build(suites)?;
    let Some((_, first)) = images.first() else {
        return Ok(Vec::new());
    };
    let accelerator = Accelerator::find(first)?;
    let progress = Progress::new(images.len() * programs.suites().len());
    let queue = Mutex::new(images.iter());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(images.len()) {
            scope.spawn(|| {
                let next = || queue.lock().expect("no panic before").next();
                while let Some((kernel, image)) = next() {
                    let outcome = run_one(kernel, image, &programs, accelerator, &policy, &progress);
                    outcomes.lock().expect("no panic before").push(outcome);
                }
            });
        }
    });
    let mut outcomes: Vec<Outcome> = outcomes
        .into_inner()
        .expect("no panic before")
        .into_iter()
        .collect::<Result<_>>()?;
    outcomes.sort_by_key(|outcome| outcome.version);
    Ok(outcomes)
}

fn run_one(
    kernel: &Kernel,
    image: &Image,
    programs: &Programs,
    accelerator: Accelerator,
    policy: &Policy,
    progress: &Progress,
) -> Result<Outcome> {
    let version = kernel.version;
    let start = Instant::now();
    let mut ended = 0;
    let logs = guest::run(&version.to_string(), image, programs, accelerator, |report| {
        let now = Results::parse(report).suites.len();
        progress.step(version, now - ended);
        ended = now;
    })?;
    let report = fs::read(&logs.report).file("read", &logs.report)?;
    let console = fs::read(&logs.console).file("read", &logs.console)?;
    let results = Results::parse(&String::from_utf8_lossy(&report));
    let problems = problems(
        version,
        &results,
        &String::from_utf8_lossy(&console),
        programs.suites(),
        policy,
    );
    progress.done(version, programs.suites().len() - ended, problems.len());
    let probe = results.probe.unwrap_or_default();
    Ok(Outcome {
        version,
        release: results.release,
        passed: problems.is_empty(),
        accelerated: probe.usable,
        queue_measure: probe.queue_measure,
        tests_passed: results.passed,
        skipped: results.skipped,
        problems,
        seconds: start.elapsed().as_secs(),
        report: logs.report,
        console: logs.console,
    })
}

/// Everything that is not as it should be.
fn problems<'a>(
    version: Version,
    results: &Results,
    console: &str,
    suites: impl Iterator<Item = &'a str>,
    policy: &Policy,
) -> Vec<String> {
    let mut problems: Vec<String> = results
        .failed
        .iter()
        .map(|test| format!("failed: {test}"))
        .collect();
    for suite in suites {
        match results.suites.get(suite) {
            Some(0 | 101) => {}
            Some(status) => problems.push(format!("{suite} ended with status {status}")),
            None => problems.push(format!("{suite} did not end")),
        }
    }
    if !results.complete {
        problems.push("the kernel did not reach the end of the tests".to_owned());
    }
    problems.extend(
        complaints(console)
            .into_iter()
            .map(|line| format!("kernel: {line}")),
    );
    problems.extend(results.left.iter().map(|path| format!("left over: {path}")));
    problems.extend(policy.differences(version, results));
    problems
}

/// The outcomes for people: a table, the tests that did not run, and everything that is wrong.
#[must_use]
pub fn table(outcomes: &[Outcome]) -> String {
    let rows = outcomes.iter().map(|outcome| {
        [
            outcome.version.to_string(),
            outcome.release.clone(),
            if outcome.passed { "ok" } else { "FAILED" }.to_owned(),
            if outcome.accelerated { "yes" } else { "no" }.to_owned(),
            outcome.queue_measure.clone().unwrap_or_else(|| "-".to_owned()),
            outcome.tests_passed.to_string(),
            outcome.skipped.len().to_string(),
            outcome.problems.len().to_string(),
            outcome.seconds.to_string(),
        ]
    });
    let header = [
        "kernel",
        "release",
        "result",
        "accelerated",
        "queue",
        "passed",
        "skipped",
        "problems",
        "s",
    ];
    let mut text = format!("{}\n", report::table(header, 5, rows));
    for outcome in outcomes {
        for skipped in &outcome.skipped {
            text += &format!(
                "{}: skipped {}: {}\n",
                outcome.version, skipped.test, skipped.reason
            );
        }
        for problem in &outcome.problems {
            text += &format!("{}: {problem}\n", outcome.version);
        }
        if !outcome.passed {
            text += &format!(
                "{}: see {} and {}\n",
                outcome.version,
                outcome.report.display(),
                outcome.console.display()
            );
        }
    }
    text
}

/// The one line of an error for the kernels that failed; nothing when all passed.
///
/// # Errors
/// [`Error::Checks`] that names them.
pub fn verdict(outcomes: &[Outcome]) -> Result<()> {
    let failed: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !outcome.passed)
        .map(|outcome| outcome.version.to_string())
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::Checks(format!(
        "kernels that failed: {}",
        failed.join(", ")
    )))
}

/// Suites done, of all kernels together: a bar on a terminal, a line for each kernel elsewhere.
struct Progress(ProgressBar);

impl Progress {
    fn new(suites: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} test suites ({elapsed}) {msg}")
            .expect("a constant template is valid");
        Self(ProgressBar::new(suites as u64).with_style(style))
    }

    fn step(&self, version: Version, suites: usize) {
        if suites > 0 {
            self.0.set_message(version.to_string());
        }
        self.0.inc(suites as u64);
    }

    fn done(&self, version: Version, suites: usize, problems: usize) {
        self.0.inc(suites as u64);
        let text = match problems {
            0 => format!("{version}: ok"),
            problems => format!("{version}: {problems} problems"),
        };
        self.0.suspend(|| eprintln!("{text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(version: &str, problems: &[&str]) -> Outcome {
        Outcome {
            version: version.parse().unwrap(),
            release: format!("{version}-cloud-amd64"),
            passed: problems.is_empty(),
            accelerated: true,
            queue_measure: Some("rmem_alloc".to_owned()),
            tests_passed: 7,
            skipped: vec![Skipped {
                test: "kernel_limits::tls".to_owned(),
                reason: "no tls".to_owned(),
            }],
            problems: problems.iter().map(|&problem| problem.to_owned()).collect(),
            seconds: 30,
            report: "/t/r".into(),
            console: "/t/c".into(),
        }
    }

    #[test]
    fn skips_and_problems_are_in_the_table_and_failures_in_the_verdict() {
        let outcomes = [
            outcome("6.1.170", &[]),
            outcome("6.12.43", &["failed: kernel_a::one"]),
        ];
        let text = table(&outcomes);
        assert!(
            text.contains("6.1.170: skipped kernel_limits::tls: no tls"),
            "{text}"
        );
        assert!(text.contains("6.12.43: failed: kernel_a::one"), "{text}");
        let error = verdict(&outcomes).unwrap_err().to_string();
        assert!(error.contains("6.12.43") && !error.contains("6.1.170"), "{error}");
        assert!(verdict(&outcomes[..1]).is_ok());
    }

    #[test]
    fn a_suite_that_did_not_end_is_a_problem() {
        let results =
            Results::parse("@release x\n@suite kernel_a\ntest one ... ok\n@exit 0 1\n@suite kernel_b\n");
        let policy = Policy::read().unwrap();
        let version = "6.1.170".parse().unwrap();
        let problems = problems(
            version,
            &results,
            "",
            ["kernel_a", "kernel_b"].into_iter(),
            &policy,
        );
        assert!(
            problems.contains(&"kernel_b did not end".to_owned()),
            "{problems:?}"
        );
        assert!(
            !problems.iter().any(|problem| problem.contains("kernel_a")),
            "{problems:?}"
        );
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains("did not reach the end"))
        );
    }
}
