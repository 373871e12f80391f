//! The commands on a node of files, with a program that stands for containerd.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{Node, V2, text};

/// What only these tests do.
trait Commands {
    fn shim(&self) -> PathBuf;
    fn fails(&self, code: i32, arguments: &[&str]) -> String;
    fn is_not_installed(&self) -> bool;
}

impl Commands for Node {
    fn shim(&self) -> PathBuf {
        self.at("node/opt/cwasi/bin/containerd-shim-cwasi-v1")
    }

    /// The one line of a command that must end with this code.
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        let mut lines = stderr
            .lines()
            .filter(|line| line.starts_with("cwasi-installer: "));
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("no error in {stderr}"))
            .to_owned();
        assert_eq!(stderr.lines().last(), Some(line.as_str()), "{stderr}");
        line
    }

    fn is_not_installed(&self) -> bool {
        let output = self.run(&["status"]);
        output.status.code() == Some(1) && output.stdout == b"not installed\n"
    }
}

#[test]
fn uninstalled_the_node_is_as_before() {
    let v3 = "version = 3\nimports = ['conf.d/*.toml']\n";
    let cases = [
        (Some(V2.to_owned()), 2),
        (Some(V2.trim_end().to_owned()), 2),
        (Some(V2.replace('\n', "\r\n")), 2),
        (Some("version = 2".to_owned()), 2),
        (Some("version = 3\n# end".to_owned()), 3),
        (Some(v3.to_owned()), 3),
        (None, 2),
        (None, 3),
    ];
    for (config, version) in cases {
        let node = Node::new(config.as_deref(), version);
        let before = node.tree();
        let message = node.ok(&["install", "--with", "cwasi-run"]);
        assert!(message.contains("the runtime handler is installed"), "{message}");
        assert_eq!(fs::read(node.shim()).unwrap(), b"the shim");
        assert!(node.is_loaded());
        if config.as_deref() == Some(v3) {
            assert_eq!(fs::read_to_string(node.config()).unwrap(), v3);
            assert!(node.at("node/etc/conf.d/cwasi.toml").exists());
        }
        node.ok(&["status"]);
        fs::create_dir(node.at("node/cache")).unwrap();
        node.ok(&["uninstall"]);
        assert_eq!(node.tree(), before, "{config:?}");
        assert!(node.is_loaded());
        assert_eq!(node.restarts(), 2);
        assert!(node.is_not_installed());
        assert_eq!(node.ok(&["uninstall"]), "nothing is installed\n");
    }
}

#[test]
fn a_second_run_changes_what_is_not_as_asked_for() {
    let node = Node::new(Some(V2), 2);
    let before = node.tree();
    node.ok(&["install"]);
    let installed = node.tree();
    let json = node.ok(&["install", "-o", "json"]);
    let done: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&done["changed"], &done["restarted"]),
        (&false.into(), &false.into()),
        "{json}"
    );
    assert_eq!(node.tree(), installed);
    // A newer shim needs no restart: containerd starts it for the next pod.
    fs::write(node.shim_of_payload(), "a newer shim").unwrap();
    node.ok(&[
        "install",
        "--kubelet-root",
        &node.at("node/kubelet").display().to_string(),
    ]);
    assert_eq!(fs::read(node.shim()).unwrap(), b"a newer shim");
    assert!(node.at("node/kubelet/seccomp/cwasi/agent.json").exists());
    assert_eq!(node.restarts(), 1);
    // Another handler does.
    node.ok(&["install", "--handler", "wasm"]);
    let config = fs::read_to_string(node.config()).unwrap();
    assert!(
        config.contains("runtimes.wasm]") && !config.contains("runtimes.cwasi]"),
        "{config}"
    );
    assert!(config.starts_with(V2) && node.is_loaded());
    fs::remove_file(node.shim()).unwrap();
    let output = node.run(&["status"]);
    let shown = text(&output.stdout);
    assert!(
        output.status.code() == Some(1) && shown.contains("is missing"),
        "{shown}"
    );
    node.ok(&["uninstall"]);
    assert_eq!(node.tree(), before);
}

