//! The node itself, proved with native containers and runc: whatever fails here is not the shim's fault.

use std::panic;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use cwasi_testnode::cri::{State, Stream};
use cwasi_testnode::functions::is_alive;
use cwasi_testnode::native::PEER;
use cwasi_testnode::testing::{self, Release};
use cwasi_testnode::{ContainerSpec, Node, PodSpec, Result, node_tests};
use nix::sys::signal::Signal;

node_tests!(
    native:
    ctr_runs_and_passes_the_exit_code_on,
    pods_talk_and_leave_nothing,
    stop_has_a_grace_period,
    pods_outlive_containerd,
);

/// The image of [`PEER`].
const IMAGE: &str = "docker.io/local/peer:1";

fn pod(name: &str) -> PodSpec {
    PodSpec::new(name).runtime("runc")
}

fn ctr_runs_and_passes_the_exit_code_on(node: &Node) -> Result<()> {
    node.import(&PEER.image()?)?;
    let flags = ["--rm", "--env", "A=b"];
    let printed = node.ctr_run("runc", &flags, IMAGE, "one", &["/peer", "print", "x y"])?;
    let stdout = String::from_utf8_lossy(&printed.stdout);
    assert!(printed.status.success(), "{printed:?}");
    assert!(
        stdout.contains("cwd /\narg x y\n") && stdout.contains("env A=b\n"),
        "{stdout}"
    );
    let failed = node.ctr_run("runc", &["--rm"], IMAGE, "two", &["/peer", "exit", "7"])?;
    assert_eq!(failed.status.code(), Some(7), "{failed:?}");
    Ok(())
}

fn pods_talk_and_leave_nothing(node: &Node) -> Result<()> {
    node.import(&PEER.image()?)?;
    let (server, client) = (node.pod(&pod("server"))?, node.pod(&pod("client"))?);
    let echo = server.run(&ContainerSpec::new("echo", IMAGE).args(["echo", "7000"]))?;
    echo.says(Stream::Stdout, "listening")?;
    let address = server.ip()?;
    assert!(address.starts_with("10.88."), "{address}");
    let call = ContainerSpec::new("call", IMAGE).args(["call", &address, "7000", "100"]);
    let call = client.run(&call)?;
    assert_eq!(call.wait()?, 0, "{}", call.stderr()?);
    assert_eq!(call.stdout()?, "409600 bytes came back\n");
    assert!(server.is_ready()?);
    assert_ne!(server.netns()?, client.netns()?);
    // What is looked for afterwards is there now.
    let there = node.leftovers()?;
    for kind in ["process ", "cgroup ", "mount ", "link veth", "file "] {
        assert!(
            there.iter().any(|thing| thing.starts_with(kind)),
            "no {kind}in {there:?}"
        );
    }
    server.remove()?;
    client.remove()
}

fn stop_has_a_grace_period(node: &Node) -> Result<()> {
    node.import(&PEER.image()?)?;
    let pod = node.pod(&pod("stop"))?;
    let hello = pod.create(&ContainerSpec::new("hello", IMAGE).args(["hello"]))?;
    assert_eq!(hello.state()?, State::Created);
    hello.start()?;
    hello.says(Stream::Stdout, "hello")?;
    assert_eq!(hello.state()?, State::Running);
    hello.stop(Duration::from_secs(30))?;
    assert_eq!(hello.wait()?, 143);
    Ok(())
}

fn pods_outlive_containerd(node: &Node) -> Result<()> {
    node.import(&PEER.image()?)?;
    let pod = node.pod(&pod("restart"))?;
    let hello = pod.run(&ContainerSpec::new("hello", IMAGE).args(["hello"]))?;
    hello.says(Stream::Stdout, "hello")?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        node.stop_containerd(signal)?;
        node.start_containerd()?;
        assert_eq!(hello.state()?, State::Running);
        assert!(pod.is_ready()?);
    }
    hello.stop(Duration::from_secs(30))?;
    assert_eq!(hello.wait()?, 143);
    Ok(())
}

#[test]
fn a_panic_leaves_nothing() {
    let made = Mutex::new(None);
    let failed = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        testing::on_node(Release::Installed, testing::native, |node| {
            node.import(&PEER.image()?)?;
            let pod = node.pod(&pod("panic"))?;
            let hello = pod.run(&ContainerSpec::new("hello", IMAGE).args(["hello"]))?;
            hello.says(Stream::Stdout, "hello")?;
            *made.lock().expect("no panic before") = Some((node.name().to_owned(), hello.pid()?));
            panic!("as a test that fails");
        });
    }));
    // Nothing is made where there can be no node.
    let Some((name, pid)) = made.into_inner().expect("no panic in between") else {
        assert!(failed.is_ok());
        return;
    };
    assert!(failed.is_err());
    assert!(!is_alive(pid));
    assert!(!Path::new("/tmp").join(&name).exists());
    let cgroups = xtask::leftovers::Leftovers::now();
    assert!(!format!("{cgroups:?}").contains(&name), "{cgroups:?}");
}
