//! The cgroup v2 leaf of a guest, by which the kernel's programs recognise its sockets.
//!
//! On a pure v2 host the container's own cgroup is that leaf. On a hybrid host, where containers live in the v1 hierarchies,
//! libcontainer leaves the guest in the shim's v2 cgroup; it gets a leaf of its own below `cwasi` then, without any
//! controller: its v1 limits stay what they are.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{process, thread};

use cwasi_client::cgroup::{self, CgroupError, PARENT};
use sha2::{Digest, Sha256};

use super::error::ShimError;

/// A guest's cgroup v2 leaf. Stays when it is dropped: a guest outlives its shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    path: PathBuf,
    made_here: bool,
}

impl Leaf {
    /// Sees to it that the process `pid` of the container `id` has a leaf of its own.
    ///
    /// # Errors
    /// There is no cgroup v2, or the kernel refuses.
    pub fn of_guest(pid: u32, bundle: &Path, namespace: &str, id: &str) -> Result<Self, ShimError> {
        let here = cgroup::of(pid)?;
        if here != cgroup::of(process::id())? && here != cgroup::unified_root()? {
            return Ok(Self {
                path: here,
                made_here: false,
            });
        }
        let path = hybrid_path(bundle, namespace, id)?;
        make(&path)?;
        let leaf = Self {
            path,
            made_here: true,
        };
        let procs = leaf.path.join("cgroup.procs");
        if let Err(source) = fs::write(&procs, pid.to_string()) {
            leaf.remove()?;
            return Err(ShimError::Io {
                call: "write",
                path: procs,
                source,
            });
        }
        Ok(leaf)
    }

    /// The leaf that a container on a hybrid host has, or had: known without any state, so that it is found after a crash. On a
    /// pure v2 host there is none, which [`Leaf::remove`] does not mind.
    ///
    /// # Errors
    /// There is no cgroup v2.
    pub fn left_on_hybrid(bundle: &Path, namespace: &str, id: &str) -> Result<Self, CgroupError> {
        let path = hybrid_path(bundle, namespace, id)?;
        Ok(Self {
            path,
            made_here: true,
        })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Kills what is left in it, and removes it where it is not libcontainer's to remove.
    ///
    /// # Errors
    /// A process in it survives for seconds.
    pub fn remove(&self) -> Result<(), CgroupError> {
        if self.made_here {
            cgroup::kill_all(&self.path)?;
            cgroup::remove(&self.path)?;
        }
        Ok(())
    }
}

/// Has the kernel get ready for a move between cgroups. The first move for a while waits for an RCU grace period, 8 ms on the
/// machine where it was measured, and a container's creation makes such a move; a move that moves nothing, made beside the
/// work that comes before, takes that wait upon itself.
pub fn anticipate_move() {
    thread::spawn(|| {
        if let Ok(here) = cgroup::of(process::id()) {
            // Whoever may not do this waits later.
            let _ = fs::write(here.join("cgroup.procs"), "0");
        }
    });
}

fn hybrid_path(bundle: &Path, namespace: &str, id: &str) -> Result<PathBuf, CgroupError> {
    Ok(cgroup::unified_root()?
        .join(PARENT)
        .join(key(bundle, namespace, id)))
}

/// Names a container on this node, as a file name: several containerds may each have a container of that name, but not in the
/// same bundle. Neither namespace nor id has two hyphens in a row.
#[must_use]
pub fn key(bundle: &Path, namespace: &str, id: &str) -> String {
    let digest = Sha256::digest(bundle.as_os_str().as_bytes());
    let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{namespace}--{id}--{short}")
}

/// Makes the directory and its parent, which another shim may remove at any moment with the last of its leaves.
fn make(path: &Path) -> Result<(), ShimError> {
    loop {
        if let Some(parent) = path.parent() {
            ignore_existing(fs::create_dir(parent)).map_err(|source| failed(parent, source))?;
        }
        match ignore_existing(fs::create_dir(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done.map_err(|source| failed(path, source)),
        }
    }
}

fn ignore_existing(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn failed(path: &Path, source: io::Error) -> ShimError {
    ShimError::Io {
        call: "mkdir",
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A child, as libcontainer starts a guest's process, and its end.
    struct Guest(Child);

    impl Guest {
        fn new() -> Self {
            Self(Command::new("sleep").arg("1000").spawn().unwrap())
        }
    }

    impl Drop for Guest {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Whether this host lets this user make cgroups; says why not.
    fn can_make_cgroups() -> bool {
        let probe = cgroup::Leaf::create("leaf-test").map(drop);
        probe.map_err(|error| eprintln!("skipped: {error}")).is_ok()
    }

    #[test]
    fn containers_of_one_name_are_kept_apart() {
        let of = |bundle: &str, namespace: &str, id: &str| key(Path::new(bundle), namespace, id);
        assert_eq!(of("/run/a", "k8s.io", "c1"), of("/run/a", "k8s.io", "c1"));
        assert_ne!(
            of("/run/a", "k8s.io", "c1"),
            of("/run/b", "k8s.io", "c1"),
            "another containerd"
        );
        assert_ne!(of("/run/a", "a-b", "c"), of("/run/a", "a", "b-c"));
        assert!(
            of(&"/x".repeat(2000), &"n".repeat(76), &"i".repeat(76)).len() < 200,
            "a file name"
        );
    }

    #[test]
    fn a_guest_beside_its_shim_gets_a_leaf_of_its_own() {
        if !can_make_cgroups() {
            return;
        }
        let guest = Guest::new();
        let id = format!("leaf-{}", process::id());
        let leaf = Leaf::of_guest(guest.0.id(), Path::new("/b"), "test", &id).unwrap();
        assert_eq!(leaf.path(), hybrid_path(Path::new("/b"), "test", &id).unwrap());
        assert_eq!(cgroup::of(guest.0.id()).unwrap(), leaf.path());
        // The same again, as after a start that was tried twice.
        assert_eq!(
            Leaf::of_guest(guest.0.id(), Path::new("/b"), "test", &id)
                .unwrap()
                .path(),
            leaf.path()
        );
        leaf.remove().unwrap();
        assert!(
            !leaf.path().exists(),
            "what was left in it is killed, and it is gone"
        );
        leaf.remove().unwrap();
    }

    #[test]
    fn a_guest_in_a_cgroup_of_its_own_stays_there() {
        if !can_make_cgroups() {
            return;
        }
        let guest = Guest::new();
        let container = cgroup::Leaf::create("container").unwrap();
        container.add(guest.0.id()).unwrap();
        let leaf = Leaf::of_guest(guest.0.id(), Path::new("/b"), "test", "pure").unwrap();
        assert_eq!(leaf.path(), container.path());
        leaf.remove().unwrap();
        assert!(
            container.path().exists(),
            "libcontainer made it, and libcontainer removes it"
        );
    }

    #[test]
    fn a_guest_that_is_gone_leaves_no_cgroup() {
        if !can_make_cgroups() {
            return;
        }
        let mut guest = Guest::new();
        guest.0.kill().unwrap();
        guest.0.wait().unwrap();
        assert!(Leaf::of_guest(guest.0.id(), Path::new("/b"), "test", "gone").is_err());
        assert!(!hybrid_path(Path::new("/b"), "test", "gone").unwrap().exists());
    }
}
