//! What containerd says of a container: the runtime specification, its annotations, and the pod that it belongs to.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cwasi_client::spec::{MAX_NAME, is_name};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::error::{ShimError, with_causes};
use crate::guest::GuestConfig;
use crate::network::{NetworkPolicy, Refusals};
use crate::preopen::Preopen;
use crate::stdio::{Stdio, Stream};

/// Prefix of the annotations that are cwasi's; they become labels of the function.
pub const PREFIX: &str = "cwasi.dev/";
/// Peers that the guest may connect and send to, separated by commas; see [`crate::network::Peer`]. Every peer without it.
pub const ALLOW_NET: &str = "cwasi.dev/allow-net";
/// Name of the function; the container's without it.
pub const NAME: &str = "cwasi.dev/name";
/// Where a `wasi:http/proxy` guest is served, as ADDR:PORT.
pub const HTTP_ADDRESS: &str = "cwasi.dev/http-address";
/// Variable of the container that says the same; the annotation has precedence.
pub const HTTP_VARIABLE: &str = "CWASI_HTTP_ADDR";

const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
const SANDBOX_UID: &str = "io.kubernetes.cri.sandbox-uid";
const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";

/// Mounts of these types show the kernel or devices, not somebody's files.
const SPECIAL_FILESYSTEMS: [&str; 6] = ["proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"];

/// A pod, as the CRI plugin describes it to the containers in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Name of the pod.
    pub name: Option<String>,
    /// Its Kubernetes namespace.
    pub namespace: Option<String>,
    /// Its uid in Kubernetes.
    pub uid: Option<String>,
}

/// A container's bundle.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its directory.
    pub dir: PathBuf,
    /// Its `config.json`.
    pub spec: Spec,
}

impl Bundle {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`ShimError::Bundle`].
    pub fn load(dir: &Path) -> Result<Self, ShimError> {
        let broken = |reason: String| ShimError::Bundle {
            path: dir.to_owned(),
            reason,
        };
        let spec = Spec::load(dir.join("config.json"))
            .map_err(|error| broken(format!("config.json: {}", with_causes(&error))))?;
        if spec.process().is_none() {
            return Err(broken("config.json has no process".to_owned()));
        }
        if spec.linux().is_none() {
            return Err(broken("config.json has no linux section".to_owned()));
        }
        Ok(Self {
            dir: dir.to_owned(),
            spec,
        })
    }

    /// Directory of the container's root filesystem.
    ///
    /// # Errors
    /// [`ShimError::Bundle`] when the specification names none.
    pub fn rootfs(&self) -> Result<PathBuf, ShimError> {
        let root = self.spec.root().as_ref().ok_or_else(|| ShimError::Bundle {
            path: self.dir.clone(),
            reason: "config.json has no root".to_owned(),
        })?;
        Ok(self.dir.join(root.path()))
    }

    /// The annotation `key`.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        annotation(&self.spec, key)
    }

    /// Whether this is the container that holds the namespaces of a pod.
    #[must_use]
    pub fn is_sandbox(&self) -> bool {
        self.annotation(CONTAINER_TYPE) == Some("sandbox")
    }

    /// Id of the pod's sandbox, for containers of a pod.
    #[must_use]
    pub fn sandbox_id(&self) -> Option<&str> {
        self.annotation(SANDBOX_ID)
    }

    /// Name of the container in its pod.
    #[must_use]
    pub fn container_name(&self) -> Option<&str> {
        self.annotation(CONTAINER_NAME)
    }

    /// The pod, as far as this container's annotations tell.
    #[must_use]
    pub fn pod(&self) -> Pod {
        let owned = |key| self.annotation(key).map(str::to_owned);
        Pod {
            name: owned(SANDBOX_NAME),
            namespace: owned(SANDBOX_NAMESPACE),
            uid: owned(SANDBOX_UID),
        }
    }

    /// The annotations that are cwasi's.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let annotations = self.spec.annotations().iter().flatten();
        annotations
            .filter(|(key, _)| key.starts_with(PREFIX))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Path of its cgroup, as the specification has it.
    #[must_use]
    pub fn cgroups_path(&self) -> Option<PathBuf> {
        self.spec.linux().as_ref()?.cgroups_path().clone()
    }

    /// Whether its cgroup is systemd's to make: its path has the form `SLICE:PREFIX:NAME` then.
    #[must_use]
    pub fn wants_systemd(&self) -> bool {
        let path = self.cgroups_path();
        path.as_deref()
            .and_then(Path::to_str)
            .is_some_and(|path| !path.contains('/') && path.split(':').count() == 3)
    }

    /// File of the network namespace that the container joins; `None` when it gets a new one, or the host's.
    #[must_use]
    pub fn netns(&self) -> Option<&Path> {
        let namespaces = self.spec.linux().as_ref()?.namespaces().as_ref()?;
        let network = namespaces
            .iter()
            .find(|namespace| namespace.typ() == LinuxNamespaceType::Network)?;
        network.path().as_deref()
    }
}

