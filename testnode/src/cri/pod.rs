//! A pod of a node and its containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_cri::v1 as proto;
use serde_json::Value;

use super::log::{self, Stream};
use super::spec::{ContainerSpec, PodSpec};
use crate::error::{IoContext, on};
use crate::node::Node;
use crate::wait::{self, LONG};
use crate::{Error, Result};

/// How long the processes of a container may take to end after their grace period.
const AFTER_GRACE: Duration = Duration::from_secs(30);

/// A pod. It lasts until it is removed, or the node is.
#[derive(Debug)]
pub struct Pod<'n> {
    node: &'n Node,
    id: String,
    logs: PathBuf,
    config: proto::PodSandboxConfig,
}

/// A container of a pod.
#[derive(Debug)]
pub struct Container<'n> {
    node: &'n Node,
    id: String,
    log: PathBuf,
}

/// How a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, and not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited {
        /// Its exit code, or 128 and the number of the signal that ended it.
        code: i32,
        /// Why, in a word, such as `Completed` or `Error`.
        reason: String,
        /// What containerd has to say about it.
        message: String,
    },
    /// containerd has lost it.
    Unknown,
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
        Ok(Container {
            node: self.node,
            id: answer.container_id,
            log: self.logs.join(format!("{}.log", spec.name)),
        })
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

impl Container<'_> {
    /// containerd's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts it.
    ///
    /// # Errors
    /// The shim cannot.
    pub fn start(&self) -> Result<()> {
        let mut client = self.node.cri().runtime();
        let request = proto::StartContainerRequest {
            container_id: self.id.clone(),
        };
        self.node
            .cri()
            .call("StartContainer", client.start_container(request))
            .map(drop)
    }

    fn status(&self) -> Result<proto::ContainerStatusResponse> {
        let mut client = self.node.cri().runtime();
        let request = proto::ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: true,
        };
        self.node
            .cri()
            .call("ContainerStatus", client.container_status(request))
    }

    /// How it is.
    ///
    /// # Errors
    /// There is no such container.
    pub fn state(&self) -> Result<State> {
        let status = self.status()?.status.unwrap_or_default();
        Ok(match status.state() {
            proto::ContainerState::ContainerCreated => State::Created,
            proto::ContainerState::ContainerRunning => State::Running,
            proto::ContainerState::ContainerExited => State::Exited {
                code: status.exit_code,
                reason: status.reason,
                message: status.message,
            },
            proto::ContainerState::ContainerUnknown => State::Unknown,
        })
    }

    /// Its process, as the host numbers it.
    ///
    /// # Errors
    /// There is no such container, or it does not run.
    pub fn pid(&self) -> Result<i32> {
        let answer = self.status()?;
        let pid = verbose(answer.info.get("info"))?["pid"]
            .as_i64()
            .unwrap_or_default();
        match i32::try_from(pid) {
            Ok(pid) if pid > 0 => Ok(pid),
            _ => Err(Error::Output {
                program: format!("the container {}", self.id),
                detail: format!("the pid {pid}"),
            }),
        }
    }

    /// Its cgroup in each hierarchy that has one, v2 first.
    #[must_use]
    pub fn cgroups(&self) -> Vec<PathBuf> {
        self.node.container_cgroups(&self.id)
    }

    /// Waits for its end, and gives the exit code.
    ///
    /// # Errors
    /// It does not end, or is lost.
    pub fn wait(&self) -> Result<i32> {
        let what = format!("the end of the container {}", self.id);
        wait::within(LONG, what, || {
            Ok(match self.state()? {
                State::Exited { code, .. } => Some(code),
                _ => None,
            })
        })
    }

    /// Sends SIGTERM, then SIGKILL if it still runs after `grace` (whole seconds).
    ///
    /// # Errors
    /// containerd cannot, or does not answer half a minute after the grace period.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        let mut client = self.node.cri().runtime();
        let request = proto::StopContainerRequest {
            container_id: self.id.clone(),
            timeout: grace.as_secs().cast_signed(),
        };
        self.node
            .cri()
            .call_within(
                grace + AFTER_GRACE,
                "StopContainer",
                client.stop_container(request),
            )
            .map(drop)
    }

    /// Removes it, and kills it before when it runs.
    ///
    /// # Errors
    /// containerd cannot.
    pub fn remove(self) -> Result<()> {
        let mut client = self.node.cri().runtime();
        let request = proto::RemoveContainerRequest {
            container_id: self.id.clone(),
        };
        self.node
            .cri()
            .call("RemoveContainer", client.remove_container(request))
            .map(drop)
    }

    /// What it has written to a stream so far.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn log(&self, stream: Stream) -> Result<String> {
        Ok(log::of(&read_log(&self.log)?, stream))
    }

    /// What it has written to stdout so far.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn stdout(&self) -> Result<String> {
        self.log(Stream::Stdout)
    }

    /// What it has written to stderr so far.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn stderr(&self) -> Result<String> {
        self.log(Stream::Stderr)
    }

    /// Waits until it has written a line to a stream that holds `text`, and gives the line.
    ///
    /// # Errors
    /// It does not, or it ended before; the message has what it wrote.
    pub fn says(&self, stream: Stream, text: &str) -> Result<String> {
        let found = wait::until(format!("{text:?} of {}", self.id), || {
            // Asked before the log is read: nothing is written after the end.
            let state = self.state()?;
            let log = self.log(stream)?;
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                return Ok(Some(line.to_owned()));
            }
            match state {
                State::Exited {
                    code,
                    reason,
                    message,
                } => Err(Error::Output {
                    program: self.id.clone(),
                    detail: format!("no {text:?} before it ended with {code} ({reason}: {message})"),
                }),
                _ => Ok(None),
            }
        });
        found.map_err(|error| Error::Output {
            program: format!("{error}: {}", self.id),
            detail: fs::read_to_string(&self.log).unwrap_or_default(),
        })
    }
}

/// A log that was not begun is empty.
fn read_log(path: &Path) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(wait::text(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).action(on("read", path)),
    }
}

/// The JSON that a verbose status has.
fn verbose(info: Option<&String>) -> Result<Value> {
    let text = info.map_or("{}", String::as_str);
    serde_json::from_str(text).map_err(|error| Error::Output {
        program: "a verbose status".to_owned(),
        detail: format!("{error}: {text}"),
    })
}
