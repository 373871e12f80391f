//! The container in which a pod's functions run: its specification, made of the first function's.

use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources,
    LinuxResourcesBuilder, Mount, MountBuilder, Process, ProcessBuilder, Root, RootBuilder, Spec,
    SpecBuilder,
};

/// Name of the root filesystem's directory in the bundle.
pub const ROOTFS: &str = "rootfs";

/// Files by which a pod's names are resolved; the host that runs the guests reads them.
const RESOLVER_FILES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// What the first argument of the process says to who lists processes.
const NAME: &str = "cwasi-functions";

/// The specification of a process that runs the function of the container `first` and others on its terms, in the cgroup
/// `cgroups_path`.
///
/// It shares the pod's namespaces, the containers' user, capabilities, profiles and rlimits. Its files are its own: an empty
/// root that is read-only, with the pod's resolver files and a `/proc` of its own pid namespace. No guest sees any of it: each
/// has the directories that its stand-in opened.
///
/// # Errors
/// The library that builds specifications refuses something.
pub fn of_functions(first: &Spec, cgroups_path: &Path) -> Result<Spec, OciSpecError> {
    let mounts = [proc(), dev()]
        .into_iter()
        .chain(resolver_files(first).map(Ok))
        .collect::<Result<Vec<_>, _>>()?;
    let spec = SpecBuilder::default()
        .version(first.version().clone())
        .root(root()?)
        .process(process(first.process().as_ref())?)
        .mounts(mounts)
        .linux(linux(first.linux().as_ref(), cgroups_path)?);
    spec.build()
}

/// Where the cgroup `name` is beside the cgroup of a container; in systemd's form (`SLICE:PREFIX:NAME`) if that is.
#[must_use]
pub fn beside(cgroups_path: &Path, name: &str) -> PathBuf {
    let text = cgroups_path.to_string_lossy();
    match text.rsplit_once([':', '/']) {
        Some((parent, _)) => {
            let separator = &text[parent.len()..=parent.len()];
            PathBuf::from(format!("{parent}{separator}{name}"))
        }
        None => PathBuf::from(name),
    }
}

fn root() -> Result<Root, OciSpecError> {
    RootBuilder::default().path(ROOTFS).readonly(true).build()
}

fn process(first: Option<&Process>) -> Result<Process, OciSpecError> {
    let mut process = first
        .cloned()
        .map_or_else(|| ProcessBuilder::default().build(), Ok)?;
    process
        .set_args(Some(vec![NAME.to_owned()]))
        .set_env(None)
        .set_cwd("/".into())
        .set_terminal(None)
        .set_console_size(None);
    Ok(process)
}

fn linux(first: Option<&Linux>, cgroups_path: &Path) -> Result<Linux, OciSpecError> {
    let mut linux = LinuxBuilder::default()
        .cgroups_path(cgroups_path)
        .namespaces(namespaces(first)?)
        .build()?;
    if let Some(first) = first {
        linux
            .set_uid_mappings(first.uid_mappings().clone())
            .set_gid_mappings(first.gid_mappings().clone())
            .set_seccomp(first.seccomp().clone())
            .set_personality(first.personality().clone())
            .set_mount_label(first.mount_label().clone())
            .set_resources(first.resources().as_ref().map(resources).transpose()?);
    } else {
        linux.set_uid_mappings(None).set_gid_mappings(None);
    }
    linux
        .set_devices(None)
        .set_masked_paths(None)
        .set_readonly_paths(None);
    Ok(linux)
}

/// Those of the first container; what is each container's own is new.
fn namespaces(first: Option<&Linux>) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let own = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ];
    let shared = first
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten()
        .filter(|namespace| !own.contains(&namespace.typ()))
        .cloned();
    let new = [LinuxNamespaceType::Pid, LinuxNamespaceType::Mount]
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build());
    shared.map(Ok).chain(new).collect()
}

/// The devices that a container may use. Its limits are kept for its guest, or are refused.
fn resources(first: &LinuxResources) -> Result<LinuxResources, OciSpecError> {
    let resources = LinuxResourcesBuilder::default();
    match first.devices() {
        Some(devices) => resources.devices(devices.clone()).build(),
        None => resources.build(),
    }
}

