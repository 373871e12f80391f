//! What a pod and a container shall be, in the words of the CRI.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use k8s_cri::v1 as proto;

/// A pod to make.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) handler: String,
    annotations: HashMap<String, String>,
}

impl PodSpec {
    /// A pod in the Kubernetes namespace `default`, of the runtime `cwasi`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            handler: "cwasi".to_owned(),
            annotations: HashMap::new(),
        }
    }

    /// In another Kubernetes namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Of another runtime.
    #[must_use]
    pub fn runtime(mut self, handler: &str) -> Self {
        handler.clone_into(&mut self.handler);
        self
    }

    /// With an annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The CRI's message; `uid` is what tells pods of the same name apart.
    pub(super) fn config(&self, uid: &str, logs: &Path, cgroup_parent: &str) -> proto::PodSandboxConfig {
        proto::PodSandboxConfig {
            metadata: Some(proto::PodSandboxMetadata {
                name: self.name.clone(),
                uid: uid.to_owned(),
                namespace: self.namespace.clone(),
                attempt: 0,
            }),
            hostname: self.name.clone(),
            log_directory: logs.display().to_string(),
            // Without one containerd copies the machine's, which may be a link into a directory that nodes do not see.
            dns_config: Some(proto::DnsConfig {
                servers: vec!["192.0.2.1".to_owned()],
                ..Default::default()
            }),
            annotations: self.annotations.clone(),
            linux: Some(proto::LinuxPodSandboxConfig {
                cgroup_parent: cgroup_parent.to_owned(),
                security_context: Some(proto::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// As a kubelet asks for them: a network and IPC namespace for the pod, a pid namespace for each container.
fn namespaces() -> proto::NamespaceOption {
    proto::NamespaceOption {
        network: proto::NamespaceMode::Pod.into(),
        pid: proto::NamespaceMode::Container.into(),
        ipc: proto::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

/// A container to make.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    pub(super) name: String,
    config: proto::ContainerConfig,
    resources: proto::LinuxContainerResources,
    user: Option<i64>,
    confined: bool,
    /// What it has of root's rights; `None` for the runtime's default.
    capabilities: Option<Vec<String>>,
    readonly: bool,
    /// File of its seccomp profile.
    seccomp: Option<PathBuf>,
}

impl ContainerSpec {
    /// A container of an image, which runs the image's entrypoint.
    #[must_use]
    pub fn new(name: &str, image: &str) -> Self {
        Self {
            name: name.to_owned(),
            config: proto::ContainerConfig {
                metadata: Some(proto::ContainerMetadata {
                    name: name.to_owned(),
                    attempt: 0,
                }),
                image: Some(proto::ImageSpec {
                    image: image.to_owned(),
                    ..Default::default()
                }),
                log_path: format!("{name}.log"),
                ..Default::default()
            },
            resources: proto::LinuxContainerResources::default(),
            user: None,
            confined: false,
            capabilities: None,
            readonly: false,
            seccomp: None,
        }
    }

    /// Another program than the image's.
    #[must_use]
    pub fn command(mut self, command: &[&str]) -> Self {
        self.config.command = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Arguments after the program.
    #[must_use]
    pub fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.config.args = args.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.config.envs.push(proto::KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
        });
        self
    }

    /// With a working directory.
    #[must_use]
    pub fn working_dir(mut self, path: &str) -> Self {
        path.clone_into(&mut self.config.working_dir);
        self
    }

    /// With a directory of the host.
    #[must_use]
    pub fn mount(mut self, host: &Path, path: &str, readonly: bool) -> Self {
        self.config.mounts.push(proto::Mount {
            container_path: path.to_owned(),
            host_path: host.display().to_string(),
            readonly,
            ..Default::default()
        });
        self
    }

    /// With an annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.config.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With a limit of its memory, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: i64) -> Self {
        self.resources.memory_limit_in_bytes = bytes;
        self
    }

    /// With a limit of its processor time, in thousandths of a processor.
    #[must_use]
    pub fn cpu(mut self, millis: i64) -> Self {
        const PERIOD: i64 = 100_000;
        self.resources.cpu_period = PERIOD;
        self.resources.cpu_quota = millis * PERIOD / 1000;
        self
    }

    /// As a user other than the image's.
    #[must_use]
    pub const fn user(mut self, uid: i64) -> Self {
        self.user = Some(uid);
        self
    }

    /// With the runtime's seccomp profile, and without a way to more rights, as Kubernetes' profile `restricted` wants.
    #[must_use]
    pub const fn confined(mut self) -> Self {
        self.confined = true;
        self
    }

    /// With these capabilities only, without the `CAP_` of their names.
    #[must_use]
    pub fn capabilities(mut self, names: &[&str]) -> Self {
        self.capabilities = Some(names.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    /// With a root filesystem that cannot be written.
    #[must_use]
    pub const fn readonly(mut self) -> Self {
        self.readonly = true;
        self
    }

    /// With the seccomp profile in this file.
    #[must_use]
    pub fn seccomp(mut self, profile: &Path) -> Self {
        self.seccomp = Some(profile.to_owned());
        self
    }

    fn seccomp_profile(&self) -> Option<proto::SecurityProfile> {
        use proto::security_profile::ProfileType;
        let profile = |kind: ProfileType, path: Option<&PathBuf>| proto::SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: path.map(|path| path.display().to_string()).unwrap_or_default(),
        };
        match &self.seccomp {
            Some(path) => Some(profile(ProfileType::Localhost, Some(path))),
            None => self.confined.then(|| profile(ProfileType::RuntimeDefault, None)),
        }
    }

    /// The CRI's message of its limits.
    pub(super) fn resources(&self) -> proto::LinuxContainerResources {
        self.resources.clone()
    }

    /// The CRI's message.
    pub(super) fn config(&self) -> proto::ContainerConfig {
        proto::ContainerConfig {
            linux: Some(proto::LinuxContainerConfig {
                resources: Some(self.resources()),
                security_context: Some(proto::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    no_new_privs: self.confined,
                    seccomp: self.seccomp_profile(),
                    capabilities: self.capabilities.as_ref().map(|names| proto::Capability {
                        add_capabilities: names.clone(),
                        drop_capabilities: vec!["ALL".to_owned()],
                        ..Default::default()
                    }),
                    readonly_rootfs: self.readonly,
                    run_as_user: self.user.map(|value| proto::Int64Value { value }),
                    ..Default::default()
                }),
            }),
            ..self.config.clone()
        }
    }
}
