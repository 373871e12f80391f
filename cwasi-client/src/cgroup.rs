//! The cgroup v2 leaf by which the kernel recognises a function.
//!
//! Works on a pure cgroup v2 host and on a hybrid one, where the v2 hierarchy is mounted beside the v1 controllers.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Directory, under the root of the v2 hierarchy, of the leaves that [`Leaf::create`] makes.
pub const PARENT: &str = "cwasi";

/// How long the processes of a cgroup that were killed may take to die.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);

/// What is wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified
    #[error("no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")]
    NoUnified,
    /// {0:?} cannot be part of a cgroup's name
    #[error("{0:?} cannot be part of a cgroup's name")]
    Name(String),
    /// process {pid} has no cgroup within reach of this process
    #[error("process {pid} has no cgroup v2 within reach of this process: {found:?}")]
    OutOfReach {
        /// The process.
        pid: u32,
        /// Its v2 entry in /proc/PID/cgroup, empty if there is none.
        found: String,
    },
    /// {call} on {path} failed: {source}
    #[error("{call} on {path} failed: {source}")]
    Io {
        /// The call that failed.
        call: &'static str,
        /// What it was called on.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
    /// processes of {0} are still alive after they were killed
    #[error("processes of {0} are still alive after they were killed")]
    Busy(PathBuf),
}

impl CgroupError {
    /// Whether the cgroup does not exist (any more).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(Errno::ENODEV as i32)
            }
            _ => false,
        }
    }
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError::Io {
        call,
        path: path.to_owned(),
        source,
    }
}

/// The directory where the cgroup v2 hierarchy is mounted, pure or hybrid.
///
/// # Errors
/// There is none, or `/proc` cannot be read.
pub fn unified_root() -> Result<PathBuf, CgroupError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(path).map_err(failed("read", path))?;
    root_in(&mounts).ok_or(CgroupError::NoUnified)
}

/// The mount point of the first cgroup2 mount in a mountinfo text, one of the whole hierarchy if there is one.
fn root_in(mountinfo: &str) -> Option<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup2 ").then_some((root, at))
    });
    mounts
        .min_by_key(|(root, _)| *root != "/")
        .map(|(_, at)| PathBuf::from(unescape(at)))
}

/// Undoes the octal escapes (`\040`) of mountinfo.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The cgroup v2 directory of the process `pid`.
///
/// # Errors
/// The process is gone, or its cgroup is outside of the cgroup namespace of this process.
pub fn of(pid: u32) -> Result<PathBuf, CgroupError> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or_default();
    match found.strip_prefix('/') {
        Some(inside) if !inside.starts_with("..") && !inside.ends_with(" (deleted)") => {
            Ok(unified_root()?.join(inside))
        }
        _ => Err(CgroupError::OutOfReach {
            pid,
            found: found.to_owned(),
        }),
    }
}

/// The cgroup v2 directory of this process, where no other process is in it: what is attached there concerns nobody else. It is
/// found also from a cgroup namespace, whose processes the kernel tells a path that does not begin at the mount.
///
/// # Errors
/// There is no cgroup v2.
pub fn alone() -> Result<Option<PathBuf>, CgroupError> {
    let me = format!("{}\n", process::id());
    let mut unseen = children(&unified_root()?)?;
    while let Some(dir) = unseen.pop() {
        // What goes meanwhile is not ours.
        let below = children(&dir).unwrap_or_default();
        if below.is_empty() && fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|procs| procs == me) {
            return Ok(Some(dir));
        }
        unseen.extend(below);
    }
    Ok(None)
}

/// The id by which the kernel knows the cgroup of a directory: its inode number.
///
/// # Errors
/// The directory does not exist.
pub fn id(dir: &Path) -> Result<u64, CgroupError> {
    Ok(fs::metadata(dir).map_err(failed("stat", dir))?.ino())
}

/// Whether a process lives in the cgroup or below it. A zombie does not count.
///
/// # Errors
/// The directory does not exist, or is no cgroup but the root's.
pub fn populated(dir: &Path) -> Result<bool, CgroupError> {
    let path = dir.join("cgroup.events");
    let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
    Ok(text.lines().any(|line| line == "populated 1"))
}

