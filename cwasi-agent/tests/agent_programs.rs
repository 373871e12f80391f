//! Well-known programs under `cwasi-agent exec` do what they do without it.

mod support;
mod support_agent;

use std::fs;
use std::process::Command;

use serde_json::Value;
use support::netns::{NetNs, veth};
use support_agent::agent::Agent;
use support_agent::services::{Service, run, run_plain, utf8};

/// Address of the pod that serves.
const SERVER: &str = "10.1.0.11";

/// What the kernel program has moved for every function.
fn redirected(agent: &Agent) -> u64 {
    let status = agent.status();
    assert_eq!(
        agent.counters()["cwasi_bytes_total{path=\"kernel\"}"],
        status.traffic.redirect_bytes,
        "metrics and status agree while nothing is moved"
    );
    status.traffic.redirect_bytes
}

/// Names and rates of the tests in redis-benchmark's CSV.
fn rates(csv: &str) -> Vec<(String, f64)> {
    let mut rates = Vec::new();
    for line in csv.lines() {
        let fields: Vec<_> = line.split(',').map(|field| field.trim_matches('"')).collect();
        if let [name, rate, ..] = fields[..]
            && let Ok(rate) = rate.parse()
        {
            rates.push((name.to_owned(), rate));
        }
    }
    rates
}

#[test]
fn redis() {
    needs!();
    needs_program!("redis-server" of "redis-server");
    needs_program!("redis-benchmark" of "redis-tools");
    needs_program!("redis-cli" of "redis-tools");
    let ([here, there], agent) = (veth(), Agent::start());
    let server = [
        "redis-server",
        "--bind",
        SERVER,
        "--port",
        "6379",
        "--save",
        "",
        "--appendonly",
        "no",
        "--protected-mode",
        "no",
        "--dir",
        utf8(agent.dir.path()),
    ];
    let server = agent.exec("cache", &there, &[], &server);
    let _server = Service::start(server, &there, 6379);
    let cli = |command: &[&str]| run_plain(&here, &[&["redis-cli", "-h", SERVER], command].concat());

    for shape in [
        &["-c", "1"][..],
        &["-c", "20"],
        &["-c", "1", "-P", "16"],
        &["-c", "20", "-P", "16"],
    ] {
        let tests = [
            "redis-benchmark",
            "-h",
            SERVER,
            "--csv",
            "-t",
            "set,get,lpush,lrange_100",
            "-n",
            "2000",
            "-d",
            "300",
        ];
        let benchmark = [&tests, shape].concat();
        let plain = rates(&run_plain(&here, &benchmark));
        let before = (redirected(&agent), cli(&["info", "commandstats"]));
        let function = rates(&run(agent.exec("benchmark", &here, &[], &benchmark)));
        let names = |rates: &[(String, f64)]| rates.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&function), names(&plain), "{shape:?}");
        assert!(
            function.len() >= 4 && function.iter().all(|(_, rate)| *rate > 0.0),
            "{function:?}"
        );
        // 2000 values of 300 bytes went to the server, and 2000 came back.
        let moved = redirected(&agent) - before.0;
        assert!(moved > 2 * 2000 * 300, "{moved} bytes redirected with {shape:?}");
    }
    // What a client that is no function reads is what functions wrote.
    assert_eq!(cli(&["lpop", "mylist"]).trim_end().len(), 300);
    let set = agent.exec(
        "writer",
        &here,
        &[],
        &["redis-cli", "-h", SERVER, "set", "key", &"v".repeat(100_000)],
    );
    assert_eq!(run(set).trim_end(), "OK");
    assert_eq!(cli(&["get", "key"]).trim_end(), "v".repeat(100_000));
    assert_eq!(agent.functions().len(), 1, "only the server is left");
}

/// A wrk script that compares every body with a file.
fn checker(file: &str) -> String {
    format!(
        "function init()\n  local file = assert(io.open({file:?}, 'rb'))\n  expected = file:read('*a')\n  file:close()\nend\n\
         function response(status, headers, body)\n  if status ~= 200 or body ~= expected then\n    \
         io.stderr:write('a wrong answer: ', status, ', ', #body, ' bytes\\n')\n    os.exit(9)\n  end\nend\n"
    )
}

/// Requests that wrk has made, none of which failed.
fn requests(said: &str) -> u64 {
    assert!(
        !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "{said}"
    );
    let line = said.lines().find(|line| line.contains(" requests in "));
    let count = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    count.unwrap_or_else(|| panic!("{said}"))
}

