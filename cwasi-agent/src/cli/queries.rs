//! Commands that ask: the agent, or the kernel.

use std::io::{IsTerminal, stdout};
use std::thread::sleep;
use std::time::Duration;

use cwasi_client::client::Client;
use cwasi_client::protocol::{
    Events, Explanation, Flow, FlowEvent, Function, Reply, Request, Status, Version,
};
use serde::Serialize;

use super::args::{Common, FlowsArgs, Format};
use super::output::{bytes, print, print_json, table};
use super::{CliError, exit};
use crate::agent::version as own_version;
use crate::probe;

/// Asks the agent one thing, and takes the answer out of its reply.
fn ask<T>(common: &Common, request: &Request, take: fn(Reply) -> Option<T>) -> Result<T, CliError> {
    let reply = Client::connect(&common.socket)?.call(request)?;
    take(reply).ok_or(CliError::Unexpected)
}

pub(super) fn status(common: &Common) -> Result<u8, CliError> {
    let status = ask(common, &Request::Status, |reply| match reply {
        Reply::Status(status) => Some(status),
        _ => None,
    })?;
    match common.output {
        Format::Json => print_json(&status)?,
        Format::Table => print(&status_text(&status))?,
    }
    Ok(if status.degraded.is_empty() {
        exit::OK
    } else {
        exit::DEGRADED
    })
}

fn status_text(status: &Status) -> String {
    let traffic = &status.traffic;
    let acceleration = match (status.accelerating, status.enabled) {
        (true, _) => "on".to_owned(),
        (false, true) => "off: the data plane is not available, see below".to_owned(),
        (false, false) => "off: switched off by `cwasi-agent disable`".to_owned(),
    };
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("version", status.version.version.clone()),
        row("acceleration", acceleration),
        row("functions", status.functions.to_string()),
        row(
            "open connections",
            format!(
                "{} kernel, {} network, {} process",
                status.flows.kernel, status.flows.network, status.flows.process
            ),
        ),
        row(
            "sent, kernel",
            format!(
                "{} in {} messages",
                bytes(traffic.redirect_bytes),
                traffic.redirect_messages
            ),
        ),
        row(
            "sent, network",
            format!(
                "{} in {} messages",
                bytes(traffic.tcp_bytes),
                traffic.tcp_messages
            ),
        ),
        row(
            "sent, process",
            format!(
                "{} in {} messages",
                bytes(traffic.process_bytes),
                traffic.process_messages
            ),
        ),
        row(
            "changes of path",
            format!("{} to kernel, {} to network", traffic.to_redirect, traffic.to_tcp),
        ),
        row("enrolled ends", traffic.connections.to_string()),
        row("queue budget", bytes(u64::from(status.budget_bytes))),
        row(
            "queue measure",
            status.queue_measure.clone().unwrap_or_else(|| "none".to_owned()),
        ),
        row("pins", status.bpffs.display().to_string()),
    ];
    if let Some(addr) = status.metrics_addr {
        rows.push(row("metrics", format!("http://{addr}/metrics")));
    }
    let mut text = table(&["AGENT", ""], rows);
    if !status.fallbacks.is_empty() {
        let rows = status
            .fallbacks
            .iter()
            .map(|(reason, count)| row(reason, count.to_string()));
        text += &format!("\n\n{}", table(&["LEFT TO TCP", "COUNT"], rows));
    }
    if !status.maps.is_empty() {
        let rows = status
            .maps
            .iter()
            .map(|map| row(&map.name, format!("{} of {}", map.entries, map.capacity)));
        text += &format!("\n\n{}", table(&["MAP", "ENTRIES"], rows));
    }
    for cause in &status.degraded {
        text += &format!(
            "\n\ndegraded: {}: {}\n  remedy: {}",
            cause.reason, cause.detail, cause.remedy
        );
    }
    text
}

