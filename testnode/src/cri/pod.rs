//! A pod of a node.

use std::fs;
use std::path::PathBuf;

use k8s_cri::v1 as proto;
use serde_json::Value;

use super::container::Container;
use super::spec::{ContainerSpec, PodSpec};
use super::verbose;
use crate::error::{IoContext, on};
use crate::node::Node;
use crate::{Error, Result};

/// A pod. It lasts until it is removed, or the node is.
#[derive(Debug)]
pub struct Pod<'n> {
    node: &'n Node,
    id: String,
    logs: PathBuf,
    config: proto::PodSandboxConfig,
}

impl Node {
    /// Makes a pod: its network, and its sandbox container.
    ///
    /// # Errors
    /// containerd, CNI or the shim cannot.
    pub fn pod(&self, spec: &PodSpec) -> Result<Pod<'_>> {
        let uid = self.next_uid();
        let logs = self.layout().pod_logs().join(&uid);
        fs::create_dir_all(&logs).action(on("create", &logs))?;
        let config = spec.config(&uid, &logs, &self.cgroup_parent());
        let mut client = self.cri().runtime();
        let request = proto::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: spec.handler.clone(),
        };
        let answer = self
            .cri()
            .call("RunPodSandbox", client.run_pod_sandbox(request))?;
        self.know(&answer.pod_sandbox_id);
        Ok(Pod {
            node: self,
            id: answer.pod_sandbox_id,
            logs,
            config,
        })
    }
}

impl<'n> Pod<'n> {
    /// containerd's id of the sandbox.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    fn status(&self) -> Result<proto::PodSandboxStatusResponse> {
        let mut client = self.node.cri().runtime();
        let request = proto::PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: true,
        };
        self.node
            .cri()
            .call("PodSandboxStatus", client.pod_sandbox_status(request))
    }

    /// Whether containerd holds it for alive.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn is_ready(&self) -> Result<bool> {
        let status = self.status()?.status.unwrap_or_default();
        Ok(status.state == i32::from(proto::PodSandboxState::SandboxReady))
    }

    /// Its address on the pods' network.
    ///
    /// # Errors
    /// There is no such pod, or it has no network.
    pub fn ip(&self) -> Result<String> {
        let network = self.status()?.status.and_then(|status| status.network);
        let ip = network.map(|network| network.ip).filter(|ip| !ip.is_empty());
        ip.ok_or_else(|| Error::Output {
            program: format!("the pod {}", self.id),
            detail: "no address".to_owned(),
        })
    }

    /// The file of its network namespace, inside of the node's mount namespace.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn netns(&self) -> Result<PathBuf> {
        let answer = self.status()?;
        let info = verbose(answer.info.get("info"))?;
        let namespaces = info
            .pointer("/runtimeSpec/linux/namespaces")
            .and_then(Value::as_array);
        let network = namespaces
            .into_iter()
            .flatten()
            .find(|namespace| namespace["type"] == "network");
        let path = network.and_then(|network| network["path"].as_str());
        path.map(PathBuf::from).ok_or_else(|| Error::Output {
            program: "PodSandboxStatus".to_owned(),
            detail: format!("no network namespace of {}", self.id),
        })
    }

    /// Runs a task in its network namespace and the node's mount namespace.
    ///
    /// # Errors
    /// It has none any more; what the task fails with.
    pub fn run_inside<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.node.namespaces().run_in(&self.netns()?, task)
    }

    /// Makes a container, which does not run yet.
    ///
    /// # Errors
    /// containerd or the shim cannot.
    pub fn create(&self, spec: &ContainerSpec) -> Result<Container<'n>> {
        let mut client = self.node.cri().runtime();
        let request = proto::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(spec.config()),
            sandbox_config: Some(self.config.clone()),
        };
        let answer = self
            .node
            .cri()
            .call("CreateContainer", client.create_container(request))?;
        self.node.know(&answer.container_id);
        let log = self.logs.join(format!("{}.log", spec.name));
        Ok(Container::new(self.node, answer.container_id, log))
    }

    /// Makes a container and starts it.
    ///
    /// # Errors
    /// See [`Pod::create`] and [`Container::start`].
    pub fn run(&self, spec: &ContainerSpec) -> Result<Container<'n>> {
        let container = self.create(spec)?;
        container.start()?;
        Ok(container)
    }

    /// Stops it with its containers, without a grace period.
    ///
    /// # Errors
    /// containerd cannot.
    pub fn stop(&self) -> Result<()> {
        self.node.cri().stop_pod(&self.id)
    }

    /// Stops and removes it with its containers.
    ///
    /// # Errors
    /// containerd cannot.
    pub fn remove(self) -> Result<()> {
        self.stop()?;
        self.node.cri().remove_pod(&self.id)
    }
}
