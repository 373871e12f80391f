//! What a guest is given, and how it ends: as of any container.

use std::fs;
use std::time::Duration;

use cwasi_testnode::cri::{State, Stream};
use cwasi_testnode::functions::is_alive;
use cwasi_testnode::images::Form;
use cwasi_testnode::native::PEER;
use cwasi_testnode::{ContainerSpec, Error, Node, PodSpec, Result, node_tests, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

node_tests!(
    guests_get_arguments_variables_and_directory,
    streams_go_to_the_log,
    mounts_are_preopened,
    guests_see_no_files_of_the_kernel,
    exit_codes_are_passed_on,
    stop_ends_a_guest_in_its_grace_period,
    killed_guests_say_so,
    signals_end_a_guest_as_any_program,
    native_programs_run_beside_guests,
);

/// What `inspect` printed.
fn report(text: &str) -> Result<Value> {
    serde_json::from_str(text.trim()).map_err(|error| Error::Output {
        program: "inspect".to_owned(),
        detail: format!("{error}: {text}"),
    })
}

fn guests_get_arguments_variables_and_directory(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("given"))?;
    let spec = ContainerSpec::new("inspect", &image)
        .args(["--exit", "0"])
        .env("COLOUR", "blue")
        .env("EMPTY", "")
        .working_dir("/etc");
    let inspect = pod.run(&spec)?;
    assert_eq!(inspect.wait()?, 0, "{}", inspect.stderr()?);
    let report = report(&inspect.stdout()?)?;
    assert_eq!(report["args"], json!(["/app.wasm", "--exit", "0"]));
    assert_eq!(report["env"]["COLOUR"], "blue");
    assert_eq!(report["env"]["EMPTY"], "");
    // As every container of CRI has it.
    assert_eq!(report["env"]["HOSTNAME"], "given");
    // The C library of this guest begins in / whatever the host says: what it does not ask for is in a variable too.
    assert_eq!(report["env"]["PWD"], "/etc");
    Ok(())
}

fn streams_go_to_the_log(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("log"))?;
    let inspect = pod.run(&ContainerSpec::new("inspect", &image).args(["--nonsense"]))?;
    assert_ne!(inspect.wait()?, 0);
    assert_eq!(inspect.stdout()?, "");
    assert!(inspect.stderr()?.contains("--nonsense"), "{}", inspect.stderr()?);
    // While it runs, too.
    let inspect = pod.run(&ContainerSpec::new("sleeper", &image).args(["--sleep", "1000"]))?;
    inspect.says(Stream::Stdout, "\"args\"")?;
    assert_eq!(inspect.state()?, State::Running);
    Ok(())
}

fn mounts_are_preopened(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("mounts"))?;
    let directory = node.directory("volume")?;
    fs::write(directory.join("greeting"), "hello").expect("write a file");
    let run = |name: &str, readonly, args: &[&str]| -> Result<Value> {
        let spec = ContainerSpec::new(name, &image)
            .mount(&directory, "/data", readonly)
            .args(args);
        let inspect = pod.run(&spec)?;
        assert_eq!(inspect.wait()?, 0, "{}", inspect.stderr()?);
        report(&inspect.stdout()?)
    };
    let both = [
        "--list",
        "/data",
        "--read",
        "/data/greeting",
        "--write",
        "/data/answer",
    ];
    let written = run("writes", false, &both)?;
    assert_eq!(written["list"], json!(["greeting"]));
    assert_eq!(written["read"], "hello");
    assert_eq!(written["write"], Value::Null);
    let answer = fs::read_to_string(directory.join("answer")).expect("read a file");
    assert_eq!(answer, "written by inspect\n");

    let both = ["--read", "/data/greeting", "--write", "/data/refused"];
    let refused = run("reads", true, &both)?;
    assert_eq!(refused["read"], "hello");
    assert!(refused["write"]["error"].is_string(), "{refused}");
    assert!(!directory.join("refused").exists());
    Ok(())
}

