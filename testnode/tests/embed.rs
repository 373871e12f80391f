//! Pods whose functions run in one process: every container is as ever.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use cwasi_testnode::cri::{State, Stream};
use cwasi_testnode::functions::is_alive;
use cwasi_testnode::images::Form;
use cwasi_testnode::native::PEER;
use cwasi_testnode::{Container, ContainerSpec, Error, Node, Pod, PodSpec, Result, node_tests, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

node_tests!(
    functions_of_a_pod_talk_to_each_other_and_to_others,
    the_agent_shows_what_stays_in_the_process,
    the_annotation_needs_a_pod,
    http_functions_share_a_process_too,
    each_function_is_given_its_own,
    one_ends_and_the_others_go_on,
    stopped_and_killed_containers_end_alone,
    a_function_that_computes_stops_no_other,
    functions_come_and_go_at_once,
    memory_is_limited_for_each_container,
    what_cannot_be_kept_is_refused,
    confined_functions_share_a_process_too,
    functions_end_with_their_process,
    a_pod_outlives_containerd,
    what_a_killed_shim_leaves_is_cleaned_up,
);

const EMBED: &str = "cwasi.dev/embed";
const MIB: i64 = 1 << 20;

fn embedded(name: &str) -> PodSpec {
    PodSpec::new(name).annotation(EMBED, "true")
}

fn inspect<S: AsRef<str>>(name: &str, image: &str, args: impl IntoIterator<Item = S>) -> ContainerSpec {
    ContainerSpec::new(name, image).args(args)
}

/// Starts an `echo` that listens on every address of the pod.
fn echo<'n>(pod: &Pod<'n>, name: &str, image: &str) -> Result<Container<'n>> {
    let echo = pod.run(&ContainerSpec::new(name, image).args(["0.0.0.0:7000"]))?;
    echo.says(Stream::Stderr, "listening")?;
    Ok(echo)
}

/// Runs a `ping` to its good end.
fn ping(pod: &Pod<'_>, name: &str, image: &str, address: &str) -> Result<()> {
    let spec = ContainerSpec::new(name, image);
    let ping = pod.run(&spec.args([address, "--size", "1000", "--count", "100"]))?;
    assert_eq!(ping.wait()?, 0, "{}", ping.stderr()?);
    assert!(ping.stdout()?.contains("\"count\":100"), "{}", ping.stdout()?);
    ping.remove()
}

/// The processes of functions that the pod has had, as its shim has logged them.
fn processes(node: &Node, pod: &Pod<'_>) -> Vec<i32> {
    let announced = format!("the process of the functions of {} is ", pod.id());
    let log = node.log();
    let pids = log.split(&announced).skip(1).map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a pid")
    });
    pids.collect()
}

/// The only one that it has had.
fn process(node: &Node, pod: &Pod<'_>) -> Result<i32> {
    wait::until("the process of the functions", || {
        let pids = processes(node, pod);
        assert!(pids.len() < 2, "{pids:?}");
        Ok(pids.first().copied())
    })
}

fn is_gone(pid: i32) -> Result<()> {
    wait::until(format!("the end of process {pid}"), || {
        Ok((!is_alive(pid)).then_some(()))
    })
}

/// What `inspect` printed.
fn report(container: &Container<'_>) -> Result<Value> {
    let text = container.stdout()?;
    serde_json::from_str(text.trim()).map_err(|error| Error::Output {
        program: "inspect".to_owned(),
        detail: format!("{error}: {text}"),
    })
}

