//! Images and annotations that mean ill: each is refused with one clear line or used as far as it can be, nothing of it stays, and
//! neighbours and containerd go on.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use cwasi_testnode::cri::{State, Stream};
use cwasi_testnode::functions::{APP, image_of, prebuilt};
use cwasi_testnode::images::{Form, Image, Process};
use cwasi_testnode::{Container, ContainerSpec, Node, Pod, PodSpec, Result, node_tests, wait};

node_tests!(
    broken_programs_are_refused_with_one_line,
    absurd_annotations_are_refused_with_one_line,
    absurd_labels_cost_a_function_nothing,
);

/// A function in a pod of its own, which goes on whatever becomes of others.
struct Neighbour<'n> {
    pod: Pod<'n>,
    container: Container<'n>,
    image: String,
}

impl<'n> Neighbour<'n> {
    fn start(node: &'n Node) -> Result<Self> {
        let image = node.import_function("inspect", Form::Rootfs)?;
        let pod = node.pod(&PodSpec::new("neighbour"))?;
        let container = pod.run(&ContainerSpec::new("sleeps", &image).args(["--sleep", "1000"]))?;
        container.says(Stream::Stdout, "\"args\"")?;
        Ok(Self {
            pod,
            container,
            image,
        })
    }

    /// It runs, and another can be started beside it.
    fn goes_on(&self) -> Result<()> {
        assert_eq!(self.container.state()?, State::Running);
        let another = self.pod.run(&ContainerSpec::new("another", &self.image))?;
        assert_eq!(another.wait()?, 0, "{}", another.stderr()?);
        another.remove()
    }
}

/// A module that imports a function of these names, encoded by hand.
fn importing(module: &str, name: &str) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("less than 128 bytes");
    let text = |text: &str| [&[length(text.as_bytes())], text.as_bytes()].concat();
    let section = |id: u8, content: &[u8]| [&[id, length(content)], content].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 0, 0]),
        section(2, &[&[1][..], &text(module), &text(name), &[0, 0]].concat()),
        section(3, &[1, 0]),
        section(7, &[&[1][..], &text("_start"), &[0, 1]].concat()),
        section(10, &[1, 2, 0, 0x0b]),
    ]
    .concat()
}

/// The component with other bytes in the place of some, wherever they are.
fn replaced(wasm: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut wasm = wasm.to_vec();
    let mut at = 0;
    while let Some(found) = wasm[at..].windows(old.len()).position(|window| window == old) {
        at += found;
        wasm[at..at + new.len()].copy_from_slice(new);
    }
    wasm
}

/// Whether a refusal is a line that can be read, with this in it.
#[track_caller]
fn is_clear(name: &str, refusal: &str, reason: &str) {
    let refusal = refusal.trim_end();
    assert!(refusal.contains(reason), "{name}: {refusal}");
    assert!(!refusal.contains(char::is_control), "{name}: {refusal:?}");
    assert!(refusal.len() < 10_000, "{name}: {} bytes", refusal.len());
}

/// What `ctr` says itself, without containerd's remarks on its own configuration.
fn said(stderr: &[u8]) -> String {
    let text = wait::text(stderr);
    let own = text.lines().filter(|line| !line.starts_with("time="));
    own.collect::<Vec<_>>().join("\n")
}

/// Tries to run an image both ways, and checks the refusals.
fn is_refused(node: &Node, pod: &Pod<'_>, name: &str, image: &Image, reason: &str) -> Result<()> {
    node.import(image)?;
    let container = pod.create(&ContainerSpec::new(name, image.reference()).command(&[APP]))?;
    let refused = container.start().expect_err(name).to_string();
    is_clear(name, &refused, reason);
    container.remove()?;
    if image.platform() == &cwasi_testnode::images::Platform::host() {
        let output = node.ctr_run("cwasi", &["--rm"], image.reference(), name, &[APP])?;
        assert!(!output.status.success(), "{name}: {output:?}");
        is_clear(name, &said(&output.stderr), reason);
    }
    Ok(())
}

/// Starts the first function of a node, which compiles it, and sees to it that the kernel would kill who compiles before all others:
/// it has the limits of no container.
fn started_while_watched(node: &Node) -> Result<Neighbour<'_>> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = false;
            while !seen && !done.load(Ordering::Relaxed) {
                let shims = node.processes_like(&["containerd-shim-cwasi-v1"]).into_iter();
                seen = shims
                    .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok())
                    .any(|score| score.trim() == "1000");
            }
            seen
        });
        let neighbour = Neighbour::start(node);
        done.store(true, Ordering::Relaxed);
        assert!(watching.join().expect("no panic"), "no process that dies first");
        neighbour
    })
}