pub(super) fn functions(common: &Common) -> Result<u8, CliError> {
    let functions = ask(common, &Request::Functions, |reply| match reply {
        Reply::Functions(functions) => Some(functions),
        _ => None,
    })?;
    match common.output {
        Format::Json => print_json(&functions)?,
        Format::Table => {
            let header = [
                "ID",
                "FUNCTION",
                "POD",
                "ACCELERATED",
                "ADDRESSES",
                "KERNEL",
                "NETWORK",
                "PROCESS",
                "CGROUP",
            ];
            print(&table(&header, functions.iter().map(function_row)))?;
        }
    }
    Ok(exit::OK)
}

fn function_row(function: &Function) -> Vec<String> {
    let spec = &function.spec;
    let addresses: Vec<_> = spec.addresses.iter().map(ToString::to_string).collect();
    let mut title = format!("{}/{}", spec.namespace, spec.name);
    if !spec.members.is_empty() {
        title += &format!(" ({})", spec.members.join(" "));
    }
    let accelerated = function
        .reason
        .as_ref()
        .map_or("yes".to_owned(), |reason| format!("no: {reason}"));
    vec![
        function.id.to_string(),
        title,
        spec.pod.clone().unwrap_or_default(),
        accelerated,
        addresses.join(" "),
        bytes(function.sent.redirect_bytes),
        bytes(function.sent.tcp_bytes),
        bytes(function.sent.process_bytes),
        spec.cgroup
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
    ]
}

/// One look of `flows --watch`.
#[derive(Serialize)]
struct Look {
    flows: Vec<Flow>,
    events: Events,
}

pub(super) fn flows(common: &Common, options: &FlowsArgs) -> Result<u8, CliError> {
    let mut client = Client::connect(&common.socket)?;
    if options.watch {
        return watch(&mut client, common.output, Duration::from_secs(options.interval));
    }
    let flows = open_flows(&mut client)?;
    match common.output {
        Format::Json => print_json(&flows)?,
        Format::Table => print(&flows_table(&flows))?,
    }
    Ok(exit::OK)
}

fn open_flows(client: &mut Client) -> Result<Vec<Flow>, CliError> {
    match client.call(&Request::Flows)? {
        Reply::Flows(flows) => Ok(flows),
        _ => Err(CliError::Unexpected),
    }
}

fn events(client: &mut Client, after: u64) -> Result<Events, CliError> {
    match client.call(&Request::Events { after })? {
        Reply::Events(events) => Ok(events),
        _ => Err(CliError::Unexpected),
    }
}

/// Looks again and again, until the agent or the reader goes.
fn watch(client: &mut Client, format: Format, interval: Duration) -> Result<u8, CliError> {
    let mut next = events(client, 0)?.next;
    loop {
        let events = events(client, next)?;
        next = events.next;
        let look = Look {
            flows: open_flows(client)?,
            events,
        };
        match format {
            Format::Json => {
                let line = serde_json::to_string(&look).map_err(|error| CliError::Output(error.into()))?;
                print(&line)?;
            }
            Format::Table => print(&look_text(&look))?,
        }
        sleep(interval);
    }
}

fn look_text(Look { flows, events }: &Look) -> String {
    let clear = if stdout().is_terminal() {
        "\x1b[2J\x1b[H"
    } else {
        ""
    };
    let mut text = format!("{clear}{}", flows_table(flows));
    if events.skipped > 0 {
        text += &format!("\n\n{} events came too fast to be remembered", events.skipped);
    }
    if !events.events.is_empty() {
        let header = ["EVENT", "FROM", "TO", "LOCAL", "REMOTE", "KERNEL", "NETWORK"];
        text += &format!("\n\n{}", table(&header, events.events.iter().map(event_row)));
    }
    text
}

fn flows_table(flows: &[Flow]) -> String {
    let header = [
        "FROM", "TO", "LOCAL", "REMOTE", "PATH", "KERNEL", "NETWORK", "PROCESS", "AGE",
    ];
    table(&header, flows.iter().map(flow_row))
}

fn flow_row(flow: &Flow) -> Vec<String> {
    let path = flow
        .reason
        .as_ref()
        .map_or(flow.path.clone(), |reason| format!("{} ({reason})", flow.path));
    vec![
        flow.src.clone(),
        flow.dst.clone().unwrap_or_else(|| "-".to_owned()),
        flow.local.to_string(),
        flow.remote.to_string(),
        path,
        bytes(flow.sent.redirect_bytes),
        bytes(flow.sent.tcp_bytes),
        bytes(flow.sent.process_bytes),
        format!("{} s", flow.age_seconds),
    ]
}

