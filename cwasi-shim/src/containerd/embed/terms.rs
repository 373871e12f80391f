//! What the containers of one process must have in common, and what none of them can have for itself.

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use serde::Serialize;
use serde_json::{Value, json};

use crate::containerd::error::ShimError;

/// Longest value that a message shows, in bytes.
const SHOWN: usize = 120;

/// Namespaces in which the functions' process is; of the others it has its own.
const SHARED_NAMESPACES: [LinuxNamespaceType; 4] = [
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Uts,
    LinuxNamespaceType::User,
];

/// Keys of `linux.resources.unified` that limit or place processor time.
const UNIFIED_CPU: [&str; 3] = ["cpu.max", "cpuset.cpus", "cpuset.mems"];

/// What a process has once, and its containers therefore must have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Name of the container that has set them.
    pub container: String,
    kept: Vec<(&'static str, Value)>,
}

impl Terms {
    /// What the container `container` asks of its process.
    #[must_use]
    pub fn of(container: &str, spec: &Spec) -> Self {
        let process = spec.process().as_ref();
        let linux = spec.linux().as_ref();
        let of_process = |get: fn(&oci_spec::runtime::Process) -> Value| process.map_or(Value::Null, get);
        let of_linux = |get: fn(&oci_spec::runtime::Linux) -> Value| linux.map_or(Value::Null, get);
        let kept = vec![
            (
                "user and groups",
                of_process(|process| {
                    let user = process.user();
                    json!({
                        "uid": user.uid(),
                        "gid": user.gid(),
                        "additional gids": sorted(user.additional_gids().iter().flatten()),
                        "umask": user.umask(),
                    })
                }),
            ),
            (
                "capabilities",
                of_process(|process| {
                    process.capabilities().as_ref().map_or(Value::Null, |sets| {
                        json!([
                            sorted(sets.bounding().iter().flatten()),
                            sorted(sets.effective().iter().flatten()),
                            sorted(sets.inheritable().iter().flatten()),
                            sorted(sets.permitted().iter().flatten()),
                            sorted(sets.ambient().iter().flatten()),
                        ])
                    })
                }),
            ),
            (
                "privilege escalation",
                of_process(|process| json!(process.no_new_privileges().unwrap_or_default())),
            ),
            (
                "AppArmor profile",
                of_process(|process| json!(process.apparmor_profile())),
            ),
            (
                "SELinux label",
                of_process(|process| json!(process.selinux_label())),
            ),
            (
                "resource limits (rlimits)",
                of_process(|process| sorted(process.rlimits().iter().flatten())),
            ),
            (
                "scheduler",
                of_process(|process| json!([process.scheduler(), process.io_priority()])),
            ),
            ("seccomp profile", of_linux(|linux| json!(linux.seccomp()))),
            ("personality", of_linux(|linux| json!(linux.personality()))),
            (
                "namespaces",
                of_linux(|linux| {
                    let namespaces = linux.namespaces().iter().flatten();
                    let shared = namespaces.filter(|namespace| SHARED_NAMESPACES.contains(&namespace.typ()));
                    sorted(shared)
                }),
            ),
            (
                "device rules",
                of_linux(|linux| json!(linux.resources().as_ref().map(|resources| resources.devices()))),
            ),
            (
                "user namespace mappings",
                of_linux(|linux| json!([linux.uid_mappings(), linux.gid_mappings()])),
            ),
        ];
        Self {
            container: container.to_owned(),
            kept,
        }
    }

    /// Whether a container with the terms `other` can share the process.
    ///
    /// # Errors
    /// [`ShimError::Embed`], with the first thing in which they differ.
    pub fn admit(&self, other: &Self) -> Result<(), ShimError> {
        let differing = self.kept.iter().zip(&other.kept).find(|(own, its)| own != its);
        let Some(((what, own), (_, its))) = differing else {
            return Ok(());
        };
        let shown = |value: &Value| value.to_string();
        let values = if shown(own).len() + shown(its).len() <= SHOWN {
            format!(" ({} and {})", shown(its), shown(own))
        } else {
            String::new()
        };
        Err(ShimError::Embed(format!(
            "{} of containers {} and {} differ{values}, and functions of one process have them in common",
            what, other.container, self.container
        )))
    }
}

/// A list in an order of its own: where it does not matter, it must not tell two containers apart.
fn sorted<T: Serialize>(list: impl IntoIterator<Item = T>) -> Value {
    let mut values: Vec<Value> = list.into_iter().map(|value| json!(value)).collect();
    values.sort_by_key(ToString::to_string);
    Value::Array(values)
}

