//! containerd's task service: what containerd asks of the containers of this shim.
//!
//! containerd-shimkit has such a service, but it does not answer `Pids`: containerd (1.7, 2.x) takes a shim that does not for
//! a leaked one when it starts again, and ends it with its containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use containerd_shim::api::{
    ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse,
    Empty, KillRequest, PidsRequest, PidsResponse, ShutdownRequest, StartRequest, StartResponse,
    StateRequest, StateResponse, StatsRequest, StatsResponse, Status, UpdateTaskRequest, WaitRequest,
    WaitResponse,
};
use containerd_shim::cgroup::{collect_metrics, update_resources};
use containerd_shim::mount::mount_rootfs;
use containerd_shim::protos::events::task::{TaskCreate, TaskDelete, TaskExit, TaskIO, TaskOOM, TaskStart};
use containerd_shim::protos::types::mount::Mount;
use containerd_shim::protos::types::task::ProcessInfo;
use containerd_shim::util::convert_to_any;
use containerd_shim::{ExitSignal, Task as TaskService, TtrpcContext, TtrpcResult};

use super::bundle::Bundle;
use super::container::Stdio;
use super::embed::Embedding;
use super::error::ShimError;
use super::events::Events;
use super::leaf;
use super::task::{Notice, State, Task, TaskSpec};
use super::tasks::Tasks;
use super::trace::Span;

/// The containers of one shim.
pub(super) struct Service {
    namespace: String,
    containerd: PathBuf,
    events: Arc<Events>,
    exit: Arc<ExitSignal>,
    embedding: Arc<Embedding>,
    tasks: Tasks<Task>,
}

impl Service {
    pub(super) fn new(namespace: String, containerd: PathBuf, events: Events, exit: Arc<ExitSignal>) -> Self {
        Self {
            embedding: Arc::new(Embedding::new(namespace.clone())),
            namespace,
            containerd,
            events: Arc::new(events),
            exit,
            tasks: Tasks::new(),
        }
    }

    /// The container `id`. An exec is none: a guest is not a place to execute programs in.
    fn task(&self, id: &str, exec_id: &str) -> Result<Arc<Task>, ShimError> {
        if !exec_id.is_empty() {
            return Err(ShimError::Unsupported("exec"));
        }
        self.tasks
            .get(id)
            .ok_or_else(|| ShimError::NotFound(id.to_owned()))
    }

    fn create_task(&self, request: CreateTaskRequest, span: &Span) -> Result<u32, ShimError> {
        if request.terminal {
            return Err(ShimError::Unsupported("a terminal"));
        }
        if !request.checkpoint.is_empty() || !request.parent_checkpoint.is_empty() {
            return Err(ShimError::Unsupported("a checkpoint"));
        }
        let creation = self
            .tasks
            .create(&request.id)
            .ok_or_else(|| ShimError::Exists(request.id.clone()))?;
        leaf::anticipate_move();
        let bundle = Bundle::load(Path::new(&request.bundle))?;
        mount(&request.rootfs, &bundle.rootfs()?)?;
        let stdio = Stdio {
            stdin: request.stdin.as_str().into(),
            stdout: request.stdout.as_str().into(),
            stderr: request.stderr.as_str().into(),
        };
        let spec = TaskSpec {
            id: request.id.clone(),
            namespace: self.namespace.clone(),
            containerd: self.containerd.clone(),
            bundle,
            stdio,
        };
        let (events, id) = (Arc::clone(&self.events), request.id.clone());
        let task = Task::create(spec, &self.embedding, span, move |task, notice| match notice {
            Notice::OutOfMemory => events.send(&TaskOOM {
                container_id: id.clone(),
                ..Default::default()
            }),
            Notice::Ended(exit) => events.send(&TaskExit {
                container_id: id.clone(),
                id: id.clone(),
                pid: task.pid(),
                exit_status: exit.code,
                exited_at: Some(exit.at.clone()).into(),
                ..Default::default()
            }),
        })?;
        let pid = task.pid();
        creation.finish(task);
        self.events.send(&TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(TaskIO {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                ..Default::default()
            })
            .into(),
            pid,
            ..Default::default()
        });
        Ok(pid)
    }

    /// Undoes a creation that nobody waits for any more. The next containerd has looked before it was done, and would hold the
    /// container for one without a task: it could not remove its pod.
    fn unless_abandoned(&self, call: &TtrpcContext, id: &str) -> Result<(), ShimError> {
        // The connection's end takes the other side of the channel away.
        if !call
            .cancel_rx
            .try_recv()
            .is_err_and(|error| error.is_disconnected())
        {
            return Ok(());
        }
        self.delete_task(id, "")?;
        Err(ShimError::Abandoned(id.to_owned()))
    }

    fn delete_task(&self, id: &str, exec_id: &str) -> Result<DeleteResponse, ShimError> {
        if !exec_id.is_empty() {
            return Err(ShimError::Unsupported("exec"));
        }
        let removal = self
            .tasks
            .remove(id)
            .ok_or_else(|| ShimError::NotFound(id.to_owned()))?;
        let task = Arc::clone(&removal.task);
        let exit = task.delete()?;
        removal.finish();
        self.events.send(&TaskDelete {
            container_id: id.to_owned(),
            pid: task.pid(),
            exit_status: exit.code,
            exited_at: Some(exit.at.clone()).into(),
            ..Default::default()
        });
        Ok(DeleteResponse {
            pid: task.pid(),
            exit_status: exit.code,
            exited_at: Some(exit.at).into(),
            ..Default::default()
        })
    }

    fn update_task(&self, request: &UpdateTaskRequest) -> Result<(), ShimError> {
        let task = self.task(&request.id, "")?;
        let failed = |error: &dyn std::fmt::Display| ShimError::Resources(error.to_string());
        let value = &request.resources.value;
        // The libraries of the shim and of libcontainer have types of their own for the same.
        task.check_update(&serde_json::from_slice(value).map_err(|error| failed(&error))?)?;
        let resources = serde_json::from_slice(value).map_err(|error| failed(&error))?;
        update_resources(task.pid(), &resources).map_err(|error| failed(&error))
    }
}

