//! The node's containerd: what it makes of its configuration, and its restart.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{Dump, Handler};
use crate::node::Node;
use crate::{Error, Result, process};

/// How long containerd may take to print its configuration.
const PRINT: Duration = Duration::from_secs(60);

/// How long a restart may take on a busy node.
const RESTART: Duration = Duration::from_secs(120);

/// How often a restarted containerd is asked.
const POLL: Duration = Duration::from_millis(100);

/// Where nodes have it: packages and tarballs, k3s, RKE2.
const PLACES: [&str; 6] = [
    "/usr/local/bin/containerd",
    "/usr/bin/containerd",
    "/bin/containerd",
    "/opt/bin/containerd",
    "/var/lib/rancher/k3s/data/current/bin/containerd",
    "/var/lib/rancher/rke2/bin/containerd",
];

/// How containerd is restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restart {
    /// By the node's systemd: this unit.
    Systemd(String),
    /// By a command of the node's shell.
    Command(String),
    /// By somebody else, later.
    None,
}

/// The program `containerd` of a node.
#[derive(Debug)]
pub struct Containerd {
    program: PathBuf,
}

impl Containerd {
    /// The one that was named, or that is where nodes have it.
    #[must_use]
    pub fn find(node: &Node) -> Option<Self> {
        let places = PLACES.iter().map(PathBuf::from);
        let mut places: Box<dyn Iterator<Item = PathBuf>> = match &node.containerd {
            Some(program) => Box::new(std::iter::once(program.clone())),
            None => Box::new(places),
        };
        let program = places.find(|program| node.host.exists(program))?;
        Some(Self { program })
    }

    /// The configuration that it has without a file.
    ///
    /// # Errors
    /// It does not run.
    pub fn default_config(&self, node: &Node) -> Result<String> {
        process::stdout(
            node.host.command(&self.program).args(["config", "default"]),
            PRINT,
        )
    }

    /// What it makes of its configuration, imported files included.
    ///
    /// # Errors
    /// [`Error::Invalid`]; it does not run.
    pub fn dump(&self, node: &Node) -> Result<Dump> {
        let mut command = node.host.command(&self.program);
        // Without a file it would not even start with this flag.
        if node.host.exists(&node.config) {
            command.arg("--config").arg(&node.config);
        }
        let text = process::stdout(command.args(["config", "dump"]), PRINT)?;
        Dump::parse(&text).map_err(|error| Error::Invalid(format!("what it prints is {error}")))
    }

    /// Waits until it serves, and looks whether its CRI does.
    fn check_serving(&self, node: &Node) -> Result<()> {
        let failed = |detail| Error::Command {
            command: "the restart of containerd".to_owned(),
            detail,
        };
        let socket = self.dump(node)?.socket();
        let deadline = Instant::now() + RESTART;
        while let Err(error) = UnixStream::connect(node.host.resolve(&socket)?) {
            if Instant::now() > deadline {
                return Err(failed(format!("cannot connect to {}: {error}", socket.display())));
            }
            thread::sleep(POLL);
        }
        let ctr = self.program.with_file_name("ctr");
        if !node.host.exists(&ctr) {
            return Ok(());
        }
        let mut command = node.host.command(&ctr);
        command.arg("--address").arg(&socket).args(["plugins", "ls"]);
        cri_is_ok(&process::stdout(&mut command, RESTART)?).map_err(failed)
    }
}

/// Looks at the CRI's lines of `ctr plugins ls`: type, name, platforms, status.
fn cri_is_ok(plugins: &str) -> std::result::Result<(), String> {
    let mut lines = plugins.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_cri = words.first()?.starts_with("io.containerd.cri.") || words.get(1) == Some(&"cri");
        is_cri.then(|| (words[0], *words.last().expect("it has a first")))
    });
    let bad = lines.find(|(_, status)| *status != "ok");
    bad.map_or(Ok(()), |(plugin, status)| {
        Err(format!(
            "its plugin {plugin} has the status {status}; see containerd's log"
        ))
    })
}

/// Checks that containerd takes the configuration as it is now, with the handler if one is given. Where no containerd is found
/// nothing is checked: the text was parsed before.
///
/// # Errors
/// [`Error::Invalid`].
pub fn validate(node: &Node, handler: Option<&Handler>) -> Result<()> {
    let Some(containerd) = Containerd::find(node) else {
        tracing::warn!("no containerd is found: it was not asked about its configuration; see --containerd");
        return Ok(());
    };
    let dump = containerd.dump(node).map_err(|error| match error {
        Error::Command { detail, .. } => Error::Invalid(detail),
        other => other,
    })?;
    handler.map_or(Ok(()), |handler| dump.check(handler).map_err(Error::Invalid))
}

/// Restarts containerd, and waits until its CRI serves. Says whether it did: not with [`Restart::None`].
///
/// # Errors
/// The command fails, or the CRI does not serve in time.
pub fn restart(node: &Node) -> Result<bool> {
    let mut command = match &node.restart {
        Restart::None => return Ok(false),
        Restart::Systemd(unit) => {
            let mut command = node.host.command(Path::new("systemctl"));
            command.args(["restart", unit]);
            command
        }
        Restart::Command(script) => {
            let mut command = node.host.command(Path::new("sh"));
            command.args(["-c", script]);
            command
        }
    };
    tracing::info!("restarting containerd");
    process::stdout(&mut command, RESTART)?;
    if let Some(containerd) = Containerd::find(node) {
        containerd.check_serving(node)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cri_that_did_not_load_is_seen() {
        let table = |status: &str| {
            format!(
                "TYPE   ID   PLATFORMS   STATUS\nio.containerd.snapshotter.v1  zfs  linux/amd64  skip\n\
                 io.containerd.cri.v1  images  -  ok\nio.containerd.grpc.v1  cri  linux/amd64  {status}\n"
            )
        };
        assert_eq!(cri_is_ok(&table("ok")), Ok(()));
        assert!(
            cri_is_ok(&table("error"))
                .unwrap_err()
                .contains("io.containerd.grpc.v1")
        );
        assert_eq!(cri_is_ok(""), Ok(()));
    }
}
