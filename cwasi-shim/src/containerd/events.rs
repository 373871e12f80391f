//! containerd's event service. Events are for whoever listens: losing one, while containerd restarts, breaks nothing.

use std::sync::{Mutex, PoisonError};

use containerd_shim::Context;
use containerd_shim::event::Event;
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::shim::events::{Envelope, ForwardRequest};
use containerd_shim::protos::{Client, EventsClient};
use containerd_shim::util::{connect, timestamp};

/// Protocol buffer package of every event of a task.
const PACKAGE: &str = "containerd.events";

/// The way to containerd's event service.
///
/// containerd-shim's own publisher asks protobuf's reflection for the name of an event, which keeps 0.3 MiB of descriptors in
/// every shim from then on.
pub(super) struct Events {
    namespace: String,
    ttrpc_address: String,
    /// Ends with containerd; a new one finds the next containerd.
    client: Mutex<Option<EventsClient>>,
}

impl Events {
    pub(super) const fn new(namespace: String, ttrpc_address: String) -> Self {
        Self {
            namespace,
            ttrpc_address,
            client: Mutex::new(None),
        }
    }

    pub(super) fn send<E: Event + Message>(&self, event: &E) {
        let request = match self.request(event) {
            Ok(request) => request,
            Err(error) => return log::error!("event {}: {error}", event.topic()),
        };
        let forward = |client: &EventsClient| client.forward(Context::default(), &request);
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if client.as_ref().is_some_and(|client| forward(client).is_ok()) {
            return;
        }
        *client = connect(&self.ttrpc_address)
            .and_then(|socket| Ok(EventsClient::new(Client::new(socket)?)))
            .and_then(|new| Ok(forward(&new).map(|_| new)?))
            .map_err(|error| log::warn!("event {} is lost: {error}", event.topic()))
            .ok();
    }

    fn request<E: Event + Message>(&self, event: &E) -> containerd_shim::Result<ForwardRequest> {
        let any = Any {
            type_url: format!("{PACKAGE}.{}", E::NAME),
            value: event.write_to_bytes()?,
            ..Default::default()
        };
        let envelope = Envelope {
            timestamp: Some(timestamp()?).into(),
            namespace: self.namespace.clone(),
            topic: event.topic(),
            event: Some(any).into(),
            ..Default::default()
        };
        Ok(ForwardRequest {
            envelope: Some(envelope).into(),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim::protos::events::task::{TaskCreate, TaskDelete, TaskExit, TaskOOM, TaskStart};
    use containerd_shim::util::convert_to_any;

    use super::*;

    fn same_as_containerd_shim<E: Event + Message + Clone>(event: &E) {
        let events = Events::new("n".to_owned(), String::new());
        let ours = events.request(event).unwrap().envelope.unwrap();
        assert_eq!(
            ours.event.unwrap(),
            convert_to_any(Box::new(event.clone())).unwrap()
        );
        assert_eq!((ours.namespace.as_str(), ours.topic), ("n", event.topic()));
    }

    #[test]
    fn events_are_named_as_reflection_names_them() {
        let container_id = "c".to_owned();
        same_as_containerd_shim(&TaskCreate {
            container_id: container_id.clone(),
            ..Default::default()
        });
        same_as_containerd_shim(&TaskStart {
            container_id: container_id.clone(),
            pid: 7,
            ..Default::default()
        });
        same_as_containerd_shim(&TaskExit {
            container_id: container_id.clone(),
            exit_status: 3,
            ..Default::default()
        });
        same_as_containerd_shim(&TaskOOM {
            container_id: container_id.clone(),
            ..Default::default()
        });
        same_as_containerd_shim(&TaskDelete {
            container_id,
            ..Default::default()
        });
    }
}