fn functions_of_a_pod_talk_to_each_other_and_to_others(node: &Node) -> Result<()> {
    node.start_agent()?;
    node.import(&PEER.image()?)?;
    let (echo_image, ping_image) = (
        node.import_function("echo", Form::Rootfs)?,
        node.import_function("ping", Form::Artifact)?,
    );
    let pod = node.pod(&embedded("both"))?;
    let server = echo(&pod, "echo", &echo_image)?;
    let own = process(node, &pod)?;
    assert_ne!(server.pid()?, own, "the container has a process of its own");
    let spec = ContainerSpec::new("ping", &ping_image).command(&["/app.wasm"]);
    let client = pod.run(&spec.args(["127.0.0.1:7000", "--size", "1000", "--count", "100"]))?;
    assert_eq!(client.wait()?, 0, "{}", client.stderr()?);
    assert!(client.stdout()?.contains("\"count\":100"), "{}", client.stdout()?);
    assert_eq!(server.stdout()?, "", "each has its own log");
    assert_eq!(process(node, &pod)?, own, "both ran in it");

    // The agent knows the pod as one function, at the pod's address.
    let functions = node.agent().functions()?;
    let addresses: Vec<Vec<String>> = functions
        .iter()
        .map(|function| function.spec.addresses.iter().map(ToString::to_string).collect())
        .collect();
    assert!(
        matches!(&addresses[..], [of_pod] if of_pod.contains(&pod.ip()?)),
        "{functions:?}"
    );

    // Others reach the same listener: functions of other pods, native programs.
    let address = format!("{}:7000", pod.ip()?);
    let ping_image = node.import_function("ping", Form::Rootfs)?;
    ping(&node.pod(&PodSpec::new("other"))?, "ping", &ping_image, &address)?;
    ping(&node.pod(&embedded("embedded"))?, "ping", &ping_image, &address)?;
    let native = pod.run(&ContainerSpec::new("native", "docker.io/local/peer:1").args([
        "call",
        "127.0.0.1",
        "7000",
        "100",
    ]))?;
    assert_eq!(native.wait()?, 0, "{}", native.stderr()?);

    // With the last function its process ends, and the pod goes on.
    server.remove()?;
    is_gone(own)?;
    assert!(pod.is_ready()?);
    Ok(())
}

fn the_agent_shows_what_stays_in_the_process(node: &Node) -> Result<()> {
    let (echo_image, ping_image) = (
        node.import_function("echo", Form::Rootfs)?,
        node.import_function("ping", Form::Rootfs)?,
    );
    let pod = node.pod(&embedded("shown"))?;
    echo(&pod, "echo", &echo_image)?;
    let spec = ContainerSpec::new("ping", &ping_image);
    let client = pod.run(&spec.args(["127.0.0.1:7000", "--size", "1000", "--count", "100000000"]))?;
    // One that comes later knows it all, too.
    node.start_agent()?;
    let flow = wait::until("a flow inside of the process", || {
        let flows = node.agent().flows()?;
        Ok(flows.into_iter().find(|flow| {
            flow.path == "process" && flow.src == "default/ping" && flow.sent.process_messages > 1000
        }))
    })?;
    assert_eq!(flow.dst.as_deref(), Some("default/echo"), "{flow:?}");
    assert_eq!(flow.remote.to_string(), "127.0.0.1:7000", "{flow:?}");
    assert_eq!(
        flow.sent.tcp_messages + flow.sent.redirect_messages,
        0,
        "{flow:?}"
    );
    let functions = node.agent().functions()?;
    let members: Vec<&[String]> = functions
        .iter()
        .map(|function| &function.spec.members[..])
        .collect();
    assert_eq!(members, [["echo", "ping"]], "{functions:?}");
    client.remove()?;
    let function = wait::until("the agent hears that it ended", || {
        let function = node.agent().functions()?.pop().expect("the pod's");
        Ok((function.spec.members == ["echo"]).then_some(function))
    })?;
    assert!(
        function.sent.process_messages >= flow.sent.process_messages,
        "{function:?}"
    );
    assert_eq!(function.sent.process_connections, 1, "{function:?}");
    wait::until("its flow ends", || {
        let flows = node.agent().flows()?;
        Ok((!flows.iter().any(|flow| flow.path == "process")).then_some(()))
    })
}

fn the_annotation_needs_a_pod(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let flags = ["--rm", "--annotation", "cwasi.dev/embed=true"];
    let ran = node.ctr_run("cwasi", &flags, &image, "alone", &["/app.wasm", "--exit", "5"])?;
    assert_eq!(ran.status.code(), Some(5), "{ran:?}");
    wait::until("the log says that it had no effect", || {
        Ok(node
            .log()
            .contains("annotation cwasi.dev/embed has no effect")
            .then_some(()))
    })
}

