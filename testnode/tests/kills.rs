//! Kills and stops of every part of a node while functions talk: their bytes are compared, and what a fault does not concern
//! goes on.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use cwasi_testnode::cri::{State, Stream};
use cwasi_testnode::faults::signal;
use cwasi_testnode::functions::is_alive;
use cwasi_testnode::images::Form;
use cwasi_testnode::{Container, ContainerSpec, Error, Node, Pod, PodSpec, Result, node_tests, wait};
use nix::sys::signal::Signal;

node_tests!(
    streams_outlive_what_happens_beside_them,
    a_killed_shim_takes_its_pod_along_and_nothing_else,
    a_function_that_the_kernel_kills_for_memory_ends_alone,
    kills_amid_a_start_leave_nothing,
);

const MIB: i64 = 1 << 20;

/// Long enough for what is stopped to be missed.
const A_WHILE: Duration = Duration::from_millis(300);

/// A stream of which every byte is compared by who gets it.
struct Talk<'n> {
    sink: Container<'n>,
    source: Container<'n>,
    /// Their processes, to be asked for without containerd.
    pids: [i32; 2],
}

impl Talk<'_> {
    fn has_ended(&self) -> bool {
        !self.pids.into_iter().all(is_alive)
    }
}

/// Two pods, of which one sends to the other: one stream after the other, each of which must be whole.
struct Talkers<'n> {
    node: &'n Node,
    server: Pod<'n>,
    client: Pod<'n>,
    image: String,
    talks: u32,
    talk: Option<Talk<'n>>,
}

impl<'n> Talkers<'n> {
    /// Bytes of a stream: it lasts seconds.
    const BYTES: &'static str = "300000000";

    fn new(node: &'n Node) -> Result<Self> {
        Ok(Self {
            node,
            server: node.pod(&PodSpec::new("server"))?,
            client: node.pod(&PodSpec::new("client"))?,
            image: node.import_function("bulk", Form::Rootfs)?,
            talks: 0,
            talk: None,
        })
    }

    /// Sees to it that a stream is on its way, and moves. Needs containerd when the one before is over.
    fn talk(&mut self) -> Result<&Talk<'n>> {
        if self.talk.as_ref().is_none_or(Talk::has_ended) {
            self.end()?;
            self.talks += 1;
            let spec = |name: &str, args: &[&str]| {
                let spec = ContainerSpec::new(&format!("{name}-{}", self.talks), &self.image);
                spec.memory(128 * MIB).args(args)
            };
            let serve = ["sink", "0.0.0.0:7000", "--connections", "1", "--verify"];
            let sink = self.server.run(&spec("sink", &serve))?;
            sink.says(Stream::Stderr, "listening")?;
            let address = format!("{}:7000", self.server.ip()?);
            let call = ["source", &address, "--size", "100003", "--bytes", Self::BYTES];
            let source = self.client.run(&spec("source", &call))?;
            let pids = [sink.pid()?, source.pid()?];
            self.talk = Some(Talk { sink, source, pids });
        }
        self.moves()?;
        Ok(self.talk.as_ref().expect("it began above"))
    }

    /// As [`Self::talk`], with a stream that has only begun. For who kills containerd: 1.6 never tells of the end of a container
    /// that ends in that moment.
    fn talk_anew(&mut self) -> Result<&Talk<'n>> {
        self.end()?;
        self.talk()
    }

    /// Waits until the stream has moved some megabytes more, or is over.
    fn moves(&self) -> Result<()> {
        let Some(talk) = &self.talk else { return Ok(()) };
        let sent = || -> Result<u64> {
            let functions = self.node.agent().functions()?.into_iter();
            let sent = functions.filter(|function| function.spec.pod.as_deref() == Some("client"));
            Ok(sent
                .map(|function| function.sent.redirect_bytes + function.sent.tcp_bytes)
                .sum())
        };
        let before = sent()?;
        wait::until("the stream goes on", || {
            Ok((talk.has_ended() || sent()? > before + (4 << 20)).then_some(()))
        })
    }

    /// Waits for the end of the stream, which must be whole, with every byte right.
    fn end(&mut self) -> Result<()> {
        let Some(talk) = self.talk.take() else {
            return Ok(());
        };
        let ended = [talk.source.wait()?, talk.sink.wait()?];
        let said = [talk.source.stderr()?, talk.sink.stderr()?];
        assert_eq!(ended, [0, 0], "{said:?}");
        talk.source.remove()?;
        talk.sink.remove()
    }
}

