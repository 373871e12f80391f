//! What happens when a part of the node dies, comes late or starts again.

use std::fs;
use std::time::Duration;

use cwasi_testnode::cri::{State, Stream};
use cwasi_testnode::functions::{Echo, is_alive};
use cwasi_testnode::images::Form;
use cwasi_testnode::{
    Container, ContainerSpec, Error, Node, Pod, PodSpec, Result, node_tests, testing, wait,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

node_tests!(
    the_peer_of_a_killed_function_sees_the_end,
    functions_run_without_an_agent_and_are_known_to_a_later_one,
    streams_outlive_the_agent,
    an_end_that_nobody_hears_is_forgotten,
    an_agent_that_hangs_holds_nobody_up,
    pods_outlive_containerd,
    what_a_killed_shim_leaves_is_cleaned_up,
    starts_that_are_given_up_leave_nothing,
);

/// A stream between two pods, which ends when it is killed, or its sink is.
struct Streaming<'n> {
    server: Pod<'n>,
    client: Pod<'n>,
    sink: Container<'n>,
    source: Container<'n>,
}

impl<'n> Streaming<'n> {
    fn start(node: &'n Node) -> Result<Self> {
        let image = node.import_function("stream", Form::Rootfs)?;
        let (server, client) = (
            node.pod(&PodSpec::new("server"))?,
            node.pod(&PodSpec::new("client"))?,
        );
        let spec = ContainerSpec::new("sink", &image);
        let sink = server.run(&spec.args(["sink", "0.0.0.0:7000", "--connections", "1"]))?;
        sink.says(Stream::Stderr, "listening")?;
        let address = format!("{}:7000", server.ip()?);
        let spec = ContainerSpec::new("source", &image);
        let spec = spec.args(["source", &address, "--size", "65536", "--bytes", "1000000000000"]);
        let source = client.run(&spec)?;
        Ok(Self {
            server,
            client,
            sink,
            source,
        })
    }
}

/// Bytes that the source has sent, however they went.
fn sent(node: &Node) -> Result<u64> {
    let function = node.agent().function("default", "client", "source")?;
    Ok(function.sent.redirect_bytes + function.sent.tcp_bytes)
}

/// Waits until a stream has moved some megabytes more.
fn goes_on(node: &Node) -> Result<()> {
    let goal = sent(node)? + (8 << 20);
    wait::until("the stream goes on", || Ok((sent(node)? > goal).then_some(())))
}

fn sigkill(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill a process");
}

fn the_peer_of_a_killed_function_sees_the_end(node: &Node) -> Result<()> {
    node.start_agent()?;
    let streaming = Streaming::start(node)?;
    goes_on(node)?;
    sigkill(streaming.source.pid()?);
    assert_eq!(streaming.source.wait()?, 137);
    // The sink was promised more bytes than came: its only connection failed, and it says so.
    assert_ne!(streaming.sink.wait()?, 0);
    let words = streaming.sink.stderr()?;
    assert!(words.contains("1 of 1 connections failed"), "{words}");
    wait::until("the agent forgets both, and their connection", || {
        let agent = node.agent();
        Ok((agent.functions()?.is_empty() && agent.flows()?.is_empty()).then_some(()))
    })?;

    // The other way round: who sends to the dead gets an error.
    streaming.server.remove()?;
    streaming.client.remove()?;
    let streaming = Streaming::start(node)?;
    goes_on(node)?;
    sigkill(streaming.sink.pid()?);
    assert_eq!(streaming.sink.wait()?, 137);
    assert_eq!(streaming.source.wait()?, 1, "{}", streaming.source.stderr()?);
    Ok(())
}

