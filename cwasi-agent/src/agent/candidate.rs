//! From what a launcher says to what can be registered: checks, and what the agent finds out itself.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cwasi_client::cgroup;
use cwasi_client::netns::{self, NetnsError};
use cwasi_client::protocol::{ApiError, ErrorCode, FunctionSpec, MAX_ADDRESSES};
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use tracing::warn;

/// Longest name of a function, pod or container, as in Kubernetes.
pub(super) const MAX_NAME: usize = 253;
/// Longest namespace, a DNS label.
const MAX_NAMESPACE: usize = 63;
/// Most functions of one process.
const MAX_MEMBERS: usize = 64;
/// Most labels of a function.
const MAX_LABELS: usize = 64;
/// Longest key of a label: a DNS subdomain, a slash and a name.
const MAX_LABEL_KEY: usize = 317;
/// Longest value of a label or annotation, in bytes.
const MAX_LABEL_VALUE: usize = 4096;
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
            spec.addresses = match netns::run(&file, netns::addresses).and_then(|found| found) {
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

fn invalid(message: String) -> ApiError {
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
    name("name", &spec.name, MAX_NAME)?;
    name("namespace", &spec.namespace, MAX_NAMESPACE)?;
    for (what, value) in [("pod", &spec.pod), ("container", &spec.container)] {
        if let Some(value) = value {
            name(what, value, MAX_NAME)?;
        }
    }
    if spec.members.len() > MAX_MEMBERS {
        return Err(invalid(format!(
            "{} members, at most {MAX_MEMBERS} fit",
            spec.members.len()
        )));
    }
    for member in &spec.members {
        name("member", member, MAX_NAME)?;
    }
    if spec.labels.len() > MAX_LABELS {
        return Err(invalid(format!(
            "{} labels, at most {MAX_LABELS} fit",
            spec.labels.len()
        )));
    }
    for (key, value) in &spec.labels {
        if key.is_empty()
            || key.len() > MAX_LABEL_KEY
            || key.contains(|c: char| c.is_control() || c.is_whitespace())
        {
            return Err(invalid(format!(
                "label {key:?}: a key is 1 to {MAX_LABEL_KEY} visible characters"
            )));
        }
        if value.len() > MAX_LABEL_VALUE || value.contains(char::is_control) {
            let message = format!(
                "label {key:?}: a value is at most {MAX_LABEL_VALUE} bytes without control characters"
            );
            return Err(invalid(message));
        }
    }
    if spec.addresses.len() > MAX_ADDRESSES {
        return Err(invalid(format!(
            "{} addresses, at most {MAX_ADDRESSES} fit",
            spec.addresses.len()
        )));
    }
    for address in &spec.addresses {
        let unusable = match address {
            IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
        };
        if unusable {
            return Err(invalid(format!("{address} is no address of an endpoint")));
        }
    }
    for (what, path) in [("cgroup", &spec.cgroup), ("netns", &spec.netns)] {
        if path.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(invalid(format!("{what}: an absolute path is needed")));
        }
    }
    Ok(())
}

/// Names as Kubernetes has them, a little wider: letters of either case, digits, `-`, `_` and `.`, ending in letters or digits.
pub(super) fn name(what: &str, value: &str, longest: usize) -> Result<(), ApiError> {
    let end = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let bytes = value.as_bytes();
    let inner = bytes
        .iter()
        .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c));
    if bytes.len() <= longest && inner && end(bytes.first().copied()) && end(bytes.last().copied()) {
        return Ok(());
    }
    let shown: String = value.chars().take(80).collect();
    Err(invalid(format!(
        "{what} {shown:?}: 1 to {longest} letters, digits, '-', '_' and '.', first and last a letter or digit"
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(name: &str) -> FunctionSpec {
        FunctionSpec {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            ..FunctionSpec::default()
        }
    }

    fn message(spec: &FunctionSpec) -> String {
        validate(spec).unwrap_err().message
    }

    #[test]
    fn names_are_those_of_kubernetes() {
        for good in ["a", "echo", "web-0", "My_Fn.v2", "0", &"x".repeat(253)] {
            validate(&spec(good)).unwrap();
        }
        for bad in [
            "",
            "-a",
            "a-",
            "a b",
            "a/b",
            "a\n",
            "ä",
            "..",
            ".",
            &"x".repeat(254),
        ] {
            assert!(message(&spec(bad)).starts_with("name "), "{bad:?}");
        }
        assert!(
            message(&FunctionSpec {
                namespace: "n".repeat(64),
                ..spec("a")
            })
            .starts_with("namespace ")
        );
        assert!(
            message(&FunctionSpec {
                pod: Some("\u{7}".to_owned()),
                ..spec("a")
            })
            .starts_with("pod ")
        );
        assert!(
            message(&FunctionSpec {
                container: Some(String::new()),
                ..spec("a")
            })
            .starts_with("container ")
        );
    }

    #[test]
    fn labels_are_bounded() {
        let with = |key: &str, value: &str| {
            let labels = [(key.to_owned(), value.to_owned())].into();
            validate(&FunctionSpec { labels, ..spec("a") })
        };
        with("cwasi.dev/accelerate", "true").unwrap();
        with("note", "spaces and ä are fine").unwrap();
        assert!(with("", "x").is_err());
        assert!(with("a b", "x").is_err());
        assert!(with(&"k".repeat(318), "x").is_err());
        assert!(with("a", "x\ny").is_err());
        assert!(with("a", &"x".repeat(4097)).is_err());
        let labels = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert!(message(&FunctionSpec { labels, ..spec("a") }).contains("65 labels"));
    }

    #[test]
    fn addresses_and_paths_must_make_sense() {
        for bad in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            let addresses = vec![bad.parse().unwrap()];
            assert!(
                message(&FunctionSpec {
                    addresses,
                    ..spec("a")
                })
                .contains("no address of an endpoint"),
                "{bad}"
            );
        }
        let addresses = (0..65).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert!(
            message(&FunctionSpec {
                addresses,
                ..spec("a")
            })
            .contains("65 addresses")
        );
        let cgroup = Some(PathBuf::from("relative"));
        assert!(message(&FunctionSpec { cgroup, ..spec("a") }).contains("cgroup"));
        let netns = Some(PathBuf::from("pod1"));
        assert!(message(&FunctionSpec { netns, ..spec("a") }).contains("netns"));
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

    proptest! {
        #[test]
        fn no_accepted_name_can_break_a_line_or_a_path(text in "\\PC*|[ -~]{0,300}|[a-z./_-]{0,20}") {
            if validate(&spec(&text)).is_ok() {
                prop_assert!(!text.contains('/') && !text.contains(char::is_control) && !text.contains(' '));
                prop_assert!((1..=MAX_NAME).contains(&text.len()));
            }
        }
    }
}
