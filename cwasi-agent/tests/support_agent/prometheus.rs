//! A Prometheus of the test's own, which scrapes an agent every second and evaluates the alerts of the manifests.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::agent::text;
use super::{LONG, Process};

/// The chart's files of this repository.
pub fn chart_file(name: &str) -> PathBuf {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/helm/cwasi/files");
    fs::canonicalize(files.join(name)).expect("a file of the chart")
}

pub struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts one for the agent at the address, and waits until it has scraped twice.
    pub fn start(agent: SocketAddr) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let rules = chart_file("rules.yaml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n\
             - {{job_name: cwasi-agent, static_configs: [{{targets: ['{agent}'], labels: {{instance: node}}}}]}}\n",
            rules.display()
        );
        let file = dir.path().join("prometheus.yml");
        fs::write(&file, config).expect("write its configuration");
        // It says nowhere but in its log which port 0 has become.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = address.expect("a free port");
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let prometheus = Self {
            address,
            _process: Process(child.expect("start Prometheus")),
            _dir: dir,
        };
        // Its start is the slow part on a busy machine.
        let deadline = Instant::now() + LONG;
        while !prometheus.has_scraped_twice() {
            assert!(Instant::now() < deadline, "Prometheus does not scrape");
            std::thread::sleep(Duration::from_millis(50));
        }
        prometheus
    }

    fn has_scraped_twice(&self) -> bool {
        let seen = self.get("query", &["query=count_over_time(cwasi_accelerating[1m]) > 1"]);
        seen.is_some_and(|data| !data["result"].as_array().expect("a vector").is_empty())
    }

    /// What its API answers; `None` as long as it does not.
    fn get(&self, what: &str, parameters: &[&str]) -> Option<Value> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--get"])
            .arg(format!("http://{}/api/v1/{what}", self.address));
        for parameter in parameters {
            curl.args(["--data-urlencode", parameter]);
        }
        let output = curl.output().expect("run curl");
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        assert_eq!(
            answer["status"],
            "success",
            "{parameters:?}: {}",
            text(&output.stdout)
        );
        Some(answer["data"].clone())
    }

    /// Labels and values of an instant query.
    pub fn query(&self, expression: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let data = self.get("query", &[&format!("query={expression}")]);
        let data = data.expect("Prometheus answers");
        let series = data["result"].as_array().expect("a vector").iter();
        let series = series.map(|series| {
            let labels = serde_json::from_value(series["metric"].clone()).expect("labels");
            let value = series["value"][1].as_str().expect("a value");
            (labels, value.parse().expect("a number"))
        });
        series.collect()
    }

    /// The alerts that it has loaded, with their state.
    pub fn alerts(&self) -> Vec<Value> {
        let data = self.get("rules", &[]).expect("Prometheus answers");
        let groups = data["groups"].as_array().expect("groups").iter();
        groups
            .flat_map(|group| group["rules"].as_array().expect("rules").clone())
            .collect()
    }

    /// `inactive`, `pending` or `firing`.
    pub fn state(&self, alert: &str) -> String {
        let alerts = self.alerts();
        let found = alerts.iter().find(|rule| rule["name"] == alert);
        found.expect(alert)["state"].as_str().expect("a state").to_owned()
    }
}