/// The annotation `key` of a container.
pub(super) fn annotation<'a>(spec: &'a Spec, key: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(key).map(String::as_str)
}

/// What the guest of a container is given. The root filesystem is the calling process's.
///
/// # Errors
/// [`ShimError::Annotation`], [`ShimError::NoCommand`].
pub fn guest_config(spec: &Spec) -> Result<GuestConfig, ShimError> {
    let process = spec.process().as_ref().ok_or(ShimError::NoCommand)?;
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(ShimError::NoCommand);
    }
    let env: Vec<(String, String)> = process
        .env()
        .iter()
        .flatten()
        .map(|variable| {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect();
    let variables: HashMap<&str, &str> = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let http = http_address(
        annotation(spec, HTTP_ADDRESS),
        variables.get(HTTP_VARIABLE).copied(),
    )?;
    let memory = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref()?.memory().as_ref()?.limit());
    Ok(GuestConfig {
        name: name(annotation(spec, NAME))?,
        local: None,
        alone: true,
        args,
        stdio: Stdio::default(),
        preopens: preopens(spec),
        network: network(annotation(spec, ALLOW_NET))?,
        refusals: Refusals::new(|peer| Stream::Inherited.tell(&not_allowed(peer))),
        // A negative limit, as a limit of 0, is none.
        memory_limit: memory
            .and_then(|limit| u64::try_from(limit).ok())
            .filter(|limit| *limit > 0),
        cwd: Some(process.cwd().to_string_lossy().into_owned()).filter(|cwd| !cwd.is_empty()),
        http,
        env,
    })
}

/// What a guest's log says of a peer that [`ALLOW_NET`] does not allow.
pub(super) fn not_allowed(peer: SocketAddr) -> String {
    format!("refused {peer}: annotation {ALLOW_NET} does not allow it")
}

/// The peers that [`ALLOW_NET`] allows.
pub(super) fn network(allowed: Option<&str>) -> Result<NetworkPolicy, ShimError> {
    let Some(list) = allowed else {
        return Ok(NetworkPolicy::unrestricted());
    };
    let peers = list
        .split(',')
        .map(str::trim)
        .filter(|peer| !peer.is_empty())
        .map(|peer| {
            peer.parse()
                .map_err(|error| ShimError::annotation(ALLOW_NET, peer, error))
        })
        .collect::<Result<_, _>>()?;
    Ok(NetworkPolicy::only(peers))
}

/// The name that [`NAME`] gives a function, empty without one.
fn name(annotation: Option<&str>) -> Result<String, ShimError> {
    match annotation {
        Some(name) if !is_name(name, MAX_NAME) => {
            let reason = format!(
                "a name is 1 to {MAX_NAME} letters, digits, '-', '_' and '.', the first and the last a letter or digit"
            );
            Err(ShimError::annotation(NAME, name, reason))
        }
        name => Ok(name.unwrap_or_default().to_owned()),
    }
}

fn http_address(annotation: Option<&str>, variable: Option<&str>) -> Result<SocketAddr, ShimError> {
    match annotation.or(variable) {
        None => Ok(crate::http::DEFAULT_ADDRESS),
        Some(text) => text.trim().parse().map_err(|_| {
            let reason = format!("it, or the variable {HTTP_VARIABLE}, is ADDR:PORT, such as 0.0.0.0:8080");
            ShimError::annotation(HTTP_ADDRESS, text, reason)
        }),
    }
}