fn http_functions_share_a_process_too(node: &Node) -> Result<()> {
    let image = node.import_function("http", Form::Rootfs)?;
    let pod = node.pod(&embedded("web"))?;
    let address = format!("http://{}:8080", pod.ip()?);
    let get = || {
        wait::until(format!("an answer of {address}"), || {
            let output = node.namespaces().run(|| {
                let mut curl = Command::new("curl");
                wait::output(curl.args(["--silent", "--max-time", "20", &address]))
            })?;
            Ok(output.status.success().then(|| wait::text(&output.stdout)))
        })
    };
    let other = ContainerSpec::new("other", &image).annotation("cwasi.dev/http-address", "0.0.0.0:9000");
    let other = pod.run(&other)?;
    for name in ["first", "second"] {
        let served = pod.run(&ContainerSpec::new(name, &image))?;
        assert_eq!(get()?, "hello from a function\n");
        assert!(served.stderr()?.contains("serving HTTP"), "{}", served.stderr()?);
        // The next one finds the port free.
        served.stop(Duration::from_secs(30))?;
        assert_eq!(served.wait()?, 143);
    }
    assert_eq!(other.state()?, State::Running);
    Ok(())
}

fn each_function_is_given_its_own(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&embedded("given"))?;
    let directory = node.directory("volume")?;
    fs::write(directory.join("greeting"), "hello").expect("write a file");
    let both = [
        "--list",
        "/data",
        "--read",
        "/data/greeting",
        "--write",
        "/data/answer",
    ];
    let writes = pod.run(
        &inspect("writes", &image, both)
            .env("COLOUR", "blue")
            .working_dir("/etc")
            .mount(&directory, "/data", false),
    )?;
    let reads =
        pod.run(&inspect("reads", &image, ["--write", "/data/refused"]).mount(&directory, "/data", true))?;
    let nothing = pod.run(&inspect("nothing", &image, ["--read", "/data/greeting"]))?;
    for container in [&writes, &reads, &nothing] {
        assert_eq!(container.wait()?, 0, "{}", container.stderr()?);
    }
    let written = report(&writes)?;
    assert_eq!(written["args"][0], "/app.wasm");
    assert_eq!(written["env"]["COLOUR"], "blue");
    assert_eq!(written["env"]["HOSTNAME"], "given");
    assert_eq!(written["env"]["PWD"], "/etc");
    assert_eq!(written["list"], json!(["greeting"]));
    assert_eq!(written["read"], "hello");
    assert_eq!(written["write"], Value::Null);
    assert!(directory.join("answer").exists());
    let refused = report(&reads)?;
    assert!(refused["write"]["error"].is_string(), "{refused}");
    assert_eq!(refused["env"].get("COLOUR"), None);
    let nothing = report(&nothing)?;
    assert!(
        nothing["read"]["error"].is_string(),
        "no volume of another: {nothing}"
    );

    // Neither its own container's files of the kernel, nor the common process's.
    for (name, path) in [("proc", "/proc"), ("sys", "/sys")] {
        let spec = inspect(name, &image, ["--list", path, "--read", "/proc/self/maps"]);
        let container = pod.run(&spec)?;
        assert_eq!(container.wait()?, 0, "{}", container.stderr()?);
        let report = report(&container)?;
        let empty = report["list"] == json!([]) || report["list"]["error"].is_string();
        assert!(empty && report["read"]["error"].is_string(), "{report}");
    }
    Ok(())
}