#[test]
fn what_others_changed_since_stays() {
    let node = Node::new(Some(V2), 2);
    node.ok(&["install"]);
    let edited = format!(
        "{}[metrics]\naddress = 'x'\n",
        fs::read_to_string(node.config()).unwrap()
    );
    fs::write(node.config(), &edited).unwrap();
    // Also another install keeps it.
    node.ok(&["status"]);
    fs::write(node.shim_of_payload(), "a newer shim").unwrap();
    node.ok(&["install"]);
    let message = node.ok(&["uninstall"]);
    assert_eq!(
        fs::read_to_string(node.config()).unwrap(),
        format!("{V2}[metrics]\naddress = 'x'\n")
    );
    assert!(!node.at("node/opt").exists() && node.is_loaded(), "{message}");
    let names = fs::read_dir(node.at("node/etc")).unwrap().count();
    assert_eq!(names, 1);
    // Without another install in between it is said.
    node.ok(&["install"]);
    fs::write(
        node.config(),
        fs::read_to_string(node.config()).unwrap() + "# more\n",
    )
    .unwrap();
    let message = node.ok(&["uninstall"]);
    assert!(message.contains("changed by others"), "{message}");
    assert!(
        fs::read_to_string(node.config())
            .unwrap()
            .ends_with("address = 'x'\n# more\n")
    );
}

#[test]
fn a_lost_journal_or_backup_leaves_nothing_behind() {
    for lost in ["cwasi-state.json", "cwasi-backup"] {
        let node = Node::new(Some(V2), 2);
        let before = node.tree();
        node.ok(&["install"]);
        for entry in fs::read_dir(node.at("node/etc")).unwrap() {
            let path = entry.unwrap().path();
            if path.display().to_string().contains(lost) {
                fs::remove_file(path).unwrap();
            }
        }
        node.ok(&["uninstall"]);
        assert_eq!(fs::read(node.config()).unwrap(), V2.as_bytes(), "{lost}");
        assert!(!node.shim().exists() && node.is_loaded());
        if lost == "cwasi-backup" {
            assert_eq!(node.tree(), before);
        }
    }
}

#[test]
fn what_containerd_refuses_is_taken_back() {
    // It takes the configuration, but not with the handler beside it: an imported file has the section.
    let cases = [
        (
            "version = 2\n# BROKEN\n",
            "containerd does not take the configuration: exit status: 1: failed to load TOML",
        ),
        (
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = 'gone'\n",
            "no default runtime `gone`",
        ),
    ];
    for (config, reason) in cases {
        let node = Node::new(Some(config), 2);
        let before = node.tree();
        let line = node.fails(4, &["install"]);
        assert!(
            line.contains(reason) && line.ends_with("is again as it was before"),
            "{line}"
        );
        assert_eq!(node.tree(), before);
        assert_eq!(node.restarts(), 0);
    }
}

#[test]
fn a_containerd_that_does_not_start_is_taken_back() {
    let node = Node::new(Some(V2), 2);
    let before = node.tree();
    fs::write(node.at("fail"), "").unwrap();
    let line = node.fails(4, &["install"]);
    assert!(line.contains("exit status: 5: no start"), "{line}");
    assert_eq!(node.tree(), before);
    assert!(node.is_loaded());
    assert_eq!(node.restarts(), 2);
    fs::remove_file(node.at("fail")).unwrap();
    node.ok(&["install"]);
    assert!(node.is_loaded());
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let taken = format!(
        "{V2}[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.cwasi]\nruntime_type = \"io.containerd.cwasi.v1\"\n"
    );
    let cases = [
        ("", "version 1"),
        ("version = 2\n[plugins", "not TOML: line 2"),
        ("version = 9\n", "version 9"),
        (
            "version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n",
            "disabled",
        ),
        (
            "# File generated by k3s. DO NOT EDIT. Use config.toml.tmpl instead.\nversion = 2\n",
            "generated",
        ),
        (&taken, "configured already"),
    ];
    for (config, reason) in cases {
        let node = Node::new(Some(config), 2);
        let before = node.tree();
        let line = node.fails(3, &["install"]);
        assert!(
            line.contains(reason) && line.ends_with("nothing was changed"),
            "{line}"
        );
        assert_eq!(node.ok(&["uninstall"]), "nothing is installed\n");
        assert_eq!(node.tree(), before);
    }
    let node = Node::new(Some(V2), 2);
    let before = node.tree();
    fs::write(node.shim_of_payload(), "").unwrap();
    assert!(node.fails(3, &["install"]).contains("is empty"));
    fs::remove_file(node.shim_of_payload()).unwrap();
    assert!(node.fails(3, &["install"]).contains("see --payload"));
    assert_eq!(node.tree(), before);
    assert_eq!(node.run(&["install", "--handler", "A B"]).status.code(), Some(2));
}

