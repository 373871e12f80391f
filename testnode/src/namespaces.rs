//! A node's own network and mount namespace, in which everything of it runs.

use std::fs::{self, File};
use std::io::Write;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::{IoContext, brief, on};
use crate::{Error, Result};

/// Directories of the host that containerd, CNI and the shims share by name: a node has them to itself.
const PRIVATE: [&str; 2] = ["/run", "/var/lib/cni"];

/// A network namespace whose loopback is up, and a mount namespace whose mounts nobody else sees. They last as long as this
/// value, or a process in them: with the last one every mount is gone.
#[derive(Debug)]
pub struct Namespaces {
    net: File,
    mnt: File,
}

impl Namespaces {
    /// Makes both, with an empty file system for each of `empty` (beside those that every node has).
    ///
    /// # Errors
    /// The caller may not, or has no `ip`.
    pub(crate) fn new(empty: &[&Path]) -> Result<Self> {
        for path in PRIVATE {
            fs::create_dir_all(path).action(on("create", path))?;
        }
        // Namespaces are a thread's: this one ends at once.
        let made = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).action(|| "make namespaces")?;
            // Unmounts of the host still come in, so that nobody finds its file systems busy.
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_SLAVE,
                None::<&str>,
            )
            .action(|| "make the mounts of a new namespace its own")?;
            for path in PRIVATE.iter().map(Path::new).chain(empty.iter().copied()) {
                mount(
                    Some("tmpfs"),
                    path,
                    Some("tmpfs"),
                    MsFlags::empty(),
                    Some("mode=755"),
                )
                .action(on("mount a tmpfs on", path))?;
            }
            let open = |name| {
                let path = Path::new("/proc/thread-self/ns").join(name);
                File::open(&path).action(on("open", path))
            };
            Ok(Self {
                net: open("net")?,
                mnt: open("mnt")?,
            })
        })?;
        made.ip("link set lo up\n")?;
        Ok(made)
    }

    /// Runs a task inside; programs that it starts are inside too.
    ///
    /// # Errors
    /// The namespaces cannot be entered, and what the task fails with.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            // A thread that shares its root and working directory with others may not change mount namespaces.
            unshare(CloneFlags::CLONE_FS).action(|| "unshare the working directory")?;
            setns(&self.net, CloneFlags::CLONE_NEWNET)
                .action(|| "enter the network namespace of the node")?;
            setns(&self.mnt, CloneFlags::CLONE_NEWNS).action(|| "enter the mount namespace of the node")?;
            task()
        })
    }

    /// Runs a task in another network namespace, whose file only the node's mount namespace has.
    ///
    /// # Errors
    /// See [`Namespaces::run`].
    pub fn run_in<T: Send>(&self, netns: &Path, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.run(|| cwasi_client::netns::run(netns, task)?)
    }

    /// Feeds lines to `ip -batch -` inside.
    pub(crate) fn ip(&self, batch: &str) -> Result<()> {
        self.run(|| {
            let mut command = Command::new("ip");
            command.args(["-batch", "-"]);
            let mut child = command
                .stdin(Stdio::piped())
                .spawn()
                .action(|| "run ip, of the package iproute2")?;
            let mut stdin = child.stdin.take().expect("piped above");
            stdin.write_all(batch.as_bytes()).action(|| "write to ip")?;
            drop(stdin);
            let status = child.wait().action(|| "wait for ip")?;
            if status.success() {
                return Ok(());
            }
            Err(Error::Failed {
                program: brief(&command),
                status,
                output: batch.trim().to_owned(),
            })
        })
    }

    /// Processes in one of the namespaces, with the names of their programs.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        use std::os::unix::fs::MetadataExt;
        let ids = [&self.net, &self.mnt].map(|file| file.metadata().map(|metadata| metadata.ino()).ok());
        let inside = |process: &Path| {
            ["ns/net", "ns/mnt"].iter().zip(ids).any(|(name, id)| {
                let here = fs::metadata(process.join(name)).map(|metadata| metadata.ino());
                id.is_some() && here.ok() == id
            })
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
            .filter(|(pid, path)| i64::from(*pid) != i64::from(std::process::id()) && inside(path))
            .map(|(pid, path)| (pid, name(&path)))
            .collect()
    }
}

/// The command line of a process in /proc, or what the kernel calls it.
pub(crate) fn name(process: &Path) -> String {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    match line.trim() {
        "" => fs::read_to_string(process.join("comm"))
            .unwrap_or_default()
            .trim()
            .to_owned(),
        line => line.to_owned(),
    }
}

fn on_a_thread<T: Send>(task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(task).join()).unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}

/// The network namespace files that a directory holds, in the caller's mount namespace.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{testing, wait};

    #[test]
    fn mounts_inside_are_seen_inside_only() {
        if let Some(reason) = testing::not_root() {
            return testing::skipped(&reason);
        }
        let directory = tempfile::tempdir().unwrap();
        let namespaces = Namespaces::new(&[directory.path()]).unwrap();
        let file = directory.path().join("file");
        namespaces
            .run(|| fs::write(&file, "").action(on("write", &file)))
            .unwrap();
        assert!(!file.exists());
        namespaces
            .run(|| {
                assert!(file.exists());
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn programs_inside_are_found() {
        if let Some(reason) = testing::not_root() {
            return testing::skipped(&reason);
        }
        let namespaces = Namespaces::new(&[]).unwrap();
        let mut child = namespaces
            .run(|| Command::new("sleep").arg("1000").spawn().action(|| "run sleep"))
            .unwrap();
        let expected = [(i32::try_from(child.id()).unwrap(), "sleep 1000".to_owned())];
        // The kernel lets go of who started a program a moment before it knows the program's arguments.
        wait::until("its arguments are seen", || {
            Ok((namespaces.processes() == expected).then_some(()))
        })
        .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(namespaces.processes().is_empty());
    }
}
