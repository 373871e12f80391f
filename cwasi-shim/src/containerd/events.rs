//! containerd's event service. Events are for whoever listens: losing one, while containerd restarts, breaks nothing.

use std::sync::{Mutex, PoisonError};

use containerd_shim::event::Event;
use containerd_shim::publisher::RemotePublisher;

/// The way to containerd's event service.
pub(super) struct Events {
    namespace: String,
    ttrpc_address: String,
    /// Ends with containerd; a new one finds the next containerd.
    publisher: Mutex<Option<RemotePublisher>>,
}

impl Events {
    pub(super) const fn new(namespace: String, ttrpc_address: String, publisher: RemotePublisher) -> Self {
        Self {
            namespace,
            ttrpc_address,
            publisher: Mutex::new(Some(publisher)),
        }
    }

    pub(super) fn send(&self, event: impl Event + Clone) {
        let publish = |publisher: &RemotePublisher| {
            let (topic, event) = (event.topic(), Box::new(event.clone()));
            publisher.publish(Default::default(), &topic, &self.namespace, event)
        };
        let mut publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
        if publisher
            .as_ref()
            .is_some_and(|publisher| publish(publisher).is_ok())
        {
            return;
        }
        *publisher = RemotePublisher::new(&self.ttrpc_address)
            .and_then(|new| publish(&new).map(|()| new))
            .map_err(|error| log::warn!("event {} is lost: {error}", event.topic()))
            .ok();
    }
}
