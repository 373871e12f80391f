//! The installer is killed before each change that it makes; the next run goes on from there, in either direction.

mod common;

use std::cell::Cell;
use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Node, V2};
use cwasi_installer::containerd::Restart;
use cwasi_installer::host::Host;
use cwasi_installer::install::{Plan, install};
use cwasi_installer::node;
use cwasi_installer::uninstall::{Options, uninstall};
use nix::sys::signal::{Signal, raise};

/// What is done, on which node, and before which change the process is killed.
const ACTION: &str = "CWASI_TEST_ACTION";
const DIRECTORY: &str = "CWASI_TEST_DIRECTORY";
const RESTART: &str = "CWASI_TEST_RESTART";
const KILL_AT: &str = "CWASI_TEST_KILL_AT";

/// The process that is killed: this program again, for this test alone.
#[test]
fn victim() {
    let Ok(action) = env::var(ACTION) else { return };
    let directory = PathBuf::from(env::var(DIRECTORY).unwrap());
    let kill_at: usize = env::var(KILL_AT).unwrap().parse().unwrap();
    let change = Cell::new(0);
    let before = move |_: &str| {
        if change.get() == kill_at {
            raise(Signal::SIGKILL).unwrap();
        }
        change.set(change.get() + 1);
    };
    let node = node::Node {
        host: Host::new(Path::new("/"), Box::new(before)),
        config: directory.join("node/etc/config.toml"),
        prefix: directory.join("node/opt/cwasi"),
        containerd: Some(directory.join("containerd")),
        restart: Restart::Command(env::var(RESTART).unwrap()),
    };
    if action == "install" {
        let plan = Plan::new(
            &node,
            "cwasi",
            &directory.join("payload"),
            &["cwasi-run".to_owned()],
            None,
        );
        install(&node, &plan).unwrap();
    } else {
        uninstall(&node, &Options::default()).unwrap();
    }
}

/// Runs the action, and says whether it was killed.
fn is_killed(node: &Node, action: &str, kill_at: usize) -> bool {
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", "victim"])
        .env(ACTION, action)
        .env(DIRECTORY, node.at(""))
        .env(RESTART, node.restart_command())
        .env(KILL_AT, kill_at.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(
        status.success() || status.signal() == Some(Signal::SIGKILL as i32),
        "{status}"
    );
    !status.success()
}

/// Kills the action before its first change, its second, and so on, until it comes to its end; gives how many it has.
fn kill_everywhere(config: Option<&str>, version: u32, is_installed: bool, action: &str) -> usize {
    for kill_at in 0.. {
        for next in ["install", "uninstall"] {
            let node = Node::new(config, version);
            let before = node.tree();
            if is_installed {
                node.ok(&["install"]);
            }
            if !is_killed(&node, action, kill_at) {
                return kill_at;
            }
            node.ok(&[next]);
            let what = format!("{action} killed at {kill_at}, then {next}, of {config:?}");
            if next == "install" {
                node.ok(&["status"]);
                assert!(node.is_loaded(), "{what}");
                node.ok(&["uninstall"]);
            }
            assert_eq!(node.tree(), before, "{what}");
            let never = node.restarts() == 0;
            assert!(never || node.is_loaded(), "{what}");
        }
    }
    unreachable!("the numbers end before")
}

#[test]
fn an_install_goes_on_after_a_kill() {
    let changes = kill_everywhere(Some(V2), 2, false, "install");
    // Backup, journal twice, two programs and the configuration, each prepared and written; three directories.
    assert!(changes >= 15, "{changes}");
}

#[test]
fn an_install_without_a_file_before_goes_on_after_a_kill() {
    kill_everywhere(None, 2, false, "install");
}

#[test]
fn an_install_of_a_drop_in_goes_on_after_a_kill() {
    kill_everywhere(
        Some("version = 3\nimports = ['conf.d/*.toml']\n"),
        3,
        false,
        "install",
    );
}

#[test]
fn an_uninstall_goes_on_after_a_kill() {
    let changes = kill_everywhere(Some(V2), 2, true, "uninstall");
    assert!(changes >= 9, "{changes}");
}

#[test]
fn an_uninstall_of_a_drop_in_goes_on_after_a_kill() {
    kill_everywhere(
        Some("version = 3\nimports = ['conf.d/*.toml']\n"),
        3,
        true,
        "uninstall",
    );
}