/// Entries of the agent's maps that grow with functions.
fn entries(node: &Node) -> Result<BTreeMap<String, u64>> {
    let maps = node.agent().status()?.maps.into_iter();
    let maps = maps.filter(|map| ["functions", "locality"].contains(&map.name.as_str()));
    Ok(maps.map(|map| (map.name, map.entries)).collect())
}

/// Waits until the agent knows the functions of these pods and no others, with connections of theirs only, and finds nothing
/// wrong.
fn agent_knows(node: &Node, pods: &[&str]) -> Result<()> {
    let mut last = String::new();
    let told = wait::until("status is true", || {
        let (status, functions) = (node.agent().status()?, node.agent().functions()?);
        let flows = node.agent().flows()?;
        let known: Vec<_> = functions.iter().map(|function| &function.spec).collect();
        let mut of: Vec<&str> = known.iter().filter_map(|spec| spec.pod.as_deref()).collect();
        of.sort_unstable();
        let names: Vec<String> = known
            .iter()
            .map(|spec| format!("{}/{}", spec.namespace, spec.name))
            .collect();
        last = format!("{of:?}, {flows:?}, {:?}", status.degraded);
        let is_true = of == pods
            && status.functions == pods.len()
            && status.degraded.is_empty()
            && flows.iter().all(|flow| names.contains(&flow.src));
        Ok(is_true.then_some(()))
    });
    told.unwrap_or_else(|error| panic!("{error}: {last}"));
    Ok(())
}

/// A pod with a function that waits.
fn bystander<'n>(node: &'n Node, name: &str) -> Result<(Pod<'n>, Container<'n>)> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new(name))?;
    let waits = pod.run(&ContainerSpec::new("waits", &image).args(["--sleep", "1000"]))?;
    waits.says(Stream::Stdout, "\"args\"")?;
    Ok((pod, waits))
}

/// Stops a process for a while.
fn hold(pid: i32) -> Result<()> {
    signal(pid, Signal::SIGSTOP)?;
    thread::sleep(A_WHILE);
    signal(pid, Signal::SIGCONT)
}

fn is_gone(pid: i32) -> Result<()> {
    wait::until(format!("the end of process {pid}"), || {
        Ok((!is_alive(pid)).then_some(()))
    })
}

fn shim(node: &Node, pod: &Pod<'_>) -> i32 {
    node.shim(pod.id()).expect("a pod has a shim")
}

/// What is left of a pod and its container.
fn left_of(node: &Node, pod: &Pod<'_>, container: &Container<'_>) -> Result<Vec<String>> {
    let left = node.leftovers()?.into_iter();
    let is_of = |thing: &String| [pod.id(), container.id()].iter().any(|id| thing.contains(id));
    Ok(left.filter(is_of).collect())
}

/// Something that befalls who talks, or what is beside them.
type Fault<'f> = dyn Fn(&Talk<'_>) -> Result<()> + 'f;

