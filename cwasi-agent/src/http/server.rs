//! HTTP connections, and what they may cost: whoever reaches the port may open any number, and say nothing or read nothing.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// Longest head of a request, and most of one that is read ahead, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// What HTTP connections may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once, at least 1. One more takes the place of the oldest, of those that have not asked yet if there are any:
    /// who asks at once, as Prometheus and kubelets do, is answered among any number of silent ones.
    pub connections: usize,
    /// How long a connection may take, from its beginning to its only answer's end.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            time: Duration::from_secs(30),
        }
    }
}

/// The open connections, the oldest first, but for those that are being closed.
#[derive(Debug, Default)]
struct Open {
    connections: VecDeque<Connection>,
    next: u64,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    asked: bool,
    /// Ends the connection when it is dropped.
    _hold: oneshot::Sender<()>,
}

#[derive(Clone, Debug, Default)]
struct Places(Arc<Mutex<Open>>);

impl Places {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection, and what resolves when another takes it.
    fn take(&self, most: usize) -> (Place, oneshot::Receiver<()>) {
        let mut open = self.lock();
        if open.connections.len() >= most {
            let silent = open.connections.iter().position(|connection| !connection.asked);
            open.connections.remove(silent.unwrap_or_default());
        }
        let (hold, displaced) = oneshot::channel();
        let number = open.next;
        open.next += 1;
        open.connections.push_back(Connection {
            number,
            asked: false,
            _hold: hold,
        });
        let places = self.clone();
        (Place { places, number }, displaced)
    }
}

/// A connection's place, which it leaves when it is dropped.
struct Place {
    places: Places,
    number: u64,
}

impl Place {
    /// Whoever has asked is displaced after all who have not.
    fn asked(&self) {
        let mut open = self.places.lock();
        let mut connections = open.connections.iter_mut();
        if let Some(connection) = connections.find(|connection| connection.number == self.number) {
            connection.asked = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connections = &mut self.places.lock().connections;
        connections.retain(|connection| connection.number != self.number);
    }
}

/// Serves connections until the runtime ends, each with one request.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits) {
    let places = Places::default();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: connections that end give some back.
                warn!("metrics: accept: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (place, displaced) = places.take(limits.connections);
        let answered = timeout(limits.time, answer(stream, peer, router.clone(), place));
        tokio::spawn(async move {
            tokio::select! {
                done = answered => if let Ok(Err(error)) = done {
                    debug!(%peer, "metrics: {error}");
                },
                _ = displaced => {}
            }
        });
    }
}

/// Answers the one request of a connection.
async fn answer(stream: TcpStream, peer: SocketAddr, router: Router, place: Place) -> hyper::Result<()> {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        place.asked();
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