#[test]
fn nginx() {
    needs!();
    needs_program!("nginx" of "nginx-light");
    needs_program!("wrk" of "wrk");
    let ([here, there], agent) = (veth(), Agent::start());
    let dir = agent.dir.path();
    let config = format!(
        "daemon off;\nuser root;\nworker_processes 2;\npid nginx.pid;\nerror_log stderr;\nevents {{ worker_connections 256; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  keepalive_requests 1000000;\n  client_body_temp_path body;\n  \
         proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  \
         server {{ listen {SERVER}:80; root www; }}\n}}\n"
    );
    fs::write(dir.join("nginx.conf"), config).unwrap();
    fs::create_dir(dir.join("www")).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let files = [("1k", 1 << 10), ("1m", 1 << 20)].map(|(name, size)| {
        let body: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
        let path = dir.join("www").join(name);
        fs::write(&path, body).unwrap();
        let script = dir.join(format!("{name}.lua"));
        fs::write(&script, checker(utf8(&path))).unwrap();
        (name, size, script)
    });
    let server = ["nginx", "-p", utf8(dir), "-e", "stderr", "-c", "nginx.conf"];
    let _server = Service::start(agent.exec("web", &there, &[], &server), &there, 80);
    for (name, size, script) in &files {
        let url = format!("http://{SERVER}/{name}");
        let client = ["wrk", "-t", "1", "-c", "8", "-d", "1s", "-s", utf8(script), &url];
        assert!(requests(&run_plain(&here, &client)) > 0);
        let before = redirected(&agent);
        let answered = requests(&run(agent.exec("client", &here, &[], &client)));
        assert!(answered > 0);
        let connected = agent.status().traffic.connections;
        assert!(connected > 0, "wrk and nginx use non-blocking sockets");
        let moved = redirected(&agent) - before;
        // Of large files the kernel may leave the most to TCP; small answers are its own.
        let least = if *size < 4096 { answered * *size / 2 } else { 1 };
        assert!(
            moved >= least,
            "{name}: {moved} bytes redirected for {answered} answers"
        );
    }
    // nginx waits edge-triggered, and takes a short read for the last one: requests go to it by TCP.
    assert!(agent.fallbacks("edge_triggered") > 0, "{:?}", agent.status());
    assert!(agent.counters()["cwasi_fallback_total{reason=\"edge_triggered\",stage=\"send\"}"] > 0);
}

/// Runs an iperf3 client, which must move all the bytes that it was told to. Its receiver stops reading at the end of the test,
/// whatever is still on the way.
fn iperf3(command: Command, bytes: u64) {
    let report: Value = serde_json::from_str(&run(command)).unwrap();
    assert_eq!(report.get("error"), None, "{report}");
    let [sent, received] =
        ["sum_sent", "sum_received"].map(|sum| report["end"][sum]["bytes"].as_u64().unwrap());
    assert!(sent >= bytes, "{sent} bytes sent");
    assert!(
        received <= sent && received > sent / 2,
        "{received} of {sent} bytes received"
    );
}

/// Runs iperf3 both ways between two functions of which these sockets may be enrolled.
fn iperf3_between(agent: &Agent, [here, there]: [&NetNs; 2], options: &[&str]) {
    let server = ["iperf3", "-s", "-B", SERVER, "--forceflush"];
    let _server = Service::start(agent.exec("iperf3-server", there, options, &server), there, 5201);
    for way in [&[][..], &["-R"], &["-P", "4"]] {
        let client = [&["iperf3", "-c", SERVER, "-J", "-n", "256M"], way].concat();
        iperf3(agent.exec("iperf3-client", here, options, &client), 256 << 20);
    }
}

#[test]
fn iperf3_with_its_blocking_sockets() {
    needs!();
    needs_program!("iperf3" of "iperf3");
    let ([here, there], agent) = (veth(), Agent::start());
    iperf3_between(&agent, [&here, &there], &[]);
    let status = agent.status();
    assert!(
        status.traffic.connections > 0 || status.fallbacks["blocking"] > 0,
        "{status:?}"
    );
}

#[test]
fn iperf3_with_all_sockets() {
    needs!();
    needs_program!("iperf3" of "iperf3");
    let ([here, there], agent) = (veth(), Agent::start());
    iperf3_between(&agent, [&here, &there], &["--sockets", "all"]);
    assert!(redirected(&agent) > 256 << 20, "{:?}", agent.status());
}