/// The root filesystem, and each volume in it, so that a read-only one is read-only to WASI too.
fn preopens(spec: &Spec) -> Vec<Preopen> {
    let read_only = spec
        .root()
        .as_ref()
        .and_then(|root| root.readonly())
        .unwrap_or_default();
    let mut read_only_by_path = BTreeMap::from([(PathBuf::from("/"), read_only)]);
    for mount in spec.mounts().iter().flatten().filter(|mount| is_volume(mount)) {
        // A later mount covers an earlier one.
        read_only_by_path.insert(mount.destination().clone(), has_option(mount, "ro"));
    }
    read_only_by_path
        .into_iter()
        .map(|(path, read_only)| Preopen {
            guest: path.to_string_lossy().into_owned(),
            host: path,
            read_only,
        })
        .collect()
}

/// Whether a mount is somebody's directory, which this process may open.
fn is_volume(mount: &Mount) -> bool {
    let special = mount
        .typ()
        .as_deref()
        .is_some_and(|kind| SPECIAL_FILESYSTEMS.contains(&kind));
    let below_kernel = ["/proc", "/sys", "/dev"]
        .iter()
        .any(|dir| mount.destination().starts_with(dir));
    // Mounted files, such as /etc/hosts, are seen through the root.
    !special && !below_kernel && fs::read_dir(mount.destination()).is_ok()
}

