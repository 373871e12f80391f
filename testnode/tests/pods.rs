//! Pods of functions: their traffic, their neighbours, and many of them.

use std::process::Command;
use std::sync::Mutex;
use std::thread;

use cwasi_testnode::cri::Stream;
use cwasi_testnode::functions::Echo;
use cwasi_testnode::images::Form;
use cwasi_testnode::{ContainerSpec, Error, Node, Pod, PodSpec, Result, node_tests, testing, wait};

node_tests!(
    traffic_between_pods_is_redirected,
    a_pod_has_several_functions,
    namespaces_tell_pods_of_one_name_apart,
    native_pods_and_functions_talk,
    fifty_pods_leave_nothing,
);

/// Segments with data that the sockets of a pod connected to this port have sent by TCP.
fn data_segments(pod: &Pod<'_>, port: u16) -> Result<u64> {
    let text = pod.run_inside(|| {
        let mut ss = Command::new("ss");
        ss.args(["--tcp", "--info", "--no-header", "--numeric", "dport", "="])
            .arg(format!(":{port}"));
        wait::succeed(&mut ss)
    })?;
    assert!(
        text.contains(&port.to_string()),
        "no connection to {port}: {text}"
    );
    let counts = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("data_segs_out:"));
    Ok(counts.filter_map(|count| count.parse::<u64>().ok()).sum())
}

/// Ends a test, visibly, where the kernel cannot redirect.
fn accelerates(node: &Node) -> Result<bool> {
    node.start_agent()?;
    let reason = node.agent().not_accelerating()?;
    if let Some(reason) = &reason {
        testing::skipped(&format!("redirection: {reason}"));
    }
    Ok(reason.is_none())
}

fn traffic_between_pods_is_redirected(node: &Node) -> Result<()> {
    const ENOUGH: u64 = 2000;
    if !accelerates(node)? {
        return Ok(());
    }
    let pods = Echo::start(node)?;
    // One that ends when it is told to, and never has more than a message on its way.
    let ping = pods.ping("ping", 10_000_000)?;
    let sent = wait::until("the kernel moves the messages", || {
        let function = node.agent().function("default", "client", "ping")?;
        Ok((function.sent.redirect_messages > ENOUGH).then_some(function.sent))
    })?;
    // The first ones go by TCP, until the peer is known to have read them.
    assert!(sent.tcp_messages < sent.redirect_messages / 10, "{sent:?}");
    let segments = data_segments(&pods.client, 7000)?;
    assert!(segments < ENOUGH / 10, "{segments} segments, {sent:?}");
    // The address of the flow is the pod's: nothing stands between.
    let flows = node.agent().flows()?;
    let flow = flows.iter().find(|flow| flow.remote.to_string() == pods.address);
    let flow = flow.unwrap_or_else(|| panic!("no flow to {} in {flows:?}", pods.address));
    assert_eq!(flow.local.ip().to_string(), pods.client.ip()?);
    ping.remove()?;
    // It is forgotten with its container, and the other one goes on.
    wait::until("the agent forgets a function that ended", || {
        let functions = node.agent().functions()?;
        let names: Vec<&str> = functions
            .iter()
            .map(|function| function.spec.name.as_str())
            .collect();
        Ok((names == ["echo"]).then_some(()))
    })
}

fn a_pod_has_several_functions(node: &Node) -> Result<()> {
    let (echo, ping) = (
        node.import_function("echo", Form::Rootfs)?,
        node.import_function("ping", Form::Artifact)?,
    );
    let pod = node.pod(&PodSpec::new("both"))?;
    let server = pod.run(&ContainerSpec::new("echo", &echo).args(["127.0.0.1:7000"]))?;
    server.says(Stream::Stderr, "listening")?;
    // They share the pod's loopback, and nothing else.
    let spec = ContainerSpec::new("ping", &ping).command(&["/app.wasm"]);
    let client = pod.run(&spec.args(["127.0.0.1:7000", "--size", "1000", "--count", "100"]))?;
    assert_eq!(client.wait()?, 0, "{}", client.stderr()?);
    assert!(client.stdout()?.contains("\"count\":100"), "{}", client.stdout()?);
    // One shim has the whole pod.
    let shims = node.processes_like(&["containerd-shim-cwasi-v1", pod.id()]);
    assert!(!shims.is_empty(), "no shim of {}", pod.id());
    let of_container = node.processes_like(&["containerd-shim-cwasi-v1", server.id()]);
    assert_eq!(of_container, [] as [i32; 0], "a shim for a container of a pod");
    client.remove()?;
    // The neighbour goes on.
    let again = pod.run(&ContainerSpec::new("again", &ping).command(&["/app.wasm"]).args([
        "127.0.0.1:7000",
        "--size",
        "10",
        "--count",
        "10",
    ]))?;
    assert_eq!(again.wait()?, 0, "{}", again.stderr()?);
    Ok(())
}