fn one_ends_and_the_others_go_on(node: &Node) -> Result<()> {
    let (image, echo_image, ping_image) = (
        node.import_function("inspect", Form::Rootfs)?,
        node.import_function("echo", Form::Rootfs)?,
        node.import_function("ping", Form::Rootfs)?,
    );
    let pod = node.pod(&embedded("ends"))?;
    let server = echo(&pod, "echo", &echo_image)?;
    let own = process(node, &pod)?;
    for code in [0, 42, 255] {
        let code = code.to_string();
        let container = pod.run(&inspect(&format!("code-{code}"), &image, ["--exit", &code]))?;
        assert_eq!(container.wait()?.to_string(), code);
    }
    let module = node.import_function("inspect-p1", Form::Rootfs)?;
    let module = pod.run(&inspect("module", &module, ["--exit", "7"]))?;
    assert_eq!(module.wait()?, 7, "{}", module.stderr()?);
    let trapped = pod.run(&inspect("trap", &image, ["--trap"]))?;
    assert_eq!(trapped.wait()?, 134);
    assert!(
        trapped.stderr()?.contains("cwasi: the guest trapped"),
        "{}",
        trapped.stderr()?
    );
    assert_eq!(server.stderr()?.lines().count(), 1, "{}", server.stderr()?);
    ping(&pod, "ping", &ping_image, "127.0.0.1:7000")?;
    assert_eq!(server.state()?, State::Running);
    assert_eq!(process(node, &pod)?, own);
    Ok(())
}

fn stopped_and_killed_containers_end_alone(node: &Node) -> Result<()> {
    let (image, echo_image, ping_image) = (
        node.import_function("inspect", Form::Rootfs)?,
        node.import_function("echo", Form::Rootfs)?,
        node.import_function("ping", Form::Rootfs)?,
    );
    let pod = node.pod(&embedded("stop"))?;
    let waits = pod.run(&inspect("waits", &image, ["--sleep", "1000"]))?;
    waits.says(Stream::Stdout, "\"args\"")?;
    let own = process(node, &pod)?;
    // One that was never started ends, too.
    let created = pod.create(&inspect("created", &image, ["--sleep", "1000"]))?;
    created.remove()?;
    for (name, end) in [("stopped", 143), ("killed", 137)] {
        let server = echo(&pod, name, &echo_image)?;
        ping(&pod, "ping", &ping_image, "127.0.0.1:7000")?;
        let pid = server.pid()?;
        if end == 143 {
            server.stop(Duration::from_secs(30))?;
        } else {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill the stand-in");
        }
        // Whoever hears of its end finds its port free: the next one takes it.
        assert_eq!(server.wait()?, end, "{name}");
        assert!(!is_alive(pid));
        server.remove()?;
    }
    assert_eq!(waits.state()?, State::Running);
    assert_eq!(process(node, &pod)?, own);
    waits.stop(Duration::ZERO)?;
    assert_eq!(waits.wait()?, 137);
    is_gone(own)?;
    // The next one gets another.
    let again = pod.run(&inspect("again", &image, ["--exit", "3"]))?;
    assert_eq!(again.wait()?, 3, "{}", again.stderr()?);
    Ok(())
}

fn a_function_that_computes_stops_no_other(node: &Node) -> Result<()> {
    let (image, echo_image, ping_image) = (
        node.import_function("inspect", Form::Rootfs)?,
        node.import_function("echo", Form::Rootfs)?,
        node.import_function("ping", Form::Rootfs)?,
    );
    let pod = node.pod(&embedded("spins"))?;
    echo(&pod, "echo", &echo_image)?;
    let spins = ["one", "two"].map(|name| pod.run(&inspect(name, &image, ["--spin"])));
    let [one, two] = spins;
    let (one, two) = (one?, two?);
    one.says(Stream::Stdout, "\"args\"")?;
    two.says(Stream::Stdout, "\"args\"")?;
    ping(&pod, "ping", &ping_image, "127.0.0.1:7000")?;
    // They never call the host, and end all the same, without the patience of their end being tried.
    one.stop(Duration::from_secs(30))?;
    assert_eq!(one.wait()?, 143);
    two.stop(Duration::ZERO)?;
    assert_eq!(two.wait()?, 137);
    let log = node.log();
    assert!(!log.contains("does not say that guest"), "{log}");
    ping(&pod, "again", &ping_image, "127.0.0.1:7000")
}

