//! Serving a guest that handles HTTP (`wasi:http/incoming-handler`), with a fresh instance for each request.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use wasmtime::Store;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::engine::one_line;
use crate::guest::{Failure, GuestConfig, GuestError};
use crate::limits::Budget;
use crate::program::Proxy;
use crate::sockets::{Acceptor, Network, Stream};
use crate::state::GuestState;
use crate::stdio::Streams;
use crate::ticks::Ticker;

/// Where a guest is served unless it is told otherwise: port 8080 of every IPv4 address.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 8080));

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Pause after a connection could not be accepted for want of something: file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Most characters of a request that a line about it shows.
const SHOWN: usize = 200;

type Answer = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// A guest that handles HTTP, and what each of its instances is given.
pub(crate) struct Server {
    proxy: Proxy,
    config: GuestConfig,
    streams: Streams,
    budget: Arc<Budget>,
    tasks: Tasks,
}

impl Server {
    /// A server whose instances together take their memory from `budget`.
    pub(crate) fn new(
        proxy: Proxy,
        config: GuestConfig,
        streams: Streams,
        budget: Arc<Budget>,
    ) -> Result<Self, GuestError> {
        let server = Self {
            proxy,
            config,
            streams,
            budget,
            tasks: Tasks::default(),
        };
        // What every request would fail with is told before the first one.
        server.store().map(|_| server)
    }

    /// Serves HTTP/1.1 until it is dropped, which ends connections and instances. A request that fails is told on standard
    /// error, and so is the address.
    pub(crate) async fn run(self: Arc<Self>, ticker: Arc<Ticker>) -> Result<Infallible, GuestError> {
        let listener = self.listen()?;
        self.tell(&format_args!("serving HTTP on {}", listener.local_address()));
        let _end = AbortOnDrop(&self.tasks);
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let connection = Arc::clone(&self).converse(stream, Arc::clone(&ticker));
                    drop(self.tasks.spawn(connection));
                }
                Err(error) if ended_early(&error) => {}
                Err(error) => {
                    self.tell(&format_args!("a connection cannot be accepted: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn listen(&self) -> Result<Acceptor, GuestError> {
        let address = self.config.http;
        let network = Network::of(&self.config);
        Acceptor::begin(network, address, BACKLOG).map_err(|(call, source)| GuestError::Listen {
            address,
            call,
            source,
        })
    }

    /// Answers the requests of one connection.
    async fn converse(self: Arc<Self>, stream: Stream, ticker: Arc<Ticker>) {
        let service = service_fn(|request| {
            let (server, ticker) = (Arc::clone(&self), Arc::clone(&ticker));
            async move { Ok::<_, Infallible>(server.answer(request, ticker).await) }
        });
        // How a connection ended is the client's to know: it went away, or it sent what is not HTTP and was told so.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        ticker: Arc<Ticker>,
    ) -> Response<HyperOutgoingBody> {
        let has_host = |value: &HeaderValue| value.to_str().is_ok();
        if request.uri().authority().is_none() && !request.headers().get(HOST).is_some_and(has_host) {
            return plain(StatusCode::BAD_REQUEST, "the request names no host\n");
        }
        let shown: String = format!("{} {}", request.method(), request.uri())
            .chars()
            .take(SHOWN)
            .collect();
        let failed = |why: &dyn Display| self.tell(&format_args!("{shown}: {why}"));
        let (sender, receiver) = oneshot::channel();
        // On its own, because a guest may go on after it has answered.
        let instance = self
            .tasks
            .spawn(Arc::clone(&self).handle(shown.clone(), request, sender, ticker));
        match receiver.await {
            Ok(Ok(response)) => return response,
            Ok(Err(code)) => failed(&format_args!("the guest answered with an error: {code}")),
            Err(_) => match instance.await {
                Ok(true) => failed(&"the guest ended without an answer"),
                // It was told where it happened.
                Ok(false) => {}
                Err(_) => failed(&"the host failed"),
            },
        }
        plain(StatusCode::INTERNAL_SERVER_ERROR, "the function failed\n")
    }

    /// Has an instance of its own handle the request. Gives whether that went well; it has said so when not.
    async fn handle(
        self: Arc<Self>,
        shown: String,
        request: Request<Incoming>,
        sender: oneshot::Sender<Answer>,
        ticker: Arc<Ticker>,
    ) -> bool {
        match self.instance(request, sender, &ticker).await {
            Ok(0) => true,
            Ok(code) => {
                self.tell(&format_args!("{shown}: the guest left with exit code {code}"));
                false
            }
            Err(error) => {
                self.tell(&format_args!("{shown}: {error}"));
                false
            }
        }
    }

    async fn instance(
        &self,
        request: Request<Incoming>,
        sender: oneshot::Sender<Answer>,
        ticker: &Arc<Ticker>,
    ) -> Result<u8, GuestError> {
        let mut store = self.store()?;
        ticker.cut(&mut store);
        let host = |error: wasmtime::Error| GuestError::Start(one_line(&error));
        let mut http = store.data_mut().http();
        let request = http.new_incoming_request(Scheme::Http, request).map_err(host)?;
        let answer = http.new_response_outparam(sender).map_err(host)?;
        let handled = async {
            let proxy = self
                .proxy
                .pre
                .instantiate_async(&mut store)
                .await
                .map_err(Failure::start)?;
            let handler = proxy.wasi_http_incoming_handler();
            let handled = handler.call_handle(&mut store, request, answer).await;
            handled.map_err(Failure::run)
        };
        let handled = ticker.run(handled).await;
        store.data_mut().abort_bodies();
        store.data_mut().unwritten().write().await;
        store.data().network().all_sent().await;
        match handled {
            Ok(()) => Ok(0),
            Err(failure) => failure.ended(store.data()),
        }
    }

    /// One line for people.
    fn tell(&self, line: &dyn Display) {
        self.config.stdio.stderr.tell(line);
    }

    fn store(&self) -> Result<Store<GuestState>, GuestError> {
        GuestState::store(self.proxy.pre.engine(), &self.config, &self.streams, &self.budget)
    }
}

/// Connections and instances of a server.
#[derive(Default)]
struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    /// Starts `task`; what it returns can be awaited.
    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let mut tasks = self.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            // Nobody may wait for it.
            let _ = sender.send(task.await);
        });
        receiver
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the tasks of a server that is not run any more: they have it, so that it does not end by itself.
struct AbortOnDrop<'a>(&'a Tasks);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.lock().abort_all();
    }
}

/// Whether the client went away before it was accepted.
fn ended_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn plain(status: StatusCode, text: &'static str) -> Response<HyperOutgoingBody> {
    let body = Full::new(Bytes::from_static(text.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}