/// Kills every process in the cgroup and below it, but never the caller, and waits until they are dead.
///
/// # Errors
/// A process survives for seconds (it waits in the kernel), or the cgroup cannot be read.
pub fn kill_all(dir: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + EMPTY_TIMEOUT;
    let mut pause = Duration::from_millis(1);
    loop {
        match populated(dir) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) => return Err(error),
        }
        if Instant::now() > deadline {
            return Err(CgroupError::Busy(dir.to_owned()));
        }
        kill_once(dir)?;
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Sends SIGKILL to every process in the cgroup and below it, but never to the caller.
fn kill_once(dir: &Path) -> Result<(), CgroupError> {
    let me = i32::try_from(process::id()).map(Pid::from_raw).ok();
    let pids = members(dir)?;
    // cgroup.kill (5.14) also gets processes that fork faster than they are listed.
    if !pids.iter().any(|pid| Some(*pid) == me) && fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return Ok(());
    }
    for pid in pids.into_iter().filter(|pid| Some(*pid) != me) {
        match kill(pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => {
                return Err(failed("kill", &PathBuf::from(format!("/proc/{pid}")))(
                    errno.into(),
                ));
            }
        }
    }
    Ok(())
}

/// The processes in the cgroup and below it.
fn members(dir: &Path) -> Result<Vec<Pid>, CgroupError> {
    let path = dir.join("cgroup.procs");
    let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
    let mut pids: Vec<Pid> = text
        .lines()
        .filter_map(|line| line.parse().ok())
        .map(Pid::from_raw)
        .collect();
    for child in children(dir)? {
        pids.extend(members(&child)?);
    }
    // Processes of other pid namespaces are listed as 0, which kill() would take for the caller's process group.
    pids.retain(|pid| pid.as_raw() > 0);
    Ok(pids)
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let entries = fs::read_dir(dir).map_err(failed("readdir", dir))?;
    Ok(entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

/// Removes the cgroup and those below it, and [`PARENT`] with the last of its leaves. One that is gone is no error.
///
/// # Errors
/// A process lives in it; see [`kill_all`].
pub fn remove(dir: &Path) -> Result<(), CgroupError> {
    match remove_tree(dir) {
        Err(error) if !error.is_gone() => return Err(error),
        _ => {}
    }
    if let Some(parent) = dir
        .parent()
        .filter(|parent| parent.file_name().is_some_and(|name| name == PARENT))
    {
        // It stays when it has other leaves, which rmdir itself tells best.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> Result<(), CgroupError> {
    for child in children(dir)? {
        remove_tree(&child)?;
    }
    // Just killed processes keep a cgroup busy for a moment after it counts as unpopulated.
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(2));
            }
            done => return done.map_err(failed("rmdir", dir)),
        }
    }
}

/// A cgroup of one function. Dropping it takes this process out, kills what is left in it, and removes it.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    procs: PathBuf,
    id: u64,
    /// The process that made it: a forked child that drops its copy must not tear it down.
    owner: u32,
    came_from: Option<PathBuf>,
}

