//! A container of a pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_cri::v1 as proto;

use super::log::{self, Stream};
use super::spec::ContainerSpec;
use super::verbose;
use crate::error::{IoContext, on};
use crate::node::Node;
use crate::wait::{self, LONG};
use crate::{Error, Result};

/// How long the processes of a container may take to end after their grace period.
const AFTER_GRACE: Duration = Duration::from_secs(30);

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

impl<'n> Container<'n> {
    pub(super) const fn new(node: &'n Node, id: String, log: PathBuf) -> Self {
        Self { node, id, log }
    }

    /// containerd's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) const fn node(&self) -> &'n Node {
        self.node
    }

    /// Starts it.
    ///
    /// # Errors
    /// The shim cannot.
    pub fn start(&self) -> Result<()> {
        self.start_within(LONG)
    }

    /// [`Container::start`], given up `after` a while, as a kubelet's deadline does.
    ///
    /// # Errors
    /// [`Error::Timeout`]; see there.
    pub fn start_within(&self, after: Duration) -> Result<()> {
        let mut client = self.node.cri().runtime();
        let request = proto::StartContainerRequest {
            container_id: self.id.clone(),
        };
        self.node
            .cri()
            .call_within(after, "StartContainer", client.start_container(request))
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

    /// Gives it the limits of `spec` while it runs.
    ///
    /// # Errors
    /// The shim or the kernel refuses.
    pub fn update(&self, spec: &ContainerSpec) -> Result<()> {
        let mut client = self.node.cri().runtime();
        let request = proto::UpdateContainerResourcesRequest {
            container_id: self.id.clone(),
            linux: Some(spec.resources()),
            ..Default::default()
        };
        self.node
            .cri()
            .call(
                "UpdateContainerResources",
                client.update_container_resources(request),
            )
            .map(drop)
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
