//! The API over a real Unix socket: who may speak, what is refused, and what that costs.

mod fixture;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cwasi_agent::api::server::Limits;
use cwasi_client::client::{Client, ClientError};
use cwasi_client::protocol::{ErrorCode, MAX_REQUEST_BYTES, Reply, Request};
use fixture::{Running, Setup, leaf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Sends bytes and returns the line that is answered.
fn say(stream: &UnixStream, bytes: &[u8]) -> String {
    (&mut &*stream).write_all(bytes).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

fn code(error: ClientError) -> ErrorCode {
    match error {
        ClientError::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    }
}

#[test]
fn the_kernel_says_who_registers() {
    let running = Running::new();
    let Some(leaf) = leaf("api-registers") else { return };
    let mut client = running.client();
    let registered = client.register(&running.function("echo", &leaf)).unwrap();
    assert!(registered.accelerated, "{:?}", registered.reason);
    let Reply::Functions(functions) = client.call(&Request::Functions).unwrap() else {
        panic!("no functions");
    };
    assert_eq!(functions[0].registered_by, std::process::id());
    assert_eq!(functions[0].cgroup_id, leaf.id());
    assert_eq!(running.fake.world().attached[&leaf.id()].id, registered.id);
    // Without cgroup and netns the caller's own count: here the root cgroup, which is everybody's.
    let here = cwasi_client::cgroup::of(std::process::id()).unwrap();
    let mut own = running.function("own", &leaf);
    own.cgroup = None;
    let registered = client.register(&own);
    if here == cwasi_client::cgroup::unified_root().unwrap() {
        assert_eq!(code(registered.unwrap_err()), ErrorCode::Invalid);
    } else {
        client.unregister(registered.unwrap().id).unwrap();
    }
    client.unregister(functions[0].id).unwrap();
    assert!(running.fake.world().attached.is_empty());
    assert_eq!(code(client.unregister(1).unwrap_err()), ErrorCode::NotFound);
}

#[test]
fn a_function_is_unregistered_by_its_cgroup() {
    let running = Running::new();
    let Some(leaf) = leaf("api-cgroup") else { return };
    let mut client = running.client();
    client.register(&running.function("echo", &leaf)).unwrap();
    let path = leaf.path().to_owned();
    let link = running.dir.path().join("link");
    let root = cwasi_client::cgroup::unified_root().unwrap();
    std::os::unix::fs::symlink(&root, &link).unwrap();
    leaf.close().unwrap();
    // The cgroup is gone, and it is named by another way than at its registration.
    client
        .unregister_cgroup(&link.join(path.strip_prefix(&root).unwrap()))
        .unwrap();
    assert_eq!(
        client.call(&Request::Functions).unwrap(),
        Reply::Functions(Vec::new())
    );
    assert!(running.fake.world().attached.is_empty());
    client.unregister_cgroup(&path).unwrap();
    let relative = client.unregister_cgroup(std::path::Path::new("cwasi/echo"));
    assert_eq!(code(relative.unwrap_err()), ErrorCode::Invalid);
}

#[test]
fn addresses_come_from_the_network_namespace() {
    let running = Running::new();
    let Some(leaf) = leaf("api-addresses") else { return };
    let mut client = running.client();
    let spec = running.function("echo", &leaf);
    client.register(&spec).unwrap();
    let mut expected = cwasi_client::netns::addresses().unwrap();
    expected.sort();
    let Reply::Functions(functions) = client.call(&Request::Functions).unwrap() else {
        panic!("no functions");
    };
    assert_eq!(functions[0].spec.addresses, expected);
    let wrong = cwasi_client::protocol::FunctionSpec {
        netns: Some("/proc/self/status".into()),
        ..spec
    };
    assert_eq!(code(client.register(&wrong).unwrap_err()), ErrorCode::Invalid);
}

#[test]
fn nonsense_is_refused_and_the_connection_goes_on() {
    let running = Running::new();
    let stream = UnixStream::connect(&running.socket).unwrap();
    for nonsense in [
        &b"\n"[..],
        b"hello\n",
        b"{}\n",
        b"{\"method\":\"no_such\"}\n",
        b"{\"method\":\"unregister\",\"id\":1,\"more\":1}\n",
        b"\xff\xfe\n",
        b"[[[[[[[[[[[[[[[[\n",
        b"{\"method\":\"unregister\",\"id\":-1}\n",
        b"{\"method\":\"register\",\"name\":\"a\",\"cgroup\":7}\n",
    ] {
        let answer = say(&stream, nonsense);
        assert!(
            answer.starts_with("{\"error\":{\"code\":\"malformed\""),
            "{answer}"
        );
    }
    assert!(say(&stream, b"{\"method\":\"version\"}\n").starts_with("{\"ok\":{\"version\""));
    let deep = [b"[".repeat(60_000), b"\n".to_vec()].concat();
    assert!(say(&stream, &deep).contains("malformed"));
    let refused = say(&stream, b"{\"method\":\"register\",\"name\":\"a\\nb\"}\n");
    assert!(refused.contains("\"invalid\""), "{refused}");
    assert!(say(&stream, b"{\"method\":\"version\"}\n").contains("ok"));
}

#[test]
fn requests_may_come_together_or_in_pieces() {
    let running = Running::new();
    let mut stream = UnixStream::connect(&running.socket).unwrap();
    stream
        .write_all(&b"{\"method\":\"version\"}\n".repeat(50))
        .unwrap();
    for piece in [&b"{\"meth"[..], b"od\":\"sta", b"tus\"}", b"\n"] {
        stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let lines: Vec<String> = BufReader::new(stream).lines().map(Result::unwrap).collect();
    assert_eq!(lines.len(), 51);
    assert!(lines[50].starts_with("{\"ok\":{\"status\""));
}

#[test]
fn an_endless_line_ends_the_connection() {
    let running = Running::new();
    let longest = [
        vec![b' '; MAX_REQUEST_BYTES - 21],
        b"{\"method\":\"version\"}\n".to_vec(),
    ]
    .concat();
    assert_eq!(longest.len(), MAX_REQUEST_BYTES);
    let stream = UnixStream::connect(&running.socket).unwrap();
    assert!(say(&stream, &longest).starts_with("{\"ok\""));
    let mut stream = UnixStream::connect(&running.socket).unwrap();
    // The agent may close before everything is written.
    let _ = stream.write_all(&vec![b' '; MAX_REQUEST_BYTES * 4]);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.contains("malformed"), "{answer}");
    assert_eq!(answer.lines().count(), 1);
    running.client().call(&Request::Version).unwrap();
}

#[test]
fn connections_are_bounded() {
    let limits = Limits {
        connections: 8,
        ..Limits::default()
    };
    let running = Running::with(Setup {
        limits,
        ..Setup::default()
    });
    let mut open: Vec<Client> = (0..8).map(|_| running.client()).collect();
    for client in &mut open {
        client.call(&Request::Version).unwrap();
    }
    assert_eq!(
        code(running.client().call(&Request::Version).unwrap_err()),
        ErrorCode::Exhausted
    );
    open.pop();
    let mut tries = 0;
    while running.client().call(&Request::Version).is_err() {
        tries += 1;
        assert!(tries < 1000, "a connection that ended gives its place back");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn many_connections_at_once_are_all_answered() {
    let running = Running::new();
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let mut client = running.client();
                for _ in 0..20 {
                    client.call(&Request::Status).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_silent_connection_is_closed() {
    let limits = Limits {
        idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let running = Running::with(Setup {
        limits,
        ..Setup::default()
    });
    let mut silent = UnixStream::connect(&running.socket).unwrap();
    let mut slow = UnixStream::connect(&running.socket).unwrap();
    slow.write_all(b"{\"method\"").unwrap();
    for stream in [&mut silent, &mut slow] {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
}

/// Connections whose description does not fit a socket's buffers.
const FLOWS: usize = 20_000;

/// An agent with so many connections, and who asks for them and does not read the answer.
fn with_a_deaf_caller(limits: Limits) -> (Running, UnixStream) {
    let running = Running::with(Setup {
        limits,
        ..Setup::default()
    });
    let flow = cwasi_ebpf_common::maps::Flow {
        cookie: 1,
        ..cwasi_ebpf_common::maps::Flow::default()
    };
    running.fake.world().flows = vec![flow; FLOWS];
    let mut deaf = UnixStream::connect(&running.socket).unwrap();
    deaf.write_all(b"{\"method\":\"flows\"}\n").unwrap();
    (running, deaf)
}

fn others_are_told_of_all_flows(running: &Running) {
    let mut client = running.client();
    client.call(&Request::Version).unwrap();
    let Reply::Flows(flows) = client.call(&Request::Flows).unwrap() else {
        panic!("no flows");
    };
    assert_eq!(flows.len(), FLOWS);
}

#[test]
fn a_caller_that_does_not_read_holds_nobody_up() {
    let limits = Limits {
        connections: 8,
        // Longer than the other caller waits for its answer.
        write: Duration::from_secs(60),
        ..Limits::default()
    };
    let (running, _deaf) = with_a_deaf_caller(limits);
    others_are_told_of_all_flows(&running);
}

#[test]
fn long_answers_are_few_at_once() {
    let limits = Limits {
        long_answers: 1,
        write: Duration::from_millis(300),
        ..Limits::default()
    };
    let (running, mut deaf) = with_a_deaf_caller(limits);
    // It has been answered, as far as it takes the answer.
    poll(
        &mut [PollFd::new(deaf.as_fd(), PollFlags::POLLIN)],
        PollTimeout::NONE,
    )
    .unwrap();
    others_are_told_of_all_flows(&running);
    let mut part = Vec::new();
    let _ = deaf.read_to_end(&mut part);
    assert_ne!(
        part.last(),
        Some(&b'\n'),
        "it was cut off before the other was answered"
    );
}

/// Becomes another user for this thread only, as the system call does and libc's wrapper does not.
fn become_nobody() -> bool {
    // SAFETY: a system call on integers.
    unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) == 0 }
}

#[test]
fn only_root_is_served() {
    let running = Running::new();
    let nobody = |path: std::path::PathBuf| {
        std::thread::spawn(move || become_nobody().then(|| Client::connect(&path)?.call(&Request::Version)))
            .join()
            .unwrap()
    };
    let Some(result) = nobody(running.socket.clone()) else {
        return eprintln!("skipped: becoming another user needs root");
    };
    assert!(matches!(result, Err(ClientError::Denied { .. })), "{result:?}");
    // Even where the file would let others in, their credentials do not.
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(running.dir.path(), 0o755);
    open(&running.socket, 0o666);
    let refusal = nobody(running.socket.clone()).unwrap().unwrap_err();
    assert_eq!(code(refusal), ErrorCode::PermissionDenied);
    running.client().call(&Request::Version).unwrap();
}

#[test]
fn unload_answers_and_ends_the_agent() {
    let running = Running::new();
    assert_eq!(running.client().call(&Request::Unload).unwrap(), Reply::Done);
    assert!(running.fake.world().unloaded);
    let mut tries = 0;
    while !running.has_ended() {
        tries += 1;
        assert!(tries < 1000, "the agent goes on after the unload");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!running.socket.exists());
}

#[test]
fn events_and_flows_are_told() {
    use cwasi_ebpf_common::maps::{Event, EventKind};
    let running = Running::new();
    let event = Event {
        kind: EventKind::Enrolled as u32,
        cookie: 9,
        ..Event::default()
    };
    running.fake.world().events.push(event);
    running.agent.lock().unwrap().drain_events();
    let Reply::Events(events) = running.client().call(&Request::Events { after: 0 }).unwrap() else {
        panic!("no events");
    };
    assert_eq!(
        (
            events.next,
            events.events[0].cookie,
            events.events[0].kind.as_str()
        ),
        (1, 9, "enrolled")
    );
}