fn functions_come_and_go_at_once(node: &Node) -> Result<()> {
    const AT_ONCE: usize = 4;
    const ROUNDS: usize = 4;
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&embedded("busy"))?;
    let come_and_go = |lane: usize| -> Result<()> {
        for round in 0..ROUNDS {
            let code = (10 * lane + round + 1).to_string();
            let name = format!("f-{lane}-{round}");
            let container = pod.run(&inspect(&name, &image, ["--exit", &code]))?;
            assert_eq!(container.wait()?.to_string(), code, "{}", container.stderr()?);
            container.remove()?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..AT_ONCE)
            .map(|lane| scope.spawn(move || come_and_go(lane)))
            .collect();
        let ended = lanes.into_iter().map(|lane| lane.join().expect("no panic"));
        ended.collect::<Vec<_>>().into_iter().collect::<Result<()>>()
    })?;
    // All of the last ones at once.
    for number in 0..AT_ONCE {
        pod.run(&inspect(&format!("stays-{number}"), &image, ["--sleep", "1000"]))?
            .says(Stream::Stdout, "\"args\"")?;
    }
    pod.stop()?;
    for process in processes(node, &pod) {
        is_gone(process)?;
    }
    pod.remove()
}

fn memory_is_limited_for_each_container(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&embedded("memory"))?;
    let stays = pod.run(&inspect("stays", &image, ["--sleep", "1000"]).memory(32 * MIB))?;
    stays.says(Stream::Stdout, "\"args\"")?;
    let limited =
        |name: &str, mib: &str| pod.run(&inspect(name, &image, ["--allocate", mib]).memory(128 * MIB));
    let fits = limited("fits", "64")?;
    assert_eq!(fits.wait()?, 0, "{}", fits.stderr()?);
    let exceeds = limited("exceeds", "512")?;
    assert_eq!(exceeds.wait()?, 137, "{}", exceeds.stderr()?);
    assert!(exceeds.stderr()?.contains("memory"), "{}", exceeds.stderr()?);
    assert_eq!(stays.state()?, State::Running);
    Ok(())
}

/// Why a container cannot be made, or started.
fn refusal(pod: &Pod<'_>, spec: &ContainerSpec) -> String {
    let error = pod.run(spec).expect_err("it is refused").to_string();
    assert!(error.contains(EMBED), "{error}");
    error
}

fn what_cannot_be_kept_is_refused(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&embedded("refusals"))?;
    let sleeps = |name: &str| inspect(name, &image, ["--sleep", "1000"]);
    let limit = refusal(&pod, &sleeps("limited").cpu(200));
    assert!(limit.contains("CPU limit"), "{limit}");
    let first = pod.run(&sleeps("first"))?;
    first.says(Stream::Stdout, "\"args\"")?;
    let user = refusal(&pod, &sleeps("user").user(1000));
    assert!(
        user.contains("user") && user.contains("1000") && user.contains("first"),
        "{user}"
    );
    let nonsense = refusal(&pod, &sleeps("nonsense").annotation(EMBED, "yes"));
    assert!(nonsense.contains("`true` or `false`"), "{nonsense}");
    // Nor later.
    let limits = [
        ("CPU limit", sleeps("later").cpu(200)),
        ("memory limit", sleeps("later").memory(64 * MIB)),
    ];
    for (what, limits) in limits {
        let error = first.update(&limits).expect_err("it is refused").to_string();
        assert!(error.contains(EMBED) && error.contains(what), "{error}");
    }
    // What one container cannot have in the process it can have in its own.
    let alone = sleeps("alone").user(1000).cpu(200).annotation(EMBED, "false");
    pod.run(&alone)?.says(Stream::Stdout, "\"args\"")?;
    assert_eq!(first.state()?, State::Running);
    Ok(())
}

