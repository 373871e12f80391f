//! From what a launcher says to what can be registered: checks, and what the agent finds out itself.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cwasi_client::cgroup;
use cwasi_client::netns::{self, NetnsError};
use cwasi_client::protocol::{ApiError, ErrorCode, FunctionSpec};
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use tracing::warn;

/// A function that can be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What the launcher said, with cgroup and addresses filled in.
    pub spec: FunctionSpec,
    /// Its cgroup directory, without symbolic links.
    pub cgroup: PathBuf,
}

impl Candidate {
    /// Checks what the process `pid` says of a function, and looks up what it does not say: its cgroup and its addresses.
    ///
    /// # Errors
    /// A field cannot be used; the message says which and why.
    pub fn resolve(mut spec: FunctionSpec, pid: u32) -> Result<Self, ApiError> {
        validate(&spec)?;
        let invalid = |error: &dyn std::fmt::Display| invalid(error.to_string());
        let unseen =
            "the agent does not see the caller's process (another pid namespace): name cgroup and netns";
        let cgroup = match &spec.cgroup {
            Some(path) => path.clone(),
            None if pid == 0 => return Err(invalid(&unseen)),
            None => cgroup::of(pid).map_err(|error| invalid(&error))?,
        };
        let root = cgroup::unified_root().map_err(|error| invalid(&error))?;
        let cgroup = inside(&cgroup, &root)?;
        // A launcher that gives the addresses has looked for itself: its path need not exist where the agent lives.
        if spec.addresses.is_empty() {
            if spec.netns.is_none() && pid == 0 {
                return Err(invalid(&unseen));
            }
            let file = spec
                .netns
                .clone()
                .unwrap_or_else(|| PathBuf::from(format!("/proc/{pid}/ns/net")));
            spec.addresses = match netns::run(&file, netns::function_addresses).and_then(|found| found) {
                Ok(found) => found,
                // Connections to this function go by TCP until its launcher, or a prefix, says where it is.
                Err(error) if is_not_permitted(&error) => {
                    warn!(
                        "addresses of {}: {error}; let its launcher name them, or run the agent with CAP_SYS_ADMIN and \
                         CAP_SYS_PTRACE",
                        spec.name
                    );
                    Vec::new()
                }
                Err(error) => return Err(invalid(&error)),
            };
        }
        spec.addresses.sort();
        spec.addresses.dedup();
        spec.cgroup = Some(cgroup.clone());
        Ok(Self { spec, cgroup })
    }
}

/// Whether an agent with more rights could enter the namespace.
fn is_not_permitted(error: &NetnsError) -> bool {
    match error {
        NetnsError::Enter { errno, .. } => *errno == Errno::EPERM,
        NetnsError::Missing { source, .. } => source.kind() == ErrorKind::PermissionDenied,
        _ => false,
    }
}

/// A cgroup's directory without symbolic links, as functions are kept; of one that is gone, as far as its path exists.
///
/// # Errors
/// The path is not absolute.
pub fn directory(cgroup: &Path) -> Result<PathBuf, ApiError> {
    if !cgroup.is_absolute() {
        return Err(invalid("cgroup: an absolute path is needed".to_owned()));
    }
    let mut existing = cgroup.ancestors().filter_map(|ancestor| {
        let gone = cgroup.strip_prefix(ancestor).ok()?;
        let found = fs::canonicalize(ancestor).ok()?;
        // Joining nothing would add a slash.
        Some(if gone.as_os_str().is_empty() {
            found
        } else {
            found.join(gone)
        })
    });
    Ok(existing.next().unwrap_or_else(|| cgroup.to_owned()))
}

/// The cgroup directory without symbolic links, which must be below the root of the hierarchy.
fn inside(path: &Path, root: &Path) -> Result<PathBuf, ApiError> {
    let named = |problem: &str| invalid(format!("cgroup {}: {problem}", path.display()));
    let found = fs::canonicalize(path).map_err(|error| named(&error.to_string()))?;
    let root = fs::canonicalize(root).map_err(|error| named(&error.to_string()))?;
    if !found.is_dir() {
        return Err(named("is no directory"));
    }
    if found == root {
        return Err(named(
            "is the root, which is everybody's; give the function a cgroup of its own",
        ));
    }
    let on_cgroup2 = statfs(&found).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC);
    if !found.starts_with(&root) || !on_cgroup2 {
        return Err(named(&format!(
            "is not below the cgroup v2 root {}",
            root.display()
        )));
    }
    Ok(found)
}

pub(super) fn invalid(message: String) -> ApiError {
    ApiError {
        code: ErrorCode::Invalid,
        message,
    }
}

/// Checks what can be checked without looking at the node.
///
/// # Errors
/// A name, label or address cannot be used.
pub fn validate(spec: &FunctionSpec) -> Result<(), ApiError> {
    spec.check().map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> FunctionSpec {
        FunctionSpec {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            ..FunctionSpec::default()
        }
    }

    #[test]
    fn a_cgroup_outside_of_the_hierarchy_is_refused() {
        let Ok(root) = cgroup::unified_root() else {
            return eprintln!("skipped: no cgroup v2 is mounted");
        };
        let of = |path: &str| inside(Path::new(path), &root).unwrap_err().message;
        assert!(of("/tmp").contains("not below"), "{}", of("/tmp"));
        assert!(of("/no/such").contains("No such file"));
        assert!(of(root.to_str().unwrap()).contains("is the root"));
        assert!(of(&format!("{}/cgroup.procs", root.display())).contains("is no directory"));
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        assert!(of(link.to_str().unwrap()).contains("is the root"));
    }

    #[test]
    fn directories_have_no_links_as_far_as_they_exist() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        let link = dir.path().join("link");
        fs::create_dir(real.join("a")).unwrap();
        std::os::unix::fs::symlink(real.join("a"), &link).unwrap();
        assert_eq!(directory(&link).unwrap(), real.join("a"));
        assert_eq!(
            directory(&link.join("gone/too")).unwrap(),
            real.join("a/gone/too")
        );
        assert_eq!(directory(Path::new("/no/such")).unwrap(), Path::new("/no/such"));
        assert_eq!(directory(Path::new("a")).unwrap_err().code, ErrorCode::Invalid);
    }

    #[test]
    fn a_caller_that_is_not_visible_must_say_where_it_is() {
        assert!(
            Candidate::resolve(spec("a"), 0)
                .unwrap_err()
                .message
                .contains("another pid namespace")
        );
    }
}
