//! The configuration files of a node: containerd's for its lines 1 and 2, and CNI's.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Containerd;

/// Where Debian puts the CNI plugins.
pub(crate) const CNI_BIN: &str = "/usr/lib/cni";

/// The image of a sandbox's own process.
pub(crate) const PAUSE: &str = "docker.io/local/pause:1";

/// The pods' network, the same on every node: each has a network namespace, so that they do not meet.
const SUBNET: &str = "10.88.0.0/16";

/// A runtime that pods can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// The name that a pod asks for, the `handler` of a Kubernetes RuntimeClass.
    pub handler: String,
    /// The name that containerd finds the shim by, such as `io.containerd.runc.v2`.
    pub kind: String,
    /// Directory of the shim, where containerd's own do not have it.
    pub directory: Option<PathBuf>,
}

impl Runtime {
    /// Native containers, by runc.
    #[must_use]
    pub fn runc() -> Self {
        Self {
            handler: "runc".to_owned(),
            kind: "io.containerd.runc.v2".to_owned(),
            directory: None,
        }
    }

    /// Wasm functions, by the shim `containerd-shim-cwasi-v1` that is built beside this program.
    ///
    /// # Errors
    /// [`Error::Missing`](crate::Error::Missing) when it is not built.
    pub fn cwasi() -> crate::Result<Self> {
        let shim = crate::built("containerd-shim-cwasi-v1", "cwasi-shim --features containerd")?;
        Ok(Self {
            handler: "cwasi".to_owned(),
            kind: "io.containerd.cwasi.v1".to_owned(),
            directory: shim.parent().map(Path::to_owned),
        })
    }
}

/// Where the parts of a node are on disk.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
}

impl Layout {
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    pub(crate) fn cni(&self) -> PathBuf {
        self.dir.join("cni")
    }

    /// Addresses that are given out, a file for each.
    pub(crate) fn ipam(&self) -> PathBuf {
        self.dir.join("ipam")
    }

    pub(crate) fn pod_logs(&self) -> PathBuf {
        self.dir.join("pods")
    }

    pub(crate) fn agent(&self) -> PathBuf {
        self.dir.join("agent")
    }

    /// Compiled modules of the shims.
    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("containerd.log")
    }
}

/// containerd's configuration.
pub(crate) fn containerd(containerd: &Containerd, layout: &Layout, runtimes: &[Runtime]) -> String {
    // Line 2 took the plugin apart that all of CRI was in.
    let (version, cri) = if containerd.is_2() {
        (3, "io.containerd.cri.v1.runtime")
    } else {
        (2, "io.containerd.grpc.v1.cri")
    };
    let (root, state, socket) = (layout.root(), layout.state(), layout.socket());
    let mut text = format!(
        "version = {version}\nroot = {root:?}\nstate = {state:?}\n\
         # They would write outside of the node's directory, or need what a test machine does not have.\n\
         disabled_plugins = [\"io.containerd.internal.v1.opt\", \"io.containerd.snapshotter.v1.blockfile\", \
         \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.devmapper\", \
         \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.nri.v1.nri\"]\n\
         [grpc]\naddress = {socket:?}\n\
         [ttrpc]\naddress = {:?}\n",
        socket.with_added_extension("ttrpc")
    );
    let line = &mut text;
    let mut add = |entry: std::fmt::Arguments<'_>| {
        line.write_fmt(entry).expect("a string takes every write");
    };
    if containerd.is_2() {
        add(format_args!(
            "[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = {PAUSE:?}\n"
        ));
    }
    add(format_args!("[plugins.\"{cri}\"]\n"));
    if !containerd.is_2() {
        add(format_args!("sandbox_image = {PAUSE:?}\n"));
    }
    add(format_args!(
        "disable_apparmor = true\nrestrict_oom_score_adj = true\nnetns_mounts_under_state_dir = true\n\
         [plugins.\"{cri}\".cni]\nbin_dir = {CNI_BIN:?}\nconf_dir = {:?}\n\
         [plugins.\"{cri}\".containerd]\ndefault_runtime_name = \"runc\"\n",
        layout.cni()
    ));
    for Runtime { handler, kind, .. } in runtimes {
        add(format_args!(
            "[plugins.\"{cri}\".containerd.runtimes.{handler}]\nruntime_type = {kind:?}\n\
             pod_annotations = [\"cwasi.dev/*\"]\ncontainer_annotations = [\"cwasi.dev/*\"]\n"
        ));
        if *kind == Runtime::runc().kind {
            add(format_args!(
                "[plugins.\"{cri}\".containerd.runtimes.{handler}.options]\nSystemdCgroup = false\n"
            ));
        }
    }
    text
}

/// CNI's: every pod has a veth on one bridge, which is its default gateway.
pub(crate) fn cni(layout: &Layout) -> String {
    let bridge = json!({
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": true,
        "ipMasq": false,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": SUBNET}]],
            "dataDir": layout.ipam(),
        },
    });
    json!({"cniVersion": "1.0.0", "name": "cwasi", "plugins": [bridge]}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(major: u32) -> String {
        let release = Containerd {
            bin: PathBuf::new(),
            version: String::new(),
            major,
        };
        let layout = Layout {
            dir: "/tmp/node".into(),
        };
        containerd(&release, &layout, &[Runtime::runc()])
    }

    #[test]
    fn each_line_has_its_own_plugins() {
        let one = text(1);
        assert!(one.starts_with("version = 2\n"), "{one}");
        assert!(
            one.contains("[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = "),
            "{one}"
        );
        let two = text(2);
        assert!(two.starts_with("version = 3\n"), "{two}");
        assert!(two.contains(".pinned_images]\nsandbox = "), "{two}");
        assert!(!two.contains("sandbox_image"), "{two}");
    }

    #[test]
    fn paths_are_in_the_nodes_directory() {
        let cni = cni(&Layout {
            dir: "/tmp/node".into(),
        });
        assert!(cni.contains("\"dataDir\":\"/tmp/node/ipam\""), "{cni}");
        assert!(text(2).contains("address = \"/tmp/node/containerd.sock\""));
    }
}