fn streams_outlive_what_happens_beside_them(node: &Node) -> Result<()> {
    node.start_agent()?;
    let before = entries(node)?;
    let (pod, waits) = bystander(node, "bystander")?;
    let mut talkers = Talkers::new(node)?;
    let agent = || node.agent().pid().expect("it runs");
    let all = ["bystander", "client", "server"];
    let shims = [&talkers.client, &talkers.server].map(|pod| shim(node, pod));
    let faults: [(&str, bool, &Fault<'_>); 8] = [
        ("containerd stopped", false, &|_| {
            node.signal_containerd(Signal::SIGSTOP)?;
            thread::sleep(A_WHILE);
            node.signal_containerd(Signal::SIGCONT)
        }),
        ("containerd killed", true, &|_| {
            node.stop_containerd(Signal::SIGKILL)?;
            node.start_containerd()
        }),
        ("the agent stopped", false, &|_| hold(agent())),
        ("the agent killed", false, &|_| {
            node.agent().kill()?;
            thread::sleep(A_WHILE);
            node.start_agent()
        }),
        ("both killed", true, &|_| {
            node.stop_containerd(Signal::SIGKILL)?;
            node.agent().kill()?;
            node.start_containerd()?;
            node.start_agent()
        }),
        ("their shims stopped", false, &|_| {
            shims.into_iter().try_for_each(hold)
        }),
        ("one of them stopped", false, &|talk| {
            talk.pids.into_iter().try_for_each(hold)
        }),
        ("containerd killed while a shim is stopped", true, &|_| {
            signal(shims[0], Signal::SIGSTOP)?;
            node.stop_containerd(Signal::SIGKILL)?;
            thread::scope(|scope| {
                // It asks its shims before it is ready, and gives up on none so soon.
                scope.spawn(|| {
                    thread::sleep(A_WHILE);
                    signal(shims[0], Signal::SIGCONT)
                });
                node.start_containerd()
            })
        }),
    ];
    for (name, kills_containerd, fault) in faults {
        fault(if kills_containerd {
            talkers.talk_anew()?
        } else {
            talkers.talk()?
        })?;
        talkers.moves()?;
        assert!(pod.is_ready()? && waits.state()? == State::Running, "{name}");
        if talkers.talk.as_ref().is_some_and(|talk| !talk.has_ended()) {
            agent_knows(node, &all)?;
        }
    }

    // The death of a neighbour, last.
    talkers.talk()?;
    let pid = waits.pid()?;
    signal(shim(node, &pod), Signal::SIGKILL)?;
    assert_ne!(waits.wait()?, 0);
    is_gone(pid)?;
    wait::until("the pod is reported", || Ok((!pod.is_ready()?).then_some(())))?;
    talkers.moves()?;
    talkers.end()?;
    agent_knows(node, &[])?;
    assert_eq!(entries(node)?, before);
    Ok(())
}

fn a_killed_shim_takes_its_pod_along_and_nothing_else(node: &Node) -> Result<()> {
    node.start_agent()?;
    let before = entries(node)?;
    // Of who is sent to, of who sends, and of one that was stopped before.
    for (of_server, stopped) in [(true, false), (false, true)] {
        let (neighbour, waits) = bystander(node, "bystander")?;
        let mut talkers = Talkers::new(node)?;
        talkers.talk()?;
        let Talkers {
            server,
            client,
            talk: Some(Talk { sink, source, pids }),
            ..
        } = talkers
        else {
            unreachable!("they talk")
        };
        let (pod, dies, peer) = if of_server {
            (server, sink, source)
        } else {
            (client, source, sink)
        };
        let killed = shim(node, &pod);
        if stopped {
            signal(killed, Signal::SIGSTOP)?;
        }
        signal(killed, Signal::SIGKILL)?;
        // The one is killed, the other one sees the end, and both are reported. The code is containerd's own: nobody told it one.
        assert_ne!(dies.wait()?, 0);
        // A killed sender's end can look like any other to who has read all that came, by plain TCP, too.
        let saw = peer.wait()?;
        assert!(saw != 0 || !of_server, "the sender was told that all had come");
        pids.into_iter().try_for_each(is_gone)?;
        wait::until("the pod is reported", || Ok((!pod.is_ready()?).then_some(())))?;
        wait::until("nothing of what ran is left", || {
            let left = left_of(node, &pod, &dies)?;
            // Their root filesystems and network are CRI's to remove, with the pod.
            let runs = left.iter().any(|thing| {
                ["process", "cgroup", "pin", "function"]
                    .iter()
                    .any(|kind| thing.starts_with(kind))
            });
            Ok((!runs).then_some(()))
        })?;
        agent_knows(node, &["bystander"])?;
        let (id, dead) = (pod.id().to_owned(), dies.id().to_owned());
        pod.remove()?;
        let left = node.leftovers()?.into_iter();
        let left: Vec<String> = left
            .filter(|thing| thing.contains(&id) || thing.contains(&dead))
            .collect();
        assert_eq!(left, [] as [String; 0]);
        assert!(neighbour.is_ready()? && waits.state()? == State::Running);
        node.settle()?;
    }
    assert_eq!(entries(node)?, before);
    Ok(())
}

fn a_function_that_the_kernel_kills_for_memory_ends_alone(node: &Node) -> Result<()> {
    node.start_agent()?;
    let mut talkers = Talkers::new(node)?;
    let image = node.import_function("inspect", Form::Rootfs)?;
    let spec = ContainerSpec::new("waits", &image).args(["--sleep", "1000"]);
    // In the pod of who is killed.
    let waits = talkers.server.run(&spec)?;
    waits.says(Stream::Stdout, "\"args\"")?;
    let talk = talkers.talk()?;
    talk.sink.exhaust_memory()?;
    assert_eq!(talk.sink.wait()?, 137);
    let State::Exited { reason, .. } = talk.sink.state()? else {
        panic!("{:?}", talk.sink.state()?)
    };
    assert_eq!(reason, "OOMKilled");
    assert_eq!(talk.source.wait()?, 1, "{}", talk.source.stderr()?);
    assert_eq!(waits.state()?, State::Running);
    assert!(talkers.server.is_ready()?);
    agent_knows(node, &["server"])
}

/// The moments are spread over what takes some tens of milliseconds.
fn kills_amid_a_start_leave_nothing(node: &Node) -> Result<()> {
    node.start_agent()?;
    let before = entries(node)?;
    let image = node.import_function("inspect", Form::Rootfs)?;
    let mut talkers = Talkers::new(node)?;
    let spec = ContainerSpec::new("early", &image).args(["--sleep", "1000"]);
    let remove = |id: &str| -> Result<()> {
        let mut refused = String::new();
        let removed = wait::until("the pod is removed", || {
            let removed = node.cri().stop_pod(id).and_then(|()| node.cri().remove_pod(id));
            match removed {
                // containerd still does what was asked of it before, or cleans up.
                Err(Error::Cri { message, .. }) => {
                    refused = message;
                    Ok(None)
                }
                removed => removed.map(Some),
            }
        });
        removed.inspect_err(|_| eprintln!("{refused}"))
    };
    let mut failed = 0;
    for round in 0..12 {
        talkers.talk()?;
        let theirs = node.shims();
        let moment = Duration::from_millis(2 + 7 * round);
        // The shim of a pod that is being made, then that of a pod that begins a container.
        let pod = if round % 2 == 0 {
            let made = thread::scope(|scope| {
                let made = scope.spawn(|| node.pod(&PodSpec::new(&format!("pod-{round}"))));
                let new = wait::until("a new shim, or the pod", || {
                    let new = node.shims().into_iter().find(|pid| !theirs.contains(pid));
                    Ok((new.is_some() || made.is_finished()).then_some(new))
                });
                thread::sleep(moment);
                let killed = new.map(|new| new.map(|pid| signal(pid, Signal::SIGKILL)));
                let made = made.join().expect("no panic");
                killed.map(|_| made)
            })?;
            made.map_err(|_| failed += 1).ok()
        } else {
            let pod = node.pod(&PodSpec::new(&format!("pod-{round}")))?;
            let created = pod.create(&spec)?;
            let pid = shim(node, &pod);
            let started = thread::scope(|scope| {
                let started = scope.spawn(|| created.start());
                thread::sleep(moment);
                signal(pid, Signal::SIGKILL)?;
                started.join().expect("no panic")
            });
            failed += u32::from(started.is_err());
            Some(pod)
        };
        if let Some(pod) = pod {
            remove(pod.id())?;
        }
    }
    assert!(failed > 0, "each start was quicker than its end");

    // containerd itself, which then finds what the shim goes on with.
    for round in 0..3 {
        talkers.talk_anew()?;
        let pod = node.pod(&PodSpec::new(&format!("pod-of-{round}")))?;
        let created = pod.create(&spec)?;
        thread::scope(|scope| {
            let started = scope.spawn(|| created.start());
            thread::sleep(Duration::from_millis(3 + 12 * round));
            node.stop_containerd(Signal::SIGKILL)?;
            // Whether it was told of the start or not.
            let _ = started.join().expect("no panic");
            node.start_containerd()
        })?;
        remove(pod.id())?;
    }
    talkers.end()?;
    for pod in node.cri().pods()? {
        remove(&pod)?;
    }
    // containerd calls no `delete` for a shim that it has not reached yet, whoever's.
    for left in node.leftovers()? {
        if let Some(socket) = left.strip_prefix("file /run/containerd/s/") {
            let socket = Path::new("/run/containerd/s").join(socket);
            node.namespaces().run(|| {
                assert!(UnixStream::connect(&socket).is_err(), "a shim is left");
                fs::remove_file(&socket).expect("remove a socket");
                Ok(())
            })?;
        }
    }
    node.settle()?;
    agent_knows(node, &[])?;
    assert_eq!(entries(node)?, before);
    Ok(())
}