fn functions_run_without_an_agent_and_are_known_to_a_later_one(node: &Node) -> Result<()> {
    let echo = Echo::start(node)?;
    let call = |name: &str| -> Result<()> {
        let ping = echo.ping(name, 1000)?;
        assert_eq!(ping.wait()?, 0, "{}", ping.stderr()?);
        Ok(())
    };
    // Without one: all by TCP, and said once for a shim.
    call("before")?;
    let log = node.log();
    let said = log
        .lines()
        .filter(|line| line.contains("no agent") && line.contains("TCP"));
    assert_eq!(said.count(), 2, "one line for each of two shims:\n{log}");

    node.start_agent()?;
    let function = node.agent().function("default", "server", "echo")?;
    if let Some(reason) = node.agent().not_accelerating()? {
        testing::skipped(&format!("redirection: {reason}"));
        return Ok(());
    }
    assert_eq!(function.sent.redirect_bytes, 0);
    // New connections of the function that was there before.
    call("after")?;
    wait::until("the kernel moves what an older function sends", || {
        let function = node.agent().function("default", "server", "echo")?;
        Ok((function.sent.redirect_bytes > 0).then_some(()))
    })
}

fn streams_outlive_the_agent(node: &Node) -> Result<()> {
    node.start_agent()?;
    let streaming = Streaming::start(node)?;
    goes_on(node)?;
    let id = node.agent().function("default", "client", "source")?.id;
    for end in [
        cwasi_testnode::agent::Agent::kill,
        cwasi_testnode::agent::Agent::stop,
    ] {
        end(node.agent())?;
        assert_eq!(streaming.source.state()?, State::Running);
        // A function that begins now is known to the next agent.
        let image = node.import_function("inspect", Form::Rootfs)?;
        let spec = ContainerSpec::new("meanwhile", &image).args(["--sleep", "1000"]);
        let meanwhile = streaming.client.run(&spec)?;
        meanwhile.says(Stream::Stdout, "\"args\"")?;
        node.start_agent()?;
        assert_eq!(node.agent().function("default", "client", "source")?.id, id);
        node.agent().function("default", "client", "meanwhile")?;
        goes_on(node)?;
        meanwhile.remove()?;
    }
    assert_eq!(streaming.sink.state()?, State::Running);
    Ok(())
}

/// A pod's network may go before its connections have ended: the peer repeats its own end until TCP gives up.
fn an_end_that_nobody_hears_is_forgotten(node: &Node) -> Result<()> {
    node.start_agent()?;
    let pods = Echo::start(node)?;
    pods.server.run_inside(|| {
        // 13 s, by default 102.
        fs::write("/proc/sys/net/ipv4/tcp_orphan_retries", "5").expect("set a limit of the pod's");
        Ok(())
    })?;
    pods.ping("ping", 1_000_000)?;
    wait::until("both ends are known", || {
        Ok((node.agent().flows()?.len() == 2).then_some(()))
    })?;
    let pid = Pid::from_raw(pods.echo.pid()?);
    kill(pid, Signal::SIGSTOP).expect("stop the server");
    pods.client.remove()?;
    kill(pid, Signal::SIGCONT).expect("continue the server");
    pods.echo.stop(Duration::from_secs(30))?;
    wait::until("the agent forgets the server", || {
        Ok(node.agent().functions()?.is_empty().then_some(()))
    })?;
    // A connection is known as long as the kernel has it.
    assert!(!node.agent().flows()?.is_empty());
    node.settle()?;
    assert_eq!(node.agent().flows()?.len(), 0);
    Ok(())
}

fn an_agent_that_hangs_holds_nobody_up(node: &Node) -> Result<()> {
    node.start_agent()?;
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("patient"))?;
    let agent = Pid::from_raw(node.agent().pid().expect("it was started"));
    kill(agent, Signal::SIGSTOP).expect("stop the agent");
    let spec = ContainerSpec::new("early", &image).args(["--sleep", "1000"]);
    let early = pod.run(&spec)?;
    early.says(Stream::Stdout, "\"args\"")?;
    kill(agent, Signal::SIGCONT).expect("continue the agent");
    node.agent().function("default", "patient", "early")?;

    // Nor does it when the function ends.
    kill(agent, Signal::SIGSTOP).expect("stop the agent");
    early.stop(Duration::from_secs(30))?;
    assert_eq!(early.wait()?, 143);
    early.remove()?;
    kill(agent, Signal::SIGCONT).expect("continue the agent");
    wait::until("the agent forgets it", || {
        Ok(node.agent().functions()?.is_empty().then_some(()))
    })
}