#[test]
fn running_functions_keep_it() {
    let node = Node::new(Some(V2), 2);
    node.ok(&["install"]);
    // A program with the shim's name on its command line.
    let mut shim = Command::new("sh");
    std::os::unix::process::CommandExt::arg0(&mut shim, node.shim());
    let mut shim = shim
        .args(["-c", "read line"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let line = node.fails(3, &["uninstall"]);
    assert!(
        line.contains(&shim.id().to_string()) && line.contains("--force"),
        "{line}"
    );
    assert!(node.ok(&["status"]).contains("1 processes of functions run"));
    node.ok(&["uninstall", "--force"]);
    shim.kill().unwrap();
    shim.wait().unwrap();
    assert_eq!(fs::read(node.config()).unwrap(), V2.as_bytes());
}

#[test]
fn what_an_unloaded_agent_left_goes_when_asked() {
    let node = Node::new(Some(V2), 2);
    let before = node.tree();
    let (run, pins) = (node.at("node/run"), node.at("node/pins"));
    fs::create_dir_all(run.join("state")).unwrap();
    fs::write(run.join("state/agent.json"), "{}").unwrap();
    fs::create_dir_all(pins.join("v3")).unwrap();
    node.ok(&["install"]);
    let arguments = [
        "uninstall",
        "--agent-dir",
        run.to_str().unwrap(),
        "--agent-bpffs",
        pins.to_str().unwrap(),
    ];
    let message = node.ok(&arguments);
    assert!(message.contains("has pins: `cwasi-agent unload`"), "{message}");
    assert!(!run.exists() && pins.join("v3").exists());
    fs::remove_dir(pins.join("v3")).unwrap();
    assert_eq!(node.ok(&arguments), "nothing is installed\n");
    assert_eq!(node.tree(), before);
}

#[test]
fn many_at_once_take_turns() {
    let node = Node::new(Some(V2), 2);
    let before = node.tree();
    let mut running: Vec<_> = (0..6)
        .map(|_| {
            node.command(&["install"])
                .stderr(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in running.drain(..) {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(node.restarts(), 1);
    node.ok(&["uninstall"]);
    assert_eq!(node.tree(), before);
}

#[test]
fn a_container_waits_and_uninstalls_when_it_was_asked_to() {
    for uninstalls in [false, true] {
        let node = Node::new(Some(V2), 2);
        let before = node.tree();
        let mut arguments = vec!["install", "--wait"];
        arguments.extend(uninstalls.then_some("--uninstall-on-exit"));
        let mut child = node
            .command(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("is installed"));
        assert!(child.try_wait().unwrap().is_none());
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(node.tree() == before, uninstalls);
        assert_eq!(node.shim().exists(), !uninstalls);
    }
}

#[test]
fn without_a_restart_it_is_said() {
    let node = Node::new(Some(V2), 2);
    let before = node.tree();
    let mut command = node.command(&["install"]);
    // The last one wins.
    let output = command.env("CWASI_RESTART", "none").output().unwrap();
    assert!(output.status.success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_cwasi-installer"));
    command
        .arg("uninstall")
        .args(["--restart", "none", "--config"])
        .arg(node.config());
    command
        .arg("--cache-dir")
        .arg(node.at("node/cache"))
        .arg("--containerd")
        .arg(node.at("containerd"));
    let output = command
        .arg("--prefix")
        .arg(node.at("node/opt/cwasi"))
        .output()
        .unwrap();
    let message = text(&output.stdout);
    assert!(
        output.status.success() && message.contains("forgets it with a restart"),
        "{message}"
    );
    assert_eq!(node.tree(), before);
}