fn guests_see_no_files_of_the_kernel(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("kernel"))?;
    // A guest that could write its own process's memory would not be confined by WebAssembly.
    for (name, directory) in [("proc", "/proc"), ("sys", "/sys")] {
        let spec = ContainerSpec::new(name, &image).args(["--list", directory, "--read", "/proc/self/maps"]);
        let inspect = pod.run(&spec)?;
        assert_eq!(inspect.wait()?, 0, "{}", inspect.stderr()?);
        let report = report(&inspect.stdout()?)?;
        let empty = report["list"] == json!([]) || report["list"]["error"].is_string();
        assert!(empty && report["read"]["error"].is_string(), "{report}");
    }
    Ok(())
}

fn exit_codes_are_passed_on(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("codes"))?;
    for code in ["0", "1", "42", "255"] {
        let spec = ContainerSpec::new(&format!("code-{code}"), &image).args(["--exit", code]);
        assert_eq!(pod.run(&spec)?.wait()?.to_string(), code);
    }
    // As an abort of a native program.
    let trapped = pod.run(&ContainerSpec::new("trap", &image).args(["--trap"]))?;
    assert_eq!(trapped.wait()?, 134);
    assert!(trapped.stderr()?.contains("trap"), "{}", trapped.stderr()?);
    Ok(())
}

fn stop_ends_a_guest_in_its_grace_period(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("stop"))?;
    // One waits in the host, the other never calls it.
    for (name, arguments) in [("waits", &["--sleep", "1000"][..]), ("spins", &["--spin"])] {
        let guest = pod.run(&ContainerSpec::new(name, &image).args(arguments))?;
        guest.says(Stream::Stdout, "\"args\"")?;
        let pid = guest.pid()?;
        assert!(is_alive(pid));
        guest.stop(Duration::from_secs(30))?;
        // 128 and SIGTERM: SIGKILL would be 137.
        assert_eq!(guest.wait()?, 143, "{name}");
        assert!(!is_alive(pid), "{name}");
    }
    Ok(())
}

fn killed_guests_say_so(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("kill"))?;
    let sleep = |name: &str| ContainerSpec::new(name, &image).args(["--sleep", "1000"]);
    let stopped = pod.run(&sleep("stopped"))?;
    stopped.says(Stream::Stdout, "\"args\"")?;
    stopped.stop(Duration::ZERO)?;
    assert_eq!(stopped.wait()?, 137);

    let killed = pod.run(&sleep("killed"))?;
    killed.says(Stream::Stdout, "\"args\"")?;
    kill(Pid::from_raw(killed.pid()?), Signal::SIGKILL).expect("kill the guest");
    assert_eq!(killed.wait()?, 137);
    wait::until("its cgroups are gone", || {
        Ok(killed.cgroups().is_empty().then_some(()))
    })?;
    killed.remove()?;
    assert!(pod.is_ready()?);
    Ok(())
}

fn signals_end_a_guest_as_any_program(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    for (signal, code) in [
        ("SIGHUP", 129),
        ("SIGINT", 130),
        ("SIGTERM", 143),
        ("SIGKILL", 137),
    ] {
        let command = ["/app.wasm", "--sleep", "1000"];
        let started = node.ctr_run("cwasi", &["--detach"], &image, signal, &command)?;
        assert!(started.status.success(), "{started:?}");
        let id = node.ctr_id(signal);
        node.ctr(&["task", "kill", "--signal", signal, &id])?;
        let words = wait::until(format!("the end by {signal}"), || {
            // Refused while it runs; tells the exit code on stderr, and passes it on.
            let removed = node.ctr_output(&["task", "delete", &id])?;
            let words = wait::text(&removed.stderr);
            Ok(words.contains("exit code").then_some(words))
        })?;
        assert!(words.contains(&format!("exit code {code}")), "{signal}: {words}");
        node.ctr(&["container", "delete", &id])?;
    }
    Ok(())
}

fn native_programs_run_beside_guests(node: &Node) -> Result<()> {
    node.import(&PEER.image()?)?;
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("mixed"))?;
    // An image that nothing was added to: no PATH, and none is needed.
    let native = pod.run(&ContainerSpec::new("native", "docker.io/local/peer:1").args(["print", "x y"]))?;
    assert_eq!(native.wait()?, 0, "{}", native.stderr()?);
    assert!(native.stdout()?.contains("arg x y\n"), "{}", native.stdout()?);
    let guest = pod.run(&ContainerSpec::new("guest", &image))?;
    assert_eq!(guest.wait()?, 0, "{}", guest.stderr()?);
    Ok(())
}