fn namespaces_tell_pods_of_one_name_apart(node: &Node) -> Result<()> {
    node.start_agent()?;
    let (echo, ping) = (
        node.import_function("echo", Form::Rootfs)?,
        node.import_function("ping", Form::Rootfs)?,
    );
    let spaces = ["red", "blue"];
    let mut addresses = Vec::new();
    for space in spaces {
        let pod = node.pod(
            &PodSpec::new("same")
                .namespace(space)
                .annotation("cwasi.dev/team", space),
        )?;
        let spec = ContainerSpec::new("echo", &echo).annotation("cwasi.dev/team", space);
        pod.run(&spec.args(["0.0.0.0:7000"]))?
            .says(Stream::Stderr, "listening")?;
        addresses.push(pod.ip()?);
    }
    for (space, address) in spaces.iter().zip(&addresses) {
        let function = node.agent().function(space, "same", "echo")?;
        let known: Vec<String> = function.spec.addresses.iter().map(ToString::to_string).collect();
        assert!(known.contains(address), "{known:?}");
        assert_eq!(
            function.spec.labels.get("cwasi.dev/team").map(String::as_str),
            Some(*space)
        );
        assert!(
            function.spec.labels.contains_key("io.kubernetes.pod.uid"),
            "{function:?}"
        );
    }
    let client = node.pod(&PodSpec::new("client").namespace("green"))?;
    for (space, address) in spaces.iter().zip(&addresses) {
        let spec = ContainerSpec::new(space, &ping);
        let ping = client.run(&spec.args([&format!("{address}:7000"), "--size", "64", "--count", "50"]))?;
        assert_eq!(ping.wait()?, 0, "{space}: {}", ping.stderr()?);
    }
    Ok(())
}

fn native_pods_and_functions_talk(node: &Node) -> Result<()> {
    node.start_agent()?;
    node.import(&cwasi_testnode::native::PEER.image()?)?;
    let echo = node.import_function("echo", Form::Wasm)?;
    let server = node.pod(&PodSpec::new("function"))?;
    server
        .run(&ContainerSpec::new("echo", &echo).args(["0.0.0.0:7000"]))?
        .says(Stream::Stderr, "listening")?;
    // A peer that is no function: by TCP, and right.
    let client = node.pod(&PodSpec::new("native").runtime("runc"))?;
    let spec = ContainerSpec::new("call", "docker.io/local/peer:1");
    let call = client.run(&spec.args(["call", &server.ip()?, "7000", "100"]))?;
    assert_eq!(call.wait()?, 0, "{}", call.stderr()?);
    let function = node.agent().function("default", "function", "echo")?;
    assert_eq!(function.sent.redirect_bytes, 0, "{function:?}");
    Ok(())
}

fn fifty_pods_leave_nothing(node: &Node) -> Result<()> {
    const PODS: usize = 50;
    // What one waits for an answer is the sum of what those before it cost.
    let at_a_time = thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    node.start_agent()?;
    let image = node.import_function("inspect", Form::Rootfs)?;
    in_parallel(at_a_time, 0..PODS, |number| {
        let pod = node.pod(&PodSpec::new(&format!("pod-{number}")))?;
        let spec = ContainerSpec::new("inspect", &image).args(["--sleep", "1000"]);
        pod.run(&spec)?.says(Stream::Stdout, "\"args\"").map(drop)
    })?;
    let names: Vec<String> = node
        .agent()
        .functions()?
        .into_iter()
        .filter_map(|function| function.spec.pod)
        .collect();
    assert_eq!(names.len(), PODS, "{names:?}");
    // All of them run at this moment.
    let pods = node.cri().pods()?;
    assert_eq!(pods.len(), PODS);
    in_parallel(at_a_time, pods, |pod| {
        node.cri().stop_pod(&pod)?;
        node.cri().remove_pod(&pod)
    })?;
    node.settle()?;
    assert_eq!(node.agent().functions()?.len(), 0);
    Ok(())
}

/// Does a task with each of these, on several threads; gives the first error, after which nothing new is begun: it is not what a
/// person then looks for in the log.
fn in_parallel<T>(
    threads: usize,
    all: impl IntoIterator<Item = T, IntoIter: Send>,
    task: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let left = Mutex::new(all.into_iter());
    let left = || left.lock().expect("no panic before");
    let work = || {
        loop {
            let next = left().next();
            let Some(next) = next else { return Ok(()) };
            task(next).inspect_err(|_| left().by_ref().for_each(drop))?;
        }
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut results = running.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| {
                Err(Error::Output {
                    program: "a thread".to_owned(),
                    detail: "a panic".to_owned(),
                })
            })
        });
        // All of them are joined, whatever the first one says.
        let results: Vec<Result<()>> = results.by_ref().collect();
        results.into_iter().collect()
    })
}
