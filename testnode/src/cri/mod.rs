//! Pods and containers as a kubelet makes them, over containerd's CRI.

mod container;
mod log;
mod pod;
mod spec;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1 as proto;
use proto::image_service_client::ImageServiceClient;
use proto::runtime_service_client::RuntimeServiceClient;
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

pub use container::{Container, State};
pub use log::Stream;
pub use pod::Pod;
pub use spec::{ContainerSpec, PodSpec};

use crate::error::IoContext;
use crate::wait::LONG;
use crate::{Error, Result};

/// A blocking client of containerd's CRI socket, for any number of threads.
#[derive(Clone, Debug)]
pub struct Cri {
    executor: Arc<Runtime>,
    channel: Channel,
}

impl Cri {
    /// A client that connects at the first call.
    ///
    /// # Errors
    /// The system refuses threads, or the path cannot be one of a socket.
    pub fn new(socket: &Path) -> Result<Self> {
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .action(|| "start the event loop of the CRI client")?;
        let endpoint =
            Endpoint::from_shared(format!("unix:{}", socket.display())).map_err(|error| Error::Cri {
                call: "connect",
                message: error.to_string(),
            })?;
        let channel = {
            let _inside = executor.enter();
            endpoint.connect_lazy()
        };
        Ok(Self {
            executor: Arc::new(executor),
            channel,
        })
    }

    /// The runtime service's own client, whose futures [`Cri::call`] runs.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        // The specification of a container in a verbose status can be long.
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    /// Waits for a call's answer, for [`LONG`] at most.
    ///
    /// # Errors
    /// [`Error::Cri`] with containerd's message, [`Error::Timeout`].
    pub fn call<T>(
        &self,
        call: &'static str,
        future: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        self.call_within(LONG, call, future)
    }

    /// [`Cri::call`], with another end.
    ///
    /// # Errors
    /// See there.
    pub fn call_within<T>(
        &self,
        after: Duration,
        call: &'static str,
        future: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        let answer = self
            .executor
            .block_on(async { tokio::time::timeout(after, future).await });
        match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::Cri {
                call,
                message: status.message().to_owned(),
            }),
            Err(_) => Err(Error::Timeout {
                what: format!("the answer of CRI {call}"),
                after,
            }),
        }
    }

    /// Whether the runtime and the pods' network are ready.
    ///
    /// # Errors
    /// containerd does not answer.
    pub(crate) fn is_ready(&self) -> Result<bool> {
        let mut client = self.runtime();
        let request = proto::StatusRequest { verbose: false };
        let answer = self.call_within(Duration::from_secs(5), "Status", client.status(request))?;
        let conditions = answer.status.unwrap_or_default().conditions;
        let ready = |kind: &str| {
            let found = conditions.iter().find(|condition| condition.r#type == kind);
            found.is_some_and(|condition| condition.status)
        };
        Ok(ready("RuntimeReady") && ready("NetworkReady"))
    }

    /// Whether CRI knows an image.
    ///
    /// # Errors
    /// containerd does not answer.
    pub fn has_image(&self, reference: &str) -> Result<bool> {
        let request = proto::ImageStatusRequest {
            image: Some(proto::ImageSpec {
                image: reference.to_owned(),
                ..Default::default()
            }),
            verbose: false,
        };
        let mut client = self.images();
        let answer = self.call("ImageStatus", client.image_status(request))?;
        Ok(answer.image.is_some())
    }

    /// The ids of all pods, dead ones included.
    ///
    /// # Errors
    /// containerd does not answer.
    pub fn pods(&self) -> Result<Vec<String>> {
        let mut client = self.runtime();
        let request = proto::ListPodSandboxRequest { filter: None };
        let answer = self.call("ListPodSandbox", client.list_pod_sandbox(request))?;
        Ok(answer.items.into_iter().map(|pod| pod.id).collect())
    }

    /// Stops a pod: its containers are killed, its network goes. A pod that is gone is no error.
    ///
    /// # Errors
    /// containerd cannot.
    pub fn stop_pod(&self, id: &str) -> Result<()> {
        let mut client = self.runtime();
        let request = proto::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.call("StopPodSandbox", client.stop_pod_sandbox(request))
            .map(drop)
    }

    /// Removes a pod with its containers. A pod that is gone is no error.
    ///
    /// # Errors
    /// containerd cannot.
    pub fn remove_pod(&self, id: &str) -> Result<()> {
        let mut client = self.runtime();
        let request = proto::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.call("RemovePodSandbox", client.remove_pod_sandbox(request))
            .map(drop)
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