fn pods_outlive_containerd(node: &Node) -> Result<()> {
    node.start_agent()?;
    let streaming = Streaming::start(node)?;
    goes_on(node)?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        node.stop_containerd(signal)?;
        goes_on(node)?;
        node.start_containerd()?;
        assert_eq!(streaming.source.state()?, State::Running);
        assert!(streaming.server.is_ready()?);
        goes_on(node)?;
    }
    // It is in charge of the pods that it found.
    let pid = streaming.source.pid()?;
    streaming.source.stop(Duration::from_secs(30))?;
    assert_eq!(streaming.source.wait()?, 143);
    assert!(!is_alive(pid));
    let image = node.import_function("inspect", Form::Rootfs)?;
    let inspect = streaming.client.run(&ContainerSpec::new("inspect", &image))?;
    assert_eq!(inspect.wait()?, 0, "{}", inspect.stderr()?);
    Ok(())
}

fn what_a_killed_shim_leaves_is_cleaned_up(node: &Node) -> Result<()> {
    node.start_agent()?;
    let streaming = Streaming::start(node)?;
    goes_on(node)?;
    let pid = streaming.source.pid()?;
    let shims = node.processes_like(&["containerd-shim-cwasi-v1", streaming.client.id()]);
    assert!(!shims.is_empty());
    for shim in shims {
        sigkill(shim);
    }
    // containerd calls the shim's `delete`.
    wait::until("the guest of a killed shim is dead", || {
        Ok((!is_alive(pid)).then_some(()))
    })?;
    wait::until("the agent forgets it", || {
        let functions = node.agent().functions()?;
        Ok((!functions.iter().any(|function| function.spec.name == "source")).then_some(()))
    })?;
    assert_ne!(streaming.source.wait()?, 0);
    // Its peer sees the end, and nothing of the pod is left: the end of every test looks.
    assert_ne!(streaming.sink.wait()?, 0);
    let id = streaming.source.id().to_owned();
    streaming.source.remove()?;
    let left: Vec<String> = node
        .leftovers()?
        .into_iter()
        .filter(|thing| thing.contains(&id))
        .collect();
    assert_eq!(left, [] as [String; 0]);
    Ok(())
}

/// As a kubelet does whose deadline passes on a busy node: containerd deletes what the shim may still be making.
fn starts_that_are_given_up_leave_nothing(node: &Node) -> Result<()> {
    node.start_agent()?;
    let image = node.import_function("inspect", Form::Rootfs)?;
    let mut given_up = 0;
    for round in 0..30 {
        let pod = node.pod(&PodSpec::new(&format!("given-up-{round}")))?;
        let spec = ContainerSpec::new("inspect", &image).args(["--sleep", "1000"]);
        // Somewhere in what takes some tens of milliseconds.
        match pod
            .create(&spec)?
            .start_within(Duration::from_millis(3 + 2 * round))
        {
            Ok(()) => {}
            Err(Error::Timeout { .. }) => given_up += 1,
            Err(error) => return Err(error),
        }
        // containerd refuses while it still starts a container; a kubelet comes back.
        wait::until("the pod is removed", || {
            match node
                .cri()
                .stop_pod(pod.id())
                .and_then(|()| node.cri().remove_pod(pod.id()))
            {
                Err(Error::Cri { .. }) => Ok(None),
                removed => removed.map(Some),
            }
        })?;
    }
    assert!(given_up > 0, "each start was quicker than its deadline");
    node.settle()?;
    assert_eq!(node.agent().functions()?.len(), 0);
    Ok(())
}