/// Refuses resources that only a process of one's own can have. A weight (`cpu.shares`, a request in Kubernetes) is none: it
/// bounds nothing.
///
/// # Errors
/// [`ShimError::Embed`].
pub fn check_resources(resources: &LinuxResources) -> Result<(), ShimError> {
    let refused = |what: &str| {
        Err(ShimError::Embed(format!(
            "{what} of a container cannot be kept where functions share a process: leave it to the pod"
        )))
    };
    if let Some(cpu) = resources.cpu() {
        if cpu.quota().is_some_and(|quota| quota > 0) {
            return refused("a CPU limit");
        }
        let places = [cpu.cpus(), cpu.mems()];
        if places.into_iter().flatten().any(|list| !list.is_empty()) {
            return refused("a CPU set");
        }
        if cpu.realtime_runtime().is_some_and(|runtime| runtime > 0)
            || cpu.idle().is_some_and(|idle| idle > 0)
        {
            return refused("a scheduling class");
        }
    }
    let unified = resources.unified().iter().flatten();
    if unified
        .map(|(key, _)| key)
        .any(|key| UNIFIED_CPU.contains(&key.as_str()))
    {
        return refused("a CPU limit");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    fn spec(change: impl FnOnce(&mut Value)) -> Spec {
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0, "additionalGids": [1, 2] }, "cwd": "/", "args": ["/app.wasm"],
                "capabilities": { "bounding": ["CAP_CHOWN", "CAP_KILL"] },
                "noNewPrivileges": true,
                "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 1 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }],
                "oomScoreAdj": 2
            },
            "linux": {
                "namespaces": [{ "type": "pid" }, { "type": "network", "path": "/n" }, { "type": "ipc", "path": "/i" }],
                "resources": { "cpu": { "shares": 2, "period": 100_000, "quota": -1 }, "memory": { "limit": 1 } }
            }
        });
        change(&mut spec);
        from_value(spec).unwrap()
    }

    fn refusal(change: impl FnOnce(&mut Value)) -> Option<String> {
        let first = Terms::of("first", &spec(|_| {}));
        let second = Terms::of("second", &spec(change));
        first.admit(&second).err().map(|error| error.to_string())
    }

    #[test]
    fn what_differs_is_named() {
        type Change = fn(&mut Value);
        let changes: [(&str, Change); 8] = [
            ("device rules", |spec| {
                spec["linux"]["resources"]["devices"] = json!([{ "allow": true, "access": "rwm" }])
            }),
            ("user and groups", |spec| {
                spec["process"]["user"]["uid"] = json!(7)
            }),
            ("user and groups", |spec| {
                spec["process"]["user"]["additionalGids"] = json!([1])
            }),
            ("capabilities", |spec| {
                spec["process"]["capabilities"]["bounding"] = json!([])
            }),
            ("privilege escalation", |spec| {
                spec["process"]["noNewPrivileges"] = json!(false)
            }),
            ("resource limits", |spec| spec["process"]["rlimits"] = json!([])),
            ("seccomp profile", |spec| {
                spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW" })
            }),
            ("namespaces", |spec| {
                spec["linux"]["namespaces"] = json!([{ "type": "pid" }])
            }),
        ];
        for (what, change) in changes {
            let refusal = refusal(change).unwrap_or_else(|| panic!("{what} may differ"));
            assert!(
                refusal.contains(what) && refusal.contains("first") && refusal.contains("second"),
                "{refusal}"
            );
            assert!(!refusal.contains('\n'), "{refusal}");
        }
        let refusal = refusal(|spec| spec["process"]["user"]["uid"] = json!(7)).unwrap();
        assert!(refusal.contains("\"uid\":7"), "{refusal}");
    }

    #[test]
    fn what_is_each_containers_own_may_differ() {
        assert_eq!(refusal(|_| {}), None);
        let same = refusal(|spec| {
            spec["process"]["args"] = json!(["/other.wasm"]);
            spec["process"]["user"]["additionalGids"] = json!([2, 1]);
            spec["process"]["capabilities"]["bounding"] = json!(["CAP_KILL", "CAP_CHOWN"]);
            spec["process"]["oomScoreAdj"] = json!(900);
            spec["process"]["rlimits"].as_array_mut().unwrap().reverse();
            spec["linux"]["namespaces"].as_array_mut().unwrap().reverse();
            spec["linux"]["namespaces"][2]["path"] = json!("/a/pid/namespace");
            spec["linux"]["resources"]["memory"]["limit"] = json!(2);
            spec["linux"]["cgroupsPath"] = json!("/other");
        });
        assert_eq!(same, None);
    }

    #[test]
    fn limits_that_cannot_be_kept_are_refused() {
        let resources = |change: &dyn Fn(&mut Value)| {
            let spec = spec(|spec| change(&mut spec["linux"]["resources"]));
            check_resources(spec.linux().as_ref().unwrap().resources().as_ref().unwrap())
        };
        resources(&|_| {}).unwrap();
        resources(&|resources| resources["cpu"]["shares"] = json!(512)).unwrap();
        resources(&|resources| resources["unified"] = json!({ "memory.oom.group": "1" })).unwrap();
        let refusals: [(&str, &str, Value); 4] = [
            ("cpu", "quota", json!(20_000)),
            ("cpu", "cpus", json!("0-1")),
            ("cpu", "mems", json!("0")),
            ("unified", "cpu.max", json!("20000 100000")),
        ];
        for (group, key, value) in refusals {
            let error = resources(&|resources| resources[group][key] = value.clone()).unwrap_err();
            assert!(error.to_string().contains("CPU"), "{key}: {error}");
        }
    }
}
