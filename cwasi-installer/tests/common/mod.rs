//! A node in a directory: a configuration, a payload, and a program that stands for containerd.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Prints what it is configured with, imported files included, as containerd does; refuses what has the word BROKEN.
const CONTAINERD: &str = r#"#!/bin/sh
here=$(dirname "$0")
[ "$1" = config ] && exec cat "$here/default.toml"
for file in "$2" "$(dirname "$2")"/conf.d/*.toml "$here/default.toml"; do
    [ -e "$file" ] && cat "$file" && echo
done | grep -v '^imports' | awk '!/^version/ || !seen++' > "$0.$$"
! grep -q BROKEN "$0.$$" && cat "$0.$$"
status=$?
rm "$0.$$"
[ $status = 0 ] || echo "failed to load TOML: it is broken" >&2
exit $status
"#;

pub(crate) const V2: &str = "# the admin's\nversion = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  \
                             runtime_type = 'io.containerd.runc.v2' # as ever\n";

/// The node. Its containerd "loads" the configuration by copying it.
pub(crate) struct Node {
    directory: TempDir,
    _socket: UnixListener,
}

impl Node {
    /// With this configuration, or with none and the built-in one of a containerd of this version.
    pub(crate) fn new(config: Option<&str>, version: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        for path in ["node/etc", "payload/bin", "payload/seccomp"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        let node = Self {
            _socket: UnixListener::bind(at("sock")).unwrap(),
            directory,
        };
        let grpc = format!("version = {version}\n[grpc]\naddress = {:?}\n", node.at("sock"));
        fs::write(node.at("default.toml"), &grpc).unwrap();
        if let Some(config) = config {
            fs::write(node.config(), config).unwrap();
            fs::set_permissions(node.config(), Permissions::from_mode(0o640)).unwrap();
        }
        fs::write(node.at("containerd"), CONTAINERD).unwrap();
        fs::set_permissions(node.at("containerd"), Permissions::from_mode(0o755)).unwrap();
        fs::write(node.shim_of_payload(), "the shim").unwrap();
        fs::write(node.at("payload/bin/cwasi-run"), "the runner").unwrap();
        fs::write(node.at("payload/seccomp/agent.json"), "{}").unwrap();
        node
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.at("node/etc/config.toml")
    }

    pub(crate) fn shim_of_payload(&self) -> PathBuf {
        self.at("payload/bin/containerd-shim-cwasi-v1")
    }

    /// What a restart does: containerd has the configuration of that moment, or fails where the file `fail` says so.
    pub(crate) fn restart_command(&self) -> String {
        let d = self.directory.path().display();
        format!(
            "echo >> {d}/restarts; if [ -e {d}/fail ] && grep -q cwasi {d}/node/etc/config.toml; then echo no start >&2; exit 5; fi; \
             rm -rf {d}/loaded; mkdir {d}/loaded; cp -r {d}/node/etc/*.toml {d}/node/etc/conf.d {d}/loaded/ 2>/dev/null; true"
        )
    }

    pub(crate) fn restarts(&self) -> usize {
        fs::read_to_string(self.at("restarts")).map_or(0, |text| text.lines().count())
    }

    /// Whether containerd runs with the configuration that is on disk.
    pub(crate) fn is_loaded(&self) -> bool {
        let tomls = |root: &Path| {
            let mut tree = tree(root);
            tree.retain(|name, (_, bytes)| name.ends_with(".toml") && bytes.is_some());
            tree.into_iter()
                .map(|(name, (_, bytes))| (name, bytes))
                .collect::<Vec<_>>()
        };
        tomls(&self.at("loaded")) == tomls(&self.at("node/etc"))
    }

    /// Everything on the node: names, modes, and the bytes of files.
    pub(crate) fn tree(&self) -> BTreeMap<String, (u32, Option<Vec<u8>>)> {
        tree(&self.at("node"))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cwasi-installer"));
        command
            .env_clear()
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .arg("--prefix")
            .arg(self.at("node/opt/cwasi"))
            .arg("--containerd")
            .arg(self.at("containerd"))
            .args([
                "--restart",
                "command",
                "--restart-command",
                &self.restart_command(),
            ]);
        if arguments[0] != "status" {
            command.arg("--cache-dir").arg(self.at("node/cache"));
        }
        if arguments[0] == "install" {
            command.arg("--payload").arg(self.at("payload"));
        }
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }
}

fn tree(root: &Path) -> BTreeMap<String, (u32, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let mode = path.symlink_metadata().unwrap().permissions().mode();
            let bytes = (!path.is_dir()).then(|| fs::read(&path).unwrap());
            if path.is_dir() {
                todo.push(path);
            }
            found.insert(name, (mode, bytes));
        }
    }
    found
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
