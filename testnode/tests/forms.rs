//! The forms of images: which run where, what is compiled when, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::time::SystemTime;

use cwasi_testnode::functions::{self, APP};
use cwasi_testnode::images::{Form, Image, Process, WASM_LAYER};
use cwasi_testnode::{ContainerSpec, Node, PodSpec, Result, node_tests, wait};

node_tests!(
    pods_run_every_form,
    pods_run_every_media_type,
    modules_of_preview_1_run,
    components_of_wasi_03_run,
    ctr_runs_root_filesystems,
    ctr_itself_refuses_other_forms_or_runs_them,
    a_second_start_compiles_nothing,
    what_cannot_run_is_refused_at_create,
);

/// Runs the guest `inspect` of an image in a pod of its own, and fails unless it ran.
fn inspect(node: &Node, pod: &str, image: &str) -> Result<()> {
    let pod = node.pod(&PodSpec::new(pod))?;
    // An artifact names no entrypoint: whoever runs it does.
    let spec = ContainerSpec::new("inspect", image)
        .command(&[APP])
        .args(["--exit", "3"]);
    let inspect = pod.run(&spec)?;
    let code = inspect.wait()?;
    let (stdout, stderr) = (inspect.stdout()?, inspect.stderr()?);
    assert_eq!(code, 3, "{image}: {stdout}{stderr}");
    assert!(
        stdout.contains(r#""args":["/app.wasm","--exit","3"]"#),
        "{image}: {stdout}"
    );
    pod.remove()
}

fn pods_run_every_form(node: &Node) -> Result<()> {
    for form in Form::ALL {
        let image = node.import_function("inspect", form)?;
        inspect(node, form.name(), &image)?;
    }
    Ok(())
}

fn pods_run_every_media_type(node: &Node) -> Result<()> {
    let wasm = functions::prebuilt("inspect")?;
    let layers = [
        "application/wasm",
        WASM_LAYER,
        "application/vnd.wasm.content.layer.v1+wasm",
    ];
    for (number, layer) in layers.iter().enumerate() {
        let reference = format!("docker.io/local/inspect:layer-{number}");
        node.import(&Image::wasm(&reference, &wasm, layer, &Process::new([APP])))?;
        inspect(node, &format!("layer-{number}"), &reference)?;
    }
    Ok(())
}

fn modules_of_preview_1_run(node: &Node) -> Result<()> {
    for form in Form::ALL {
        let image = node.import_function("inspect-p1", form)?;
        inspect(node, form.name(), &image)?;
    }
    Ok(())
}

fn components_of_wasi_03_run(node: &Node) -> Result<()> {
    let image = node.import_function("echo-p3", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("concurrent"))?;
    let spec = ContainerSpec::new("exits", &image)
        .command(&[APP])
        .args(["exit", "3"]);
    match pod.run(&spec) {
        Err(error)
            if error
                .to_string()
                .contains("uses WASI 0.3, which this build leaves out") =>
        {
            eprintln!("skipped: the shim is built without the feature p3");
        }
        exits => assert_eq!(exits?.wait()?, 3),
    }
    pod.remove()
}

fn ctr_runs_root_filesystems(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let output = node.ctr_run("cwasi", &["--rm"], &image, "plain", &[])?;
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains(r#""args":["/app.wasm"]"#), "{stdout}");

    let flags = ["--rm", "--env", "COLOUR=blue"];
    let output = node.ctr_run("cwasi", &flags, &image, "told", &[APP, "--exit", "9"])?;
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains(r#""COLOUR":"blue""#), "{stdout}");
    Ok(())
}

/// What `ctr run` makes of images without a root filesystem, before any shim is asked: line 1 refuses layers that its
/// configuration does not list, line 2 leaves foreign layers alone but knows the configurations of images only. CRI minds
/// neither.
fn ctr_itself_refuses_other_forms_or_runs_them(node: &Node) -> Result<()> {
    let is_2 = node.containerd().is_2();
    let mismatch = Some("mismatched image rootfs and manifest layers");
    let unknown = Some("unknown image config media type");
    let refusals = if is_2 { [None, unknown] } else { [mismatch; 2] };
    for (form, refusal) in [Form::Wasm, Form::Artifact].into_iter().zip(refusals) {
        let image = node.import_function("inspect", form)?;
        let output = node.ctr_run("cwasi", &["--rm"], &image, form.name(), &[APP, "--exit", "4"])?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        match refusal {
            None => assert_eq!(output.status.code(), Some(4), "{stderr}"),
            Some(reason) => assert!(stderr.contains(reason), "{form:?}: {output:?}"),
        }
    }
    Ok(())
}

/// The files of the cache, and when each was last written.
fn cached(node: &Node) -> Result<BTreeMap<String, SystemTime>> {
    let entries = fs::read_dir(node.cache()).into_iter().flatten().flatten();
    Ok(entries
        .filter_map(|entry| {
            let modified = entry.metadata().ok()?.modified().ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), modified))
        })
        .collect())
}