impl TaskService for Service {
    fn create(&self, call: &TtrpcContext, request: CreateTaskRequest) -> TtrpcResult<CreateTaskResponse> {
        let span = Span::of_call("cwasi.create", &call.metadata, None);
        let id = request.id.clone();
        let created = self
            .create_task(request, &span)
            .and_then(|pid| self.unless_abandoned(call, &id).map(|()| pid));
        if let Err(error) = &created {
            span.failed(error);
        }
        Ok(CreateTaskResponse {
            pid: created?,
            ..Default::default()
        })
    }

    fn start(&self, call: &TtrpcContext, request: StartRequest) -> TtrpcResult<StartResponse> {
        let task = self.task(&request.id, &request.exec_id)?;
        let span = Span::of_call("cwasi.start", &call.metadata, task.created());
        let pid = task.start(span, |pid| {
            self.events.send(&TaskStart {
                container_id: request.id.clone(),
                pid,
                ..Default::default()
            });
        })?;
        Ok(StartResponse {
            pid,
            ..Default::default()
        })
    }

    fn state(&self, _: &TtrpcContext, request: StateRequest) -> TtrpcResult<StateResponse> {
        let task = self.task(&request.id, &request.exec_id)?;
        let mut response = StateResponse {
            id: request.id,
            bundle: task.bundle().dir.display().to_string(),
            pid: task.pid(),
            stdin: task.stdio().stdin.display().to_string(),
            stdout: task.stdio().stdout.display().to_string(),
            stderr: task.stdio().stderr.display().to_string(),
            ..Default::default()
        };
        response.status = match task.state() {
            State::Created => Status::CREATED,
            State::Running => Status::RUNNING,
            State::Stopped(exit) => {
                response.exit_status = exit.code;
                response.exited_at = Some(exit.at).into();
                Status::STOPPED
            }
        }
        .into();
        Ok(response)
    }

    fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> TtrpcResult<PidsResponse> {
        let task = self.task(&request.id, "")?;
        // A guest has no other; a stopped one is still this shim's.
        let process = ProcessInfo {
            pid: task.pid(),
            ..Default::default()
        };
        Ok(PidsResponse {
            processes: vec![process],
            ..Default::default()
        })
    }

    fn kill(&self, _: &TtrpcContext, request: KillRequest) -> TtrpcResult<Empty> {
        self.task(&request.id, &request.exec_id)?.kill(request.signal)?;
        Ok(Empty::new())
    }

    fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> TtrpcResult<WaitResponse> {
        let exit = self.task(&request.id, &request.exec_id)?.wait();
        Ok(WaitResponse {
            exit_status: exit.code,
            exited_at: Some(exit.at).into(),
            ..Default::default()
        })
    }

    fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> TtrpcResult<DeleteResponse> {
        Ok(self.delete_task(&request.id, &request.exec_id)?)
    }

    fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> TtrpcResult<Empty> {
        self.update_task(&request)?;
        Ok(Empty::new())
    }

    fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> TtrpcResult<StatsResponse> {
        let task = self.task(&request.id, "")?;
        let stats = convert_to_any(Box::new(collect_metrics(task.pid())?))?;
        Ok(StatsResponse {
            stats: Some(stats).into(),
            ..Default::default()
        })
    }

    fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> TtrpcResult<ConnectResponse> {
        Ok(ConnectResponse {
            shim_pid: process::id(),
            task_pid: self
                .task(&request.id, "")
                .map(|task| task.pid())
                .unwrap_or_default(),
            ..Default::default()
        })
    }

    fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> TtrpcResult<Empty> {
        // The other containers of a pod still need the shim.
        if self.tasks.are_over() {
            self.exit.signal();
        }
        Ok(Empty::new())
    }
}

/// Mounts the root filesystem where the bundle wants it. containerd unmounts it with the bundle.
fn mount(mounts: &[Mount], rootfs: &Path) -> Result<(), ShimError> {
    fs::create_dir_all(rootfs).map_err(|source| ShimError::Io {
        call: "mkdir",
        path: rootfs.to_owned(),
        source,
    })?;
    for mount in mounts {
        let kind = Some(mount.type_.as_str()).filter(|kind| !kind.is_empty());
        let source = Some(mount.source.as_str()).filter(|source| !source.is_empty());
        mount_rootfs(kind, source, &mount.options, rootfs).map_err(|error| ShimError::Mount {
            path: rootfs.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(())
}
