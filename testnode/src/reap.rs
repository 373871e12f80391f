//! The end of a node, also of one whose process died without it.

use std::fs;
use std::io;
use std::path::Path;
use std::process;
use std::time::Duration;

use crate::cgroups::{self, Cgroups};
use crate::error::{IoContext, on};
use crate::functions::is_alive;
use crate::namespaces::{self, Namespaces};
use crate::{Result, agent, wait};

/// Where nodes have their directories: paths of Unix sockets must be short.
pub(crate) const PARENT: &str = "/tmp";

/// Prefix of the names of all nodes; the id of the process that made it and a number follow.
pub(crate) const PREFIX: &str = "cwasi-node-";

/// How long processes may take to die.
const DEATH: Duration = Duration::from_secs(20);

/// Kills everything of a node, and waits until it is dead.
pub(crate) fn kill_all(cgroups: &Cgroups, namespaces: Option<&Namespaces>) -> Result<()> {
    let me = process::id().cast_signed();
    wait::within(DEATH, "every process of the node is dead", || {
        let mut pids = cgroups.processes();
        if let Some(namespaces) = namespaces {
            pids.extend(namespaces.processes().into_iter().map(|(pid, _)| pid));
        }
        pids.retain(|pid| *pid != me);
        let dead = pids.is_empty();
        cgroups::kill_all(pids)?;
        Ok(dead.then_some(()))
    })
}

/// Removes the nodes of processes that died without doing it.
pub(crate) fn reap() -> Result<()> {
    for directory in namespaces::files(Path::new(PARENT)) {
        let name = directory
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(owner) = owner(&name) else { continue };
        if is_alive(owner) {
            continue;
        }
        let cgroups = Cgroups::named(&name)?;
        let containers = cgroups.containers();
        kill_all(&cgroups, None)?;
        cgroups::remove_leaves(&containers)?;
        cgroups.remove()?;
        agent::remove_pins(&name);
        match fs::remove_dir_all(&directory) {
            // Another process reaps at the same time.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).action(on("remove", &directory));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The process that made a node of this name.
fn owner(name: &str) -> Option<i32> {
    let (owner, number) = name.strip_prefix(PREFIX)?.split_once('-')?;
    number.parse::<u32>().ok()?;
    owner.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;

    #[test]
    fn names_tell_their_process() {
        assert_eq!(owner("cwasi-node-77-0"), Some(77));
        for other in ["cwasi-node-77", "cwasi-node-x-0", "cwasi-node-77-x", "node-77-0"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn nodes_of_the_dead_are_reaped() {
        if let Some(reason) = crate::testing::missing() {
            return crate::testing::skipped(&reason);
        }
        // No process has this id: it is above the kernel's limit for pids.
        let name = format!("{PREFIX}{}-0", 1 << 23);
        let directory = Path::new(PARENT).join(&name);
        let cgroups = Cgroups::named(&name).unwrap();
        fs::create_dir_all(&directory).unwrap();
        cgroups.create().unwrap();
        let mut left = Command::new("/bin/sh")
            .args(["-c", "echo $$ > \"$0\" && exec sleep 1000"])
            .arg(cgroups.procs())
            .spawn()
            .unwrap();
        wait::until("the process moves", || {
            Ok((!cgroups.processes().is_empty()).then_some(()))
        })
        .unwrap();
        // Its parent must reap it for the cgroup to become empty.
        let waiter = thread::spawn(move || left.wait().unwrap());
        reap().unwrap();
        assert!(!waiter.join().unwrap().success());
        assert!(!directory.exists());
        assert!(!cgroups.procs().exists());
    }
}