impl Leaf {
    /// Makes the cgroup `<v2 root>/cwasi/<name>-<pid>`, with a number added when this process already has one.
    ///
    /// # Errors
    /// `name` is no file name, there is no cgroup v2, or the caller may not make cgroups.
    pub fn create(name: &str) -> Result<Self, CgroupError> {
        if name.is_empty() || name.len() > 200 || name.starts_with('.') || name.contains(['/', '\0', '\n']) {
            return Err(CgroupError::Name(name.to_owned()));
        }
        let parent = unified_root()?.join(PARENT);
        let owner = process::id();
        let mut path = parent.join(format!("{name}-{owner}"));
        let mut number = 1;
        loop {
            match fs::create_dir(&parent) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("mkdir", &parent)(error));
                }
                _ => {}
            }
            match fs::create_dir(&path) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    number += 1;
                    path.set_file_name(format!("{name}-{owner}-{number}"));
                }
                // Another process removed the parent with its last leaf.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("mkdir", &path)(error)),
            }
        }
        Ok(Self {
            id: id(&path)?,
            procs: path.join("cgroup.procs"),
            path,
            owner,
            came_from: None,
        })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id in the kernel.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The file that moves the process in whose pid is written to it; `0` stands for the writer.
    #[must_use]
    pub fn procs(&self) -> &Path {
        &self.procs
    }

    /// Moves the calling process in, with all its threads. Its open sockets stay with the cgroup they were opened in.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&mut self) -> Result<(), CgroupError> {
        let here = of(process::id())?;
        fs::write(&self.procs, "0").map_err(failed("write", &self.procs))?;
        if here != self.path {
            self.came_from = Some(here);
        }
        Ok(())
    }

    /// Moves the process `pid` in.
    ///
    /// # Errors
    /// There is no such process, or the kernel refuses.
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        fs::write(&self.procs, pid.to_string()).map_err(failed("write", &self.procs))
    }

    /// Tears the cgroup down like a drop, and tells what went wrong.
    ///
    /// # Errors
    /// A process in it cannot be moved or killed.
    pub fn close(mut self) -> Result<(), CgroupError> {
        let done = self.tear_down();
        // A second attempt by the drop would only wait once more.
        self.owner = 0;
        done
    }

    fn tear_down(&mut self) -> Result<(), CgroupError> {
        if self.owner != process::id() {
            return Ok(());
        }
        if let Some(before) = self.came_from.take() {
            let back = fs::write(before.join("cgroup.procs"), "0");
            if back.is_err() {
                let root = unified_root()?.join("cgroup.procs");
                fs::write(&root, "0").map_err(failed("write", &root))?;
            }
        }
        kill_all(&self.path)?;
        remove(&self.path)
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        // Nobody is left to tell; the agent removes the leaves of registered functions once they are empty.
        let _ = self.tear_down();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn root_is_found_pure_and_hybrid() {
        let pure = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(root_in(pure), Some(PathBuf::from("/sys/fs/cgroup")));
        let hybrid = "24 1 0:22 / /sys/fs/cgroup rw - tmpfs none rw\n\
                      31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup none rw,cpu\n\
                      39 24 0:35 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        assert_eq!(root_in(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let part = "39 24 0:35 /pod /a rw - cgroup2 none rw\n40 24 0:35 / /b\\040c rw - cgroup2 none rw\n";
        assert_eq!(root_in(part), Some(PathBuf::from("/b c")));
        assert_eq!(
            root_in("24 1 0:22 / /sys/fs/cgroup rw - tmpfs cgroup2 rw\n"),
            None
        );
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/a\9"), r"/a\9");
    }

    #[test]
    fn odd_names_are_refused() {
        for name in ["", ".", "..", "a/b", "a\nb"] {
            assert!(
                matches!(Leaf::create(name), Err(CgroupError::Name(_))),
                "{name:?}"
            );
        }
    }

    /// A leaf, or `None` with a line on stderr where this user or host has none.
    fn leaf(name: &str) -> Option<Leaf> {
        match Leaf::create(name) {
            Ok(leaf) => Some(leaf),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    fn sleeper(leaf: &Leaf) -> Child {
        let procs = leaf.procs().to_owned();
        let mut command = Command::new("sleep");
        // SAFETY: between fork and exec only a write to a file happens; the allocation is safe because this is glibc's fork.
        unsafe {
            command
                .arg("1000")
                .stdout(Stdio::null())
                .pre_exec(move || fs::write(&procs, "0"))
        };
        command.spawn().unwrap()
    }

    #[test]
    fn drop_kills_and_removes() {
        let Some(first) = leaf("client-test") else { return };
        let second = Leaf::create("client-test").unwrap();
        assert_ne!(first.path(), second.path());
        assert_eq!(first.id(), id(first.path()).unwrap());

        let mut child = sleeper(&first);
        assert_eq!(of(child.id()).unwrap(), first.path());
        assert!(populated(first.path()).unwrap());
        fs::create_dir(first.path().join("below")).unwrap();
        fs::write(first.path().join("below/cgroup.procs"), child.id().to_string()).unwrap();

        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists());
        assert!(!child.wait().unwrap().success());
        let path = second.path().to_owned();
        second.close().unwrap();
        assert!(!path.exists());
        remove(&path).unwrap();
    }

    #[test]
    fn enter_goes_back() {
        let Some(mut leaf) = leaf("client-enter") else {
            return;
        };
        let before = of(process::id()).unwrap();
        leaf.enter().unwrap();
        assert_eq!(of(process::id()).unwrap(), leaf.path());
        leaf.enter().unwrap();
        drop(leaf);
        assert_eq!(of(process::id()).unwrap(), before);
    }
}
