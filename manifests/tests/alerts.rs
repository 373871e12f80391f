//! The alerts: tried by promtool, explained on a page, and made of metrics that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use cwasi_agent::metrics::table::METRICS;
use cwasi_manifests::{render, skipped};
use serde_json::Value;
use xtask::commands::manifests::CHART;
use xtask::paths;

const RUNBOOKS: &str = "https://github.com/cwasi/cwasi/blob/main/";

fn file(name: &str) -> PathBuf {
    paths::root().join(CHART).join("files").join(name)
}

fn yaml(path: PathBuf) -> Value {
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    render::objects(&text).expect("YAML").remove(0)
}

/// Every alert of the rule file.
fn alerts() -> Vec<Value> {
    let mut rules = yaml(file("rules.yaml"));
    let groups = rules["groups"].as_array_mut().expect("groups");
    let rules = groups.iter_mut().map(|group| group["rules"].take());
    let alerts: Vec<Value> = rules
        .flat_map(|rules| rules.as_array().expect("rules").clone())
        .collect();
    assert!(!alerts.is_empty());
    alerts
}

#[test]
fn promtool_tries_each_alert() {
    let promtool = |arguments: &[&str]| {
        let mut command = Command::new("promtool");
        render::run(command.args(arguments))
    };
    if Command::new("promtool").arg("--version").output().is_err() {
        return skipped(&"no program `promtool`: install the package prometheus");
    }
    let rules = format!("{CHART}/files/rules.yaml");
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", &rules]).expect("promtool check");
    promtool(&["test", "rules", "manifests/tests/alerts.yaml"]).expect("promtool test");
}

#[test]
fn each_alert_is_tried_firing_and_silent() {
    let tests = yaml(paths::root().join("manifests/tests/alerts.yaml"));
    let tried = tests["tests"].as_array().expect("tests").iter();
    let tried = tried.flat_map(|test| test["alert_rule_test"].as_array().expect("alerts"));
    let (firing, silent): (Vec<&Value>, Vec<&Value>) = tried.partition(|test| test["exp_alerts"].is_array());
    let names = |tests: &[&Value]| {
        tests
            .iter()
            .map(|test| test["alertname"].clone().to_string())
            .collect::<BTreeSet<_>>()
    };
    let all: BTreeSet<String> = alerts().iter().map(|alert| alert["alert"].to_string()).collect();
    assert_eq!(names(&firing), all);
    assert_eq!(names(&silent), all);
}

#[test]
fn each_alert_has_a_runbook() {
    for alert in alerts() {
        let name = alert["alert"].as_str().expect("a name");
        let link = alert["annotations"]["runbook_url"].as_str().expect("a runbook");
        let (page, anchor) = link
            .strip_prefix(RUNBOOKS)
            .expect(link)
            .split_once('#')
            .expect("an anchor");
        let page = fs::read_to_string(paths::root().join(page)).expect("the page");
        let headings: Vec<String> = page
            .lines()
            .filter_map(|line| line.strip_prefix("### "))
            .map(str::to_lowercase)
            .collect();
        assert!(headings.iter().any(|heading| heading == anchor), "{name}: {link}");
        assert_eq!(anchor, name.to_lowercase());
    }
}

/// Names of metrics in an expression.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("cwasi_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

#[test]
fn rules_and_dashboard_ask_for_metrics_that_there_are() {
    let dashboard = fs::read_to_string(file("dashboard.json")).expect("the dashboard");
    let asked = alerts()
        .iter()
        .map(|alert| alert["expr"].to_string())
        .chain([dashboard])
        .flat_map(|text| metrics_of(&text))
        .collect::<BTreeSet<_>>();
    let mut known: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    let unused: Vec<&String> = known.difference(&asked).collect();
    assert!(unused.is_empty(), "no panel and no alert shows {unused:?}");
    known.extend(
        [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
        ]
        .map(str::to_owned),
    );
    let unknown: Vec<&String> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn panels_of_the_dashboard_do_not_overlap() {
    let text = fs::read_to_string(file("dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let (mut places, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].to_string()), "{}", panel["title"]);
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a place"));
        assert!(x + w <= 24, "{}", panel["title"]);
        for (column, line) in (x..x + w).flat_map(|column| (y..y + h).map(move |line| (column, line))) {
            assert!(
                places.insert((column, line)),
                "{} lies on another panel",
                panel["title"]
            );
        }
    }
}