fn confined_functions_share_a_process_too(node: &Node) -> Result<()> {
    let (echo_image, ping_image) = (
        node.import_function("echo", Form::Rootfs)?,
        node.import_function("ping", Form::Rootfs)?,
    );
    let pod = node.pod(&embedded("confined"))?;
    let spec = ContainerSpec::new("echo", &echo_image).args(["0.0.0.0:7000"]);
    pod.run(&spec.user(1000).confined())?
        .says(Stream::Stderr, "listening")?;
    let status = fs::read_to_string(format!("/proc/{}/status", process(node, &pod)?)).expect("it runs");
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(of("Uid:"), ["1000"; 4]);
    assert_eq!(of("NoNewPrivs:"), ["1"]);
    // A filter.
    assert_eq!(of("Seccomp:"), ["2"]);
    let spec = ContainerSpec::new("ping", &ping_image).user(1000).confined();
    let ping = pod.run(&spec.args(["127.0.0.1:7000", "--size", "1000", "--count", "100"]))?;
    assert_eq!(ping.wait()?, 0, "{}", ping.stderr()?);
    let other = ContainerSpec::new("other", &ping_image).user(1000);
    let refused = refusal(
        &pod,
        &other.args(["127.0.0.1:7000", "--size", "1", "--count", "1"]),
    );
    assert!(refused.contains("differ"), "{refused}");
    Ok(())
}

fn functions_end_with_their_process(node: &Node) -> Result<()> {
    node.start_agent()?;
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&embedded("crash"))?;
    let sleeps = |name: &str| pod.run(&inspect(name, &image, ["--sleep", "1000"]));
    let containers = [sleeps("one")?, sleeps("two")?];
    for container in &containers {
        container.says(Stream::Stdout, "\"args\"")?;
    }
    let alone = inspect("alone", &image, ["--sleep", "1000"]).annotation(EMBED, "false");
    let alone = pod.run(&alone)?;
    kill(Pid::from_raw(process(node, &pod)?), Signal::SIGKILL).expect("kill the process");
    for container in &containers {
        assert_eq!(container.wait()?, 119);
        let stderr = container.stderr()?;
        assert!(
            stderr.contains("the process of the pod's functions ended"),
            "{stderr}"
        );
    }
    wait::until("the agent forgets it", || {
        Ok((node.agent().functions()?.len() == 1).then_some(()))
    })?;
    assert_eq!(alone.state()?, State::Running);
    // A kubelet starts them anew.
    let again = pod.run(&inspect("again", &image, ["--sleep", "1000"]))?;
    again.says(Stream::Stdout, "\"args\"")?;
    assert_eq!(processes(node, &pod).len(), 2);
    Ok(())
}

fn a_pod_outlives_containerd(node: &Node) -> Result<()> {
    let (echo_image, ping_image) = (
        node.import_function("echo", Form::Rootfs)?,
        node.import_function("ping", Form::Rootfs)?,
    );
    let pod = node.pod(&embedded("outlives"))?;
    let server = echo(&pod, "echo", &echo_image)?;
    let own = process(node, &pod)?;
    for (name, signal) in [("term", Signal::SIGTERM), ("kill", Signal::SIGKILL)] {
        node.stop_containerd(signal)?;
        node.start_containerd()?;
        assert_eq!(server.state()?, State::Running);
        ping(&pod, name, &ping_image, "127.0.0.1:7000")?;
    }
    assert!(is_alive(own));
    server.stop(Duration::from_secs(30))?;
    assert_eq!(server.wait()?, 143);
    is_gone(own)
}

fn what_a_killed_shim_leaves_is_cleaned_up(node: &Node) -> Result<()> {
    node.start_agent()?;
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&embedded("killed"))?;
    let spin = pod.run(&inspect("spin", &image, ["--spin"]))?;
    spin.says(Stream::Stdout, "\"args\"")?;
    let (own, pid) = (process(node, &pod)?, spin.pid()?);
    let shims = node.processes_like(&["containerd-shim-cwasi-v1", pod.id()]);
    assert!(!shims.is_empty());
    for shim in shims {
        kill(Pid::from_raw(shim), Signal::SIGKILL).expect("kill the shim");
    }
    is_gone(own)?;
    is_gone(pid)?;
    wait::until("the agent forgets it", || {
        Ok(node.agent().functions()?.is_empty().then_some(()))
    })?;
    assert_ne!(spin.wait()?, 0);
    let id = pod.id().to_owned();
    pod.remove()?;
    wait::until("nothing is left of the pod", || {
        Ok(node
            .leftovers()?
            .iter()
            .all(|thing| !thing.contains(&id))
            .then_some(()))
    })
}