fn proc() -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination("/proc")
        .typ("proc")
        .source("proc")
        .options(["nosuid", "noexec", "nodev"].map(str::to_owned))
        .build()
}

fn dev() -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination("/dev")
        .typ("tmpfs")
        .source("tmpfs")
        .options(["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"].map(str::to_owned))
        .build()
}

fn resolver_files(first: &Spec) -> impl Iterator<Item = Mount> {
    let mounts = first.mounts().iter().flatten();
    mounts
        .filter(|mount| {
            RESOLVER_FILES
                .iter()
                .any(|file| mount.destination() == Path::new(file))
        })
        .cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn its_cgroup_is_the_neighbour_of_the_first_functions() {
        let beside = |path: &str| beside(Path::new(path), "cwasi-1").to_str().unwrap().to_owned();
        assert_eq!(beside("/kubepods/pod1/c1"), "/kubepods/pod1/cwasi-1");
        assert_eq!(
            beside("kubepods-pod1.slice:cri-containerd:c1"),
            "kubepods-pod1.slice:cri-containerd:cwasi-1"
        );
        assert_eq!(beside("/c1"), "/cwasi-1");
        assert_eq!(beside("c1"), "cwasi-1");
    }

    #[test]
    fn it_has_the_containers_rights_and_none_of_its_files() {
        let first: Spec = from_value(json!({
            "ociVersion": "1.0.2",
            "root": { "path": "/somewhere" },
            "process": {
                "user": { "uid": 1, "gid": 2 }, "cwd": "/work", "args": ["/app.wasm"], "env": ["A=b"],
                "capabilities": { "bounding": ["CAP_CHOWN"] }, "oomScoreAdj": 7
            },
            "mounts": [
                { "destination": "/data", "type": "bind", "source": "/volume" },
                { "destination": "/etc/resolv.conf", "type": "bind", "source": "/r", "options": ["rbind", "ro"] }
            ],
            "hooks": { "prestart": [{ "path": "/bin/hook" }] },
            "linux": {
                "cgroupsPath": "/pod/c1",
                "namespaces": [
                    { "type": "pid", "path": "/shared" }, { "type": "network", "path": "/n" }, { "type": "mount" },
                    { "type": "cgroup" }
                ],
                "resources": { "memory": { "limit": 1 }, "cpu": { "shares": 2 }, "devices": [{ "allow": false, "access": "rwm" }] },
                "devices": [{ "path": "/dev/x", "type": "c", "major": 1, "minor": 2 }],
                "seccomp": { "defaultAction": "SCMP_ACT_ERRNO" }
            }
        }))
        .unwrap();
        let spec = of_functions(&first, Path::new("/pod/cwasi-1")).unwrap();
        let (process, linux) = (spec.process().as_ref().unwrap(), spec.linux().as_ref().unwrap());
        assert_eq!((process.user().uid(), process.user().gid()), (1, 2));
        assert_eq!(
            process.capabilities(),
            first.process().as_ref().unwrap().capabilities()
        );
        assert_eq!(process.oom_score_adj(), Some(7));
        assert_eq!((process.env(), process.cwd().as_path()), (&None, Path::new("/")));
        let destinations: Vec<_> = spec
            .mounts()
            .iter()
            .flatten()
            .map(|mount| mount.destination())
            .collect();
        assert_eq!(
            destinations,
            ["/proc", "/dev", "/etc/resolv.conf"].map(Path::new).each_ref()
        );
        assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
        assert!(spec.hooks().is_none() && linux.devices().is_none());
        assert!(linux.seccomp().is_some());
        let resources = linux.resources().as_ref().unwrap();
        assert!(resources.memory().is_none() && resources.cpu().is_none() && resources.devices().is_some());
        let namespaces = linux.namespaces().iter().flatten();
        let namespaces: Vec<_> = namespaces
            .map(|namespace| (namespace.typ(), namespace.path().clone()))
            .collect();
        assert_eq!(
            namespaces,
            [
                (LinuxNamespaceType::Network, Some("/n".into())),
                (LinuxNamespaceType::Pid, None),
                (LinuxNamespaceType::Mount, None)
            ]
        );
    }
}
