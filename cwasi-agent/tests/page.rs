//! The status page: who is shown it, what comes with it, and how large it can get.

mod fixture;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use cwasi_agent::page::StatusPage;
use cwasi_client::protocol::Degradation;
use cwasi_ebpf_common::maps::{Counters, Flow, PairKey, TrafficEntry, TrafficKey};
use cwasi_ebpf_common::reason::{REASONS, Reason};
use fixture::{Running, Setup, leaf};
use serde_json::Value;

fn with_page(status_page: StatusPage) -> Running {
    Running::with(Setup {
        status_page,
        ..Setup::default()
    })
}

/// The whole answer to a request of a path under a name.
fn ask(address: SocketAddr, method: &str, path: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(running: &Running, path: &str) -> (String, String) {
    let answer = ask(running.http, "GET", path, "localhost");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn json(running: &Running) -> Value {
    let (head, body) = get(running, "/status.json");
    assert!(head.starts_with("http/1.1 200 ok"), "{head}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn there_is_none_until_it_is_asked_for() {
    let running = Running::new();
    for path in ["/status", "/status.json"] {
        assert!(get(&running, path).0.starts_with("http/1.1 404 "), "{path}");
    }
    assert!(get(&running, "/metrics").0.starts_with("http/1.1 200 "));
}

#[test]
fn other_names_and_methods_are_refused() {
    let running = with_page(StatusPage::Any);
    for path in ["/status", "/status.json"] {
        let status = |method: &str, host: &str| ask(running.http, method, path, host)[9..12].to_owned();
        assert_eq!(status("GET", "127.0.0.1"), "200");
        assert_eq!(status("GET", "rebound.example"), "421");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            assert_eq!(status(method, "localhost"), "405", "{method}");
        }
    }
    // Prometheus may know the node by any name.
    assert_eq!(&ask(running.http, "GET", "/metrics", "node-1")[9..12], "200");
}

#[test]
fn an_agent_that_starts_says_so() {
    let running = Running::with(Setup {
        status_page: StatusPage::Loopback,
        started: false,
        ..Setup::default()
    });
    assert!(get(&running, "/status").0.starts_with("http/1.1 503 "));
}

#[test]
fn the_page_loads_nothing_and_is_nobody_elses() {
    let running = with_page(StatusPage::Loopback);
    for (path, kind) in [("/status", "text/html"), ("/status.json", "application/json")] {
        let (head, body) = get(&running, path);
        assert!(head.contains(&format!("content-type: {kind}")), "{head}");
        for header in [
            "content-security-policy: default-src 'none'; style-src 'sha256-",
            "frame-ancestors 'none'",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(head.contains(header), "{header} is not in {head}");
        }
        assert!(!head.contains("access-control-"), "{head}");
        assert!(!body.contains("://") && !body.contains("unsafe"), "{body}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_remedy_and_escaped() {
    let hostile = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>";
    let running = Running::with(Setup {
        status_page: StatusPage::Loopback,
        degraded: vec![Degradation {
            reason: "state_dir".to_owned(),
            detail: hostile.to_owned(),
            remedy: "make it writable".to_owned(),
        }],
        ..Setup::default()
    });
    running.fake.world().traffic.insert(
        TrafficKey { src: 1, dst: 0 },
        TrafficEntry {
            fallbacks: std::array::from_fn(|reason| u64::from(reason == Reason::Blocking.index()) * 7),
            ..TrafficEntry::default()
        },
    );
    let (_, page) = get(&running, "/status");
    assert!(!page.contains("<img") && !page.contains("alert(1)>\""), "{page}");
    assert_eq!(page.matches("<script>").count(), 1, "its own");
    assert!(
        page.contains("&lt;img src=x onerror=alert(1)&gt;&quot;'&amp;&lt;/script&gt;"),
        "{page}"
    );
    assert!(page.contains("make it writable"), "{page}");
    assert!(page.contains("Not accelerating"), "{page}");
    assert!(page.contains("<code>blocking</code>"), "{page}");
    assert!(page.contains("sockets: all"), "{page}");
    let seen = json(&running);
    assert_eq!(seen["degraded"][0]["detail"], hostile);
    assert_eq!(seen["fallbacks"][0]["reason"], "blocking");
    assert_eq!(seen["fallbacks"][0]["count"], 7);
}

#[test]
fn both_ends_of_a_pair_are_summed() {
    let Some(leaves) = ["page-a", "page-b"]
        .map(leaf)
        .into_iter()
        .collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let running = with_page(StatusPage::Loopback);
    for (name, leaf) in ["front", "back"].iter().zip(&leaves) {
        running.client().register(&running.function(name, leaf)).unwrap();
    }
    let sent = |redirect_bytes, tcp_bytes| Counters {
        redirect_bytes,
        redirect_messages: 1,
        tcp_bytes,
        ..Counters::default()
    };
    let end = |connection, role, function, peer_function, state, sent| Flow {
        pair: PairKey {
            active: connection,
            passive: 9,
            role,
        },
        function,
        peer_function,
        state,
        sent,
        ..Flow::default()
    };
    {
        let mut world = running.fake.world();
        world.flows = vec![
            end(1, 0, 1, 2, 1, sent(100, 1)),
            end(1, 1, 2, 1, 1, sent(10, 0)),
            end(
                2,
                0,
                2,
                0,
                0,
                Counters {
                    tcp_messages: 1,
                    ..sent(0, 5)
                },
            ),
        ];
        let gone = TrafficEntry {
            sent: sent(1000, 0),
            ..TrafficEntry::default()
        };
        world.traffic.insert(TrafficKey { src: 2, dst: 1 }, gone);
        // Of a function that is registered no more.
        world.traffic.insert(TrafficKey { src: 77, dst: 1 }, gone);
    }
    let pairs = json(&running)["pairs"].clone();
    let function = |name: &str| serde_json::json!({ "function": format!("default/{name}") });
    let expected = serde_json::json!({ "more": 0, "shown": [
        {
            "ends": [function("front"), function("back")],
            "open": { "kernel": 1, "network": 0, "process": 0 },
            "sent": [
                { "kernel": 100, "network": 1, "process": 0 },
                { "kernel": 1010, "network": 0, "process": 0 },
            ],
        },
        {
            "ends": [function("back"), "elsewhere"],
            "open": { "kernel": 0, "network": 1, "process": 0 },
            "sent": [
                { "kernel": 0, "network": 5, "process": 0 },
                { "kernel": 0, "network": 0, "process": 0 },
            ],
        },
    ] });
    assert_eq!(sorted(pairs), sorted(expected));
}

/// The ends of each pair, and what they sent, in order of the names.
fn sorted(mut pairs: Value) -> Value {
    for pair in pairs["shown"].as_array_mut().unwrap() {
        let [a, b] = [0, 1].map(|end| pair["ends"][end].to_string());
        if a > b {
            for key in ["ends", "sent"] {
                pair[key].as_array_mut().unwrap().reverse();
            }
        }
    }
    pairs
}

#[test]
fn a_busy_node_makes_no_large_page() {
    const FUNCTIONS: u32 = 260;
    let running = Running::with(Setup {
        status_page: StatusPage::Loopback,
        real_cgroups: false,
        ..Setup::default()
    });
    for id in 1..=FUNCTIONS {
        let cgroup = std::path::PathBuf::from(format!("/cg/cwasi/f{id}"));
        running
            .fake
            .world()
            .cgroups
            .insert(cgroup.clone(), (u64::from(id), 1));
        let spec = cwasi_client::protocol::FunctionSpec {
            name: format!("{}-{id}", "x".repeat(200)),
            namespace: "n".repeat(63),
            cgroup: Some(cgroup.clone()),
            ..Default::default()
        };
        let candidate = cwasi_agent::agent::Candidate { spec, cgroup };
        let by = cwasi_agent::agent::Process::UNSEEN;
        running.agent.lock().unwrap().register(candidate, by).unwrap();
    }
    running.fake.world().flows = (0..60_000)
        .map(|number| Flow {
            pair: PairKey {
                active: number,
                passive: 0,
                role: 0,
            },
            function: 1 + number % FUNCTIONS,
            peer_function: 1 + number * 7 % FUNCTIONS,
            fallbacks: [1; REASONS],
            ..Flow::default()
        })
        .collect();
    let seen = json(&running);
    assert_eq!(seen["functions"]["shown"].as_array().unwrap().len(), 200);
    assert_eq!(seen["functions"]["more"], FUNCTIONS - 200);
    assert_eq!(seen["pairs"]["shown"].as_array().unwrap().len(), 200);
    assert_eq!(seen["open"]["network"], 60_000);
    assert_eq!(seen["fallbacks"].as_array().unwrap().len(), REASONS);
    let (_, page) = get(&running, "/status");
    assert!(page.len() < 1 << 19, "{} bytes", page.len());
    assert!(page.contains(&format!("{} more functions.", FUNCTIONS - 200)));
    assert!(page.contains("not drawn."));
}