fn has_option(mount: &Mount, option: &str) -> bool {
    // A later option overrides an earlier one.
    let last = mount
        .options()
        .iter()
        .flatten()
        .rfind(|given| ["ro", "rw"].contains(&given.as_str()));
    last.is_some_and(|last| last == option)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn bundle(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, Result<Bundle, ShimError>) {
        let mut config = json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs" },
            "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/work", "args": ["/app.wasm", "x"], "env": ["A=b=c", "EMPTY=", "BARE"] },
            "linux": {
                "cgroupsPath": "/kubepods/pod1/c1",
                "namespaces": [{ "type": "pid" }, { "type": "network", "path": "/run/netns/a" }],
                "resources": { "memory": { "limit": 67_108_864 } }
            },
            "annotations": {
                "io.kubernetes.cri.sandbox-id": "s1",
                "io.kubernetes.cri.sandbox-name": "web-0",
                "io.kubernetes.cri.sandbox-namespace": "shop",
                "io.kubernetes.cri.container-name": "web",
                "io.kubernetes.cri.container-type": "container",
                "cwasi.dev/team": "blue",
                "other.dev/x": "y"
            }
        });
        change(&mut config);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let loaded = Bundle::load(dir.path());
        (dir, loaded)
    }

    fn config(change: impl FnOnce(&mut Value)) -> Result<GuestConfig, ShimError> {
        guest_config(&bundle(change).1.unwrap().spec)
    }

    fn annotated(key: &str, value: &str) -> Result<GuestConfig, ShimError> {
        config(|config| config["annotations"][key] = json!(value))
    }

    #[test]
    fn a_container_of_a_pod_is_described() {
        let (dir, bundle) = bundle(|_| {});
        let bundle = bundle.unwrap();
        assert_eq!(bundle.rootfs().unwrap(), dir.path().join("rootfs"));
        assert_eq!(bundle.sandbox_id(), Some("s1"));
        assert_eq!(bundle.container_name(), Some("web"));
        assert!(!bundle.is_sandbox());
        assert_eq!(bundle.netns(), Some(Path::new("/run/netns/a")));
        let pod = bundle.pod();
        assert_eq!(
            (pod.name.as_deref(), pod.namespace.as_deref(), pod.uid),
            (Some("web-0"), Some("shop"), None)
        );
        assert_eq!(
            bundle.labels(),
            [("cwasi.dev/team".to_owned(), "blue".to_owned())].into()
        );
    }

    #[test]
    fn what_a_guest_is_given_is_the_specifications() {
        let config = config(|_| {}).unwrap();
        assert_eq!(config.args, ["/app.wasm", "x"]);
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            config.env,
            [variable("A", "b=c"), variable("EMPTY", ""), variable("BARE", "")]
        );
        assert_eq!(config.cwd.as_deref(), Some("/work"));
        assert_eq!(config.memory_limit, Some(67_108_864));
        assert_eq!(config.network, NetworkPolicy::unrestricted());
        assert_eq!(config.http, crate::http::DEFAULT_ADDRESS);
    }

    #[test]
    fn no_limit_is_no_limit() {
        for limit in [-1, 0] {
            let config = config(|config| config["linux"]["resources"]["memory"]["limit"] = json!(limit));
            assert_eq!(config.unwrap().memory_limit, None, "{limit}");
        }
    }

    #[test]
    fn peers_come_from_the_annotation() {
        let peers = ["10.0.0.0/8", "[::1]:80"].map(|peer| peer.parse().unwrap());
        let config = annotated(ALLOW_NET, " 10.0.0.0/8, [::1]:80,").unwrap();
        assert_eq!(config.network, NetworkPolicy::only(peers.to_vec()));
        assert_eq!(
            annotated(ALLOW_NET, "").unwrap().network,
            NetworkPolicy::only(Vec::new())
        );
        let error = annotated(ALLOW_NET, "example.com").unwrap_err().to_string();
        assert!(
            error.starts_with("annotation cwasi.dev/allow-net: \"example.com\" cannot be used:"),
            "{error}"
        );
        let error = annotated(ALLOW_NET, &"x".repeat(10_000)).unwrap_err().to_string();
        assert!(error.len() < 400, "{error}");
    }

    #[test]
    fn the_http_address_of_the_annotation_precedes_the_variables() {
        let variable = |config: &mut Value| config["process"]["env"] = json!(["CWASI_HTTP_ADDR=0.0.0.0:1"]);
        let address = |change: &dyn Fn(&mut Value)| config(|config| change(config)).unwrap().http.to_string();
        assert_eq!(address(&variable), "0.0.0.0:1");
        let both = |config: &mut Value| {
            variable(config);
            config["annotations"][HTTP_ADDRESS] = json!("[::]:2");
        };
        assert_eq!(address(&both), "[::]:2");
        let error = annotated(HTTP_ADDRESS, "8080").unwrap_err().to_string();
        assert!(error.contains("ADDR:PORT"), "{error}");
    }

    #[test]
    fn volumes_are_preopened_as_they_are_mounted() {
        let (kept, hidden) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = kept.path().join("file");
        fs::write(&file, "").unwrap();
        let mount = |at: &Path, kind: &str, options: &[&str]| json!({ "destination": at, "type": kind, "source": "/s", "options": options });
        let config = config(|config| {
            config["root"]["readonly"] = json!(true);
            config["mounts"] = json!([
                mount(Path::new("/proc"), "proc", &[]),
                mount(Path::new("/dev"), "tmpfs", &[]),
                mount(&file, "bind", &["ro"]),
                mount(Path::new("/no/such/directory"), "bind", &["rw"]),
                mount(kept.path(), "bind", &["rbind", "rw"]),
                mount(kept.path(), "bind", &["rbind", "rw", "ro"]),
                mount(hidden.path(), "cgroup", &["ro"]),
            ]);
        });
        let preopens = config.unwrap().preopens;
        let dir = |path: &Path| Preopen {
            host: path.to_owned(),
            guest: path.display().to_string(),
            read_only: true,
        };
        assert_eq!(preopens, [dir(Path::new("/")), dir(kept.path())]);
    }

    #[test]
    fn systemd_makes_the_cgroups_that_it_names() {
        let wants = |path: &str| {
            bundle(|config| config["linux"]["cgroupsPath"] = json!(path))
                .1
                .unwrap()
                .wants_systemd()
        };
        assert!(wants("kubepods-pod1.slice:cri-containerd:c1"));
        assert!(!wants("/kubepods/pod1/c1"));
        assert!(!wants("/a:b:c"));
        assert!(!wants("c1"));
    }

    #[test]
    fn broken_bundles_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = |loaded: Result<Bundle, ShimError>| loaded.unwrap_err().to_string();
        assert!(error(Bundle::load(dir.path())).contains("config.json"));
        let without = |key: &str| error(bundle(|config| drop(config.as_object_mut().unwrap().remove(key))).1);
        assert!(without("process").ends_with("config.json has no process"));
        assert!(without("linux").ends_with("config.json has no linux section"));
        let nothing = config(|config| config["process"]["args"] = json!([]));
        assert!(matches!(nothing, Err(ShimError::NoCommand)));
    }
}
