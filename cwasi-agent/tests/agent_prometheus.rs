//! A real Prometheus scrapes a live agent: the dashboard's queries and the alerts of the manifests ask for what there is.

mod support;
mod support_agent;

use std::fs;

use serde_json::Value;
use support::netns::veth;
use support_agent::agent::Agent;
use support_agent::function::{Caller, echo};
use support_agent::prometheus::{Prometheus, chart_file};

const SERVER: &str = "10.1.0.11:7";

/// A query as Grafana asks it, for every agent.
fn filled_in(expression: &str) -> String {
    let filled = expression
        .replace("$job", ".*")
        .replace("$instance", ".*")
        .replace("$__rate_interval", "1m");
    assert!(!filled.contains('$'), "{filled}");
    filled
}

/// Title and query of everything that the dashboard shows.
fn panels(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let queries = panels.flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| {
            let expression = target["expr"].as_str().expect("a query");
            (title.clone(), filled_in(expression))
        })
    });
    queries.collect()
}

/// Value of the only series of a query.
fn value(prometheus: &Prometheus, expression: &str) -> f64 {
    let found = prometheus.query(expression);
    assert_eq!(found.len(), 1, "{expression}: {found:?}");
    found[0].1
}

#[test]
fn dashboard_and_alerts_tell_what_happens() {
    needs!();
    needs_program!("prometheus" of "prometheus");
    needs_program!("curl" of "curl");
    let ([here, there], agent) = (veth(), Agent::start());
    let prometheus = Prometheus::start(agent.status().metrics_addr.expect("metrics are served"));
    let echo = echo(&agent, "echo", &there, SERVER);
    let mut caller = Caller::start(&agent, "caller", &here, SERVER);
    caller.stream(2);
    assert_eq!(prometheus.state("CwasiSwitchedOff"), "inactive");
    // Open connections go on by TCP, and a new one is not enrolled.
    agent.succeed(&["disable"]);
    caller.goes_on();
    caller.talk(200);
    let seen = [
        "cwasi_fallback_total{stage=\"enrol\",reason=\"disabled\"} > 0",
        "rate(cwasi_bytes_total{path=\"network\"}[1m]) > 0",
    ];
    support::eventually("Prometheus has seen what the switch did", || {
        seen.iter().all(|query| !prometheus.query(query).is_empty())
            && prometheus.state("CwasiSwitchedOff") == "pending"
    });

    let dashboard = fs::read_to_string(chart_file("dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = panels(&dashboard);
    assert!(panels.len() > 20, "{panels:?}");
    for (title, query) in &panels {
        let found = prometheus.query(query);
        assert!(!found.is_empty(), "{title} is empty: {query}");
        assert!(
            found.iter().all(|(_, value)| value.is_finite()),
            "{title}: {found:?}"
        );
    }
    // Restarts of agents: there was none.
    let restarts = &dashboard["annotations"]["list"][0]["expr"];
    assert_eq!(
        prometheus.query(&filled_in(restarts.as_str().expect("a query"))),
        []
    );
    let shown = |title: &str| {
        let panel = panels.iter().find(|(name, _)| name == title);
        &panel.unwrap_or_else(|| panic!("no panel {title}")).1
    };
    let accelerated = value(&prometheus, shown("Accelerated"));
    assert!(
        (0.0..=1.0).contains(&accelerated) && accelerated > 0.0,
        "{accelerated}"
    );
    assert_eq!(value(&prometheus, shown("Functions")), 2.0);
    assert_eq!(value(&prometheus, shown("Nodes that accelerate")), 0.0);
    assert_eq!(value(&prometheus, shown("Degraded nodes")), 0.0);
    let bytes = prometheus.query(shown("Bytes"));
    for path in ["kernel", "network"] {
        let moved = bytes.iter().find(|(labels, _)| labels["path"] == path);
        assert!(moved.is_some_and(|(_, rate)| *rate > 0.0), "{path}: {bytes:?}");
    }
    let refused = prometheus.query(shown("Connections that were not enrolled"));
    assert!(
        refused
            .iter()
            .any(|(labels, rate)| labels["reason"] == "disabled" && *rate > 0.0),
        "{refused:?}"
    );

    // Every other alert was evaluated, and finds nothing to tell.
    let alerts = prometheus.alerts();
    assert!(alerts.len() > 6, "{alerts:?}");
    for alert in &alerts {
        let name = alert["name"].as_str().expect("a name");
        assert_eq!(alert["health"], "ok", "{name}: {}", alert["lastError"]);
        let expected = if name == "CwasiSwitchedOff" {
            "pending"
        } else {
            "inactive"
        };
        assert_eq!(alert["state"], expected, "{name}");
    }

    agent.succeed(&["enable"]);
    caller.finish();
    drop(echo);
    agent.kill();
    support::eventually("the agent is missed, and the switch is on", || {
        prometheus.state("CwasiAgentDown") == "pending" && prometheus.state("CwasiSwitchedOff") == "inactive"
    });
}