fn broken_programs_are_refused_with_one_line(node: &Node) -> Result<()> {
    let neighbour = started_while_watched(node)?;
    let component = prebuilt("inspect")?;
    let programs: [(&str, Vec<u8>, &str); 6] = [
        ("empty", Vec::new(), "the file is empty"),
        (
            "text",
            b"neither this nor that".to_vec(),
            "does not begin as a .wasm file does",
        ),
        (
            "truncated",
            component[..component.len() * 2 / 3].to_vec(),
            "not valid WebAssembly",
        ),
        (
            "zeros",
            [b"\0asm\x01\0\0\0".to_vec(), vec![0; 1 << 20]].concat(),
            "not valid WebAssembly",
        ),
        (
            "unknown",
            replaced(&component, b"wasi:io/", b"evil:io/"),
            "evil:io/",
        ),
        ("rude", importing("env\n\u{1b}[2J", "backdoor"), "backdoor"),
    ];
    let pod = node.pod(&PodSpec::new("wrong"))?;
    for (name, content, reason) in programs {
        let image = image_of(&format!("docker.io/local/{name}:1"), &content);
        is_refused(node, &pod, name, &image, reason)?;
    }
    let no_layer = Image::wasm(
        "docker.io/local/nolayer:1",
        &component,
        "application/octet-stream",
        &Process::new([APP]),
    );
    is_refused(node, &pod, "nolayer", &no_layer, "no Wasm layer")?;
    // A name of the entrypoint that is itself absurd.
    let entrypoint = format!("/no\n\u{1b}]0;{}", "x".repeat(3000));
    let spec = ContainerSpec::new("entrypoint", &neighbour.image).command(&[&entrypoint]);
    let container = pod.create(&spec)?;
    is_clear(
        "entrypoint",
        &container.start().expect_err("start").to_string(),
        "is not in the image",
    );
    container.remove()?;
    pod.remove()?;
    neighbour.goes_on()
}

fn absurd_annotations_are_refused_with_one_line(node: &Node) -> Result<()> {
    let neighbour = Neighbour::start(node)?;
    let pod = node.pod(&PodSpec::new("absurd"))?;
    let long = "x".repeat(100_000);
    let annotations = [
        ("cwasi.dev/name", "two words"),
        ("cwasi.dev/name", "f\u{fc}nf"),
        ("cwasi.dev/name", "a\nb=\"c\""),
        ("cwasi.dev/name", &long),
        ("cwasi.dev/http-address", "\u{1b}[2J"),
        ("cwasi.dev/http-address", "[::]:99999"),
        ("cwasi.dev/allow-net", "10.0.0.0/8,\nlocalhost"),
        ("cwasi.dev/allow-net", &long),
        ("cwasi.dev/embed", "{\"yes\": 1}"),
    ];
    for (number, (key, value)) in annotations.into_iter().enumerate() {
        let spec = ContainerSpec::new(&format!("absurd-{number}"), &neighbour.image).annotation(key, value);
        let container = pod.create(&spec)?;
        let refused = container.start().expect_err(key).to_string();
        is_clear(key, &refused, &format!("annotation {key}: "));
        container.remove()?;
    }
    for (key, value) in [annotations[2], annotations[5]] {
        let annotation = format!("{key}={value}");
        let flags = ["--rm", "--annotation", &annotation];
        let output = node.ctr_run("cwasi", &flags, &neighbour.image, "absurd", &[])?;
        assert!(!output.status.success(), "{output:?}");
        is_clear(key, &said(&output.stderr), &format!("annotation {key}: "));
    }
    pod.remove()?;
    neighbour.goes_on()
}

fn absurd_labels_cost_a_function_nothing(node: &Node) -> Result<()> {
    node.start_agent()?;
    let neighbour = Neighbour::start(node)?;
    let pod = node.pod(&PodSpec::new("labelled"))?;
    let mut spec = ContainerSpec::new("labelled", &neighbour.image)
        .args(["--sleep", "1000"])
        .annotation("cwasi.dev/a-team", "blue")
        .annotation("cwasi.dev/note", "two\nlines\u{0}")
        .annotation("cwasi.dev/ quoted\"", "x")
        .annotation("cwasi.dev/long", &"y".repeat(50_000));
    for number in 0..200 {
        spec = spec.annotation(&format!("cwasi.dev/z{number}"), &"\u{20ac}".repeat(300));
    }
    let container = pod.run(&spec)?;
    container.says(Stream::Stdout, "\"args\"")?;
    let function = node.agent().function("default", "labelled", "labelled")?;
    let labels = &function.spec.labels;
    assert_eq!(labels["cwasi.dev/a-team"], "blue");
    assert!(!labels.contains_key("cwasi.dev/note") && !labels.contains_key("cwasi.dev/long"));
    assert!(labels.len() < 64, "{}", labels.len());
    // What is announced for later agents is the same.
    node.agent().kill()?;
    node.start_agent()?;
    assert_eq!(
        &node
            .agent()
            .function("default", "labelled", "labelled")?
            .spec
            .labels,
        labels
    );
    container.remove()?;
    pod.remove()?;
    neighbour.goes_on()
}