fn event_row(event: &FlowEvent) -> Vec<String> {
    let kind = event
        .reason
        .as_ref()
        .map_or(event.kind.clone(), |reason| format!("{} ({reason})", event.kind));
    vec![
        kind,
        event.src.clone(),
        event.dst.clone().unwrap_or_else(|| "-".to_owned()),
        event.local.to_string(),
        event.remote.to_string(),
        bytes(event.sent.redirect_bytes),
        bytes(event.sent.tcp_bytes),
    ]
}

pub(super) fn explain(common: &Common, src: &str, dst: &str) -> Result<u8, CliError> {
    let request = Request::Explain {
        src: src.to_owned(),
        dst: dst.to_owned(),
    };
    let explanation = ask(common, &request, |reply| match reply {
        Reply::Explanation(explanation) => Some(explanation),
        _ => None,
    })?;
    match common.output {
        Format::Json => print_json(&explanation)?,
        Format::Table => print(&explanation_text(&explanation))?,
    }
    Ok(exit::OK)
}

fn explanation_text(explanation: &Explanation) -> String {
    let mut text = format!("path: {}", explanation.path);
    for (number, step) in (1..).zip(&explanation.steps) {
        text += &format!("\n{number}. {step}");
    }
    text
}

/// Builds of this program and of the agent that answers.
#[derive(Serialize)]
struct Versions {
    program: Version,
    agent: Option<Version>,
}

pub(super) fn version(common: &Common) -> Result<u8, CliError> {
    let answer = ask(common, &Request::Version, |reply| match reply {
        Reply::Version(version) => Some(version),
        _ => None,
    });
    // No agent is no failure here.
    let versions = Versions {
        program: own_version(),
        agent: answer.ok(),
    };
    match common.output {
        Format::Json => print_json(&versions)?,
        Format::Table => {
            let row = |name: &str, version: &Version| {
                vec![
                    name.to_owned(),
                    version.version.clone(),
                    version.layout.to_string(),
                    version.object_sha256.chars().take(12).collect(),
                ]
            };
            let mut rows = vec![row("this program", &versions.program)];
            rows.extend(versions.agent.iter().map(|version| row("agent", version)));
            print(&table(&["BUILD", "VERSION", "LAYOUT", "OBJECT"], rows))?;
        }
    }
    Ok(exit::OK)
}

pub(super) fn probe(common: &Common) -> Result<u8, CliError> {
    let report = probe::probe(&common.bpffs);
    match common.output {
        Format::Json => print_json(&report)?,
        Format::Table => print(&probe_text(&report))?,
    }
    Ok(if report.usable { exit::OK } else { exit::DEGRADED })
}

fn probe_text(report: &probe::Report) -> String {
    let finding = |finding| match finding {
        probe::Finding::Ok => "ok",
        probe::Finding::Warning => "warning",
        probe::Finding::Missing => "MISSING",
        probe::Finding::NotProbed => "not probed",
    };
    let rows = report.rows.iter().map(|row| {
        vec![
            row.group.to_owned(),
            row.name.clone(),
            finding(row.finding).to_owned(),
            row.detail.clone(),
        ]
    });
    let mut text = format!(
        "kernel {}\n\n{}",
        report.kernel,
        table(&["GROUP", "WHAT", "FOUND", "DETAIL"], rows)
    );
    let remedies = report
        .rows
        .iter()
        .filter_map(|row| Some((row, row.remedy.as_ref()?)));
    for (number, (row, remedy)) in (1..).zip(remedies) {
        let lead = if number == 1 { "\n\nwhat to do:" } else { "" };
        text += &format!("{lead}\n  {} {}: {remedy}", row.group, row.name);
    }
    let verdict = match (report.usable, report.queue_measure) {
        (true, Some(measure)) => format!("usable; the queue is measured by {measure}"),
        _ => "not usable: connections would stay on TCP".to_owned(),
    };
    format!("{text}\n\n{verdict}")
}