/// Waits until the shim of a container has said where its machine code came from.
fn origin(node: &Node, id: &str) -> Result<&'static str> {
    wait::until(format!("the origin of {id}"), || {
        let log = node.log();
        let mut lines = log.lines().filter(|line| line.contains(id));
        let line = lines.find(|line| line.contains(": compiled") || line.contains(": from the cache"));
        Ok(line.map(|line| {
            if line.contains("from the cache") {
                "cache"
            } else {
                "compiler"
            }
        }))
    })
}

fn a_second_start_compiles_nothing(node: &Node) -> Result<()> {
    for form in Form::ALL {
        let image = node.import_function("inspect", form)?;
        let spec = ContainerSpec::new("inspect", &image).command(&[APP]);
        let start = || -> Result<String> {
            let pod = node.pod(&PodSpec::new("start"))?;
            let container = pod.run(&spec)?;
            assert_eq!(container.wait()?, 0, "{}", container.stderr()?);
            let id = container.id().to_owned();
            pod.remove()?;
            Ok(id)
        };
        let before = cached(node)?;
        let first = start()?;
        let after = cached(node)?;
        // Every form has the same module: only the first one of all is compiled.
        if before.is_empty() {
            assert!(!after.is_empty(), "nothing in {}", node.cache().display());
            assert_eq!(origin(node, &first)?, "compiler");
        }
        let second = start()?;
        assert_eq!(origin(node, &second)?, "cache");
        assert_eq!(cached(node)?, after, "{form:?}");
    }
    Ok(())
}

fn what_cannot_run_is_refused_at_create(node: &Node) -> Result<()> {
    let foreign = functions::foreign_program()?;
    let wrong = [
        ("broken", functions::BROKEN, APP, "/app.wasm: "),
        ("nostart", functions::NO_START, APP, "_start"),
        ("foreign", &foreign, APP, "another platform"),
        ("missing", b"x", "/other", "/other"),
    ];
    let pod = node.pod(&PodSpec::new("wrong"))?;
    for (name, content, entrypoint, reason) in wrong {
        let reference = format!("docker.io/local/{name}:1");
        node.import(&functions::image_of(&reference, content))?;
        let container = pod.create(&ContainerSpec::new(name, &reference).command(&[entrypoint]))?;
        // CRI makes the task, for which the shim makes the container, when it is told to start it.
        let error = container.start().expect_err(name).to_string();
        assert!(error.contains(reason), "{name}: {error}");
        container.remove()?;

        let output = node.ctr_run("cwasi", &["--rm"], &reference, name, &[entrypoint])?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains(reason),
            "{name}: {stderr}"
        );
    }
    // The pod is as good as before.
    let image = node.import_function("inspect", Form::Rootfs)?;
    assert_eq!(pod.run(&ContainerSpec::new("inspect", &image))?.wait()?, 0);
    Ok(())
}
