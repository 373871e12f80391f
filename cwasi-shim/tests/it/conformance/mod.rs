//! The product's host of `wasi:sockets/tcp` answers as wasmtime-wasi's own: the guest `tcp-conformance` writes down every call
//! and its answer on both, and the transcripts are compared line by line.

mod exceptions;
mod hosts;

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::Command;
use std::rc::Rc;
use std::{env, fs, thread};

use nix::sched::{CloneFlags, unshare};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use self::exceptions::{Compared, Exceptions};
use self::hosts::{Host, Run};

/// Cases at a time: nearly all of their time is waiting for what does not come.
const AT_ONCE: usize = 16;
/// Leaves loopback where there is a route, so it is only asked in a network namespace that has none.
const LEAVES_LOOPBACK: &str = "connect-unreachable";
/// Differences of one case that are told.
const MOST_TOLD: usize = 6;
/// How the guest's list marks what takes two.
const TWO_GUESTS: &str = " (two guests)";
/// Chooses the cases whose name contains it; the transcripts are shown then.
const ONLY: &str = "CWASI_CONFORMANCE";

/// A case over one family.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    family: &'static str,
    guests: usize,
}

/// Runs `body` on a thread in a network namespace of its own where that is possible, and tells it whether.
fn isolated(body: impl FnOnce(bool) + Send + 'static) {
    let thread = thread::spawn(|| {
        let alone = match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => {
                let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
                assert!(up.is_ok_and(|status| status.success()), "ip link set lo up");
                true
            }
            Err(errno) => {
                eprintln!("skipped: {LEAVES_LOOPBACK}: unshare(CLONE_NEWNET): {errno}");
                false
            }
        };
        body(alone);
    });
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// The cases that the guest has and this machine can run.
async fn cases(host: &Host, alone: bool) -> Vec<Case> {
    let dir = tempfile::tempdir().unwrap();
    let listed = host
        .run(&Run {
            arguments: &["--list".to_owned()],
            dir: dir.path(),
            network: None,
        })
        .await;
    let (ended, names) = listed.split_last().unwrap();
    assert_eq!(ended, "exited 0");
    let mut families = vec!["ipv4"];
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => families.push("ipv6"),
        Err(error) => eprintln!("skipped: IPv6: {error}"),
    }
    let chosen = env::var(ONLY).unwrap_or_default();
    let cases = names.iter().flat_map(|name| {
        let (name, guests) = name
            .strip_suffix(TWO_GUESTS)
            .map_or((name.as_str(), 1), |name| (name, 2));
        families.iter().map(move |family| Case {
            name: name.to_owned(),
            family,
            guests,
        })
    });
    cases
        .filter(|case| case.name.contains(&chosen) && (alone || case.name != LEAVES_LOOPBACK))
        .collect()
}

/// What the case's guests wrote on both hosts, once more where they differ: cases share a network, and a port that one has given back
/// may come again, under its first name or to another case.
async fn transcripts(hosts: &[Host; 2], compared: Compared, case: &Case) -> (Vec<String>, Vec<String>) {
    let mut tries = 2;
    loop {
        let (stock, other) = tokio::join!(transcript(&hosts[0], case), transcript(&hosts[1], case));
        let mut differences = String::new();
        let mut exceptions = Exceptions::of(compared);
        differ(case, &stock, &other, &mut exceptions, &mut differences);
        if differences.is_empty() || tries == 0 {
            return (stock, other);
        }
        tries -= 1;
    }
}

/// What the case's guests wrote; of two, first the serving one.
async fn transcript(host: &Host, case: &Case) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let network = host.network();
    let common = [case.name.clone(), case.family.to_owned()];
    if case.guests == 1 {
        let run = Run {
            arguments: &common,
            dir: dir.path(),
            network,
        };
        return host.run(&run).await;
    }
    let port = free_port(case.family).to_string();
    let mut runs = Vec::new();
    for role in ["serve", "connect"] {
        let path = dir.path().join(role);
        fs::create_dir(&path).unwrap();
        runs.push((path, [&common[..], &[role.to_owned(), port.clone()]].concat()));
    }
    let [serve, connect] = [0, 1].map(|at| Run {
        arguments: &runs[at].1,
        dir: &runs[at].0,
        network: network.clone(),
    });
    let (served, connected) = tokio::join!(host.run(&serve), host.run(&connect));
    [served, connected].concat()
}

fn free_port(family: &str) -> u16 {
    let listener = match family {
        "ipv4" => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)),
        _ => TcpListener::bind((Ipv6Addr::LOCALHOST, 0)),
    };
    listener.unwrap().local_addr().unwrap().port()
}

/// Runs every case on both hosts; all that differs must be in `exceptions`, and all of these must be met.
fn compare(compared: Compared) {
    isolated(move |alone| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = LocalSet::new();
        let differences = local.block_on(&runtime, async {
            let hosts = [Host::stock(), compared.host()];
            let cases = cases(&hosts[0], alone).await;
            let all_families = cases.iter().any(|case| case.family == "ipv6");
            let limit = Rc::new(Semaphore::new(AT_ONCE));
            let mut running = Vec::new();
            for case in cases {
                let (hosts, limit) = (hosts.clone(), Rc::clone(&limit));
                running.push(tokio::task::spawn_local(async move {
                    let _permit = limit.acquire().await.unwrap();
                    let both = transcripts(&hosts, compared, &case).await;
                    (case, both)
                }));
            }
            let mut exceptions = Exceptions::of(compared);
            let mut differences = String::new();
            let mut all = 0;
            for run in running {
                let (case, (stock, other)) = run.await.unwrap();
                all += stock.len();
                if env::var_os(ONLY).is_some() {
                    eprintln!("{case:?}:\n{}", stock.join("\n"));
                }
                differ(&case, &stock, &other, &mut exceptions, &mut differences);
            }
            assert!(all > 0, "no case was compared");
            eprintln!("{all} lines compared");
            if all_families && env::var_os(ONLY).is_none() {
                for unmet in exceptions.unmet() {
                    writeln!(differences, "not met: {unmet}").unwrap();
                }
            }
            differences
        });
        assert!(differences.is_empty(), "the hosts differ:\n{differences}");
    });
}

/// Appends the lines that differ without being an exception.
fn differ(
    case: &Case,
    stock: &[String],
    other: &[String],
    exceptions: &mut Exceptions,
    differences: &mut String,
) {
    let mut section = "";
    let mut told = 0;
    for at in 0..stock.len().max(other.len()) {
        let [expected, found] = [stock, other].map(|lines| lines.get(at).map_or("(nothing)", String::as_str));
        if expected.starts_with("# ") {
            section = expected;
        }
        if expected == found || exceptions.cover(&case.name, expected, found) {
            continue;
        }
        // One difference can make all the lines after it differ.
        told += 1;
        if told > MOST_TOLD {
            continue;
        }
        writeln!(
            differences,
            "{} {}, line {}, {section}\n    stock: {expected}\n    other: {found}",
            case.name,
            case.family,
            at + 1
        )
        .unwrap();
    }
}

/// What is compared with the stock host must not differ by chance.
#[test]
fn stock_host_answers_alike_twice() {
    compare(Compared::Itself);
}

#[test]
fn kernel_sockets_answer_as_the_stock_host() {
    compare(Compared::Kernel);
}

#[test]
fn guests_alone_on_their_thread_are_answered_as_by_the_stock_host() {
    compare(Compared::Alone);
}

#[test]
fn pipes_in_the_process_answer_as_the_stock_host() {
    compare(Compared::Process);
}
