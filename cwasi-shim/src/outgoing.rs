//! HTTP requests that a guest sends, within its network policy.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use wasmtime_wasi::runtime;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::sockets::{self, Network};

/// Bound of each step of a request for which the guest sets none, as in wasmtime's own client.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(10);

/// What a response's connection ends with.
type ConnectionEnd = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// Sends the requests of one guest.
pub(crate) struct Outgoing {
    network: Arc<Network>,
}

impl Outgoing {
    pub(crate) const fn new(network: Arc<Network>) -> Self {
        Self { network }
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, ConnectionEnd), Error>> + Send> {
        let peers = Peers {
            network: Arc::clone(&self.network),
        };
        Box::new(send(peers, request, options.unwrap_or_default()))
    }
}

async fn send(
    peers: Peers,
    mut request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<(Response<WasiBody>, ConnectionEnd), Error> {
    let uri = request.uri();
    let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
    let target = Target::new(authority, uri.scheme() == Some(&Scheme::HTTPS));
    let limit = options.connect_timeout.unwrap_or(DEFAULT_TIMEOUT);
    let (mut sender, connection) = timeout(limit, async {
        let stream = target.connect(&peers).await?;
        Ok::<_, Error>(hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?)
    })
    .await
    .map_err(|_| Error::ConnectionTimeout)??;
    let connection = runtime::spawn(connection);

    // Scheme and authority in the request line are for proxies.
    let path = uri.path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    let limit = options.first_byte_timeout.unwrap_or(DEFAULT_TIMEOUT);
    let response = timeout(limit, sender.send_request(request))
        .await
        .map_err(|_| Error::ConnectionReadTimeout)??;
    let limit = options.between_bytes_timeout.unwrap_or(DEFAULT_TIMEOUT);
    let response = response.map(|body| TimedBody::new(body, limit).boxed_unsync());
    Ok((
        response,
        Box::new(async move { connection.await.map_err(Error::from) }),
    ))
}

/// Where a request goes.
struct Target {
    host: String,
    port: u16,
    https: bool,
}

impl Target {
    fn new(authority: &Authority, https: bool) -> Self {
        let host = authority.host();
        let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        Self {
            host: unbracketed.unwrap_or(host).to_owned(),
            port: authority.port_u16().unwrap_or(if https { 443 } else { 80 }),
            https,
        }
    }

    async fn connect(&self, peers: &Peers) -> Result<Box<dyn Stream>, Error> {
        let stream = peers.connect(&self.addresses().await?).await?;
        if !self.https {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|_| Error::HttpRequestUriInvalid)?;
        let stream = TlsConnector::from(tls()?).connect(name, stream).await;
        Ok(Box::new(stream.map_err(tls_error)?))
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, Error> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found = found.map_err(|error| Error::DnsError {
            rcode: Some(error.to_string()),
            info_code: None,
        })?;
        Ok(found.collect())
    }
}

/// The peers that the guest may choose.
struct Peers {
    network: Arc<Network>,
}

impl Peers {
    /// Connects to the first of `addresses` that is permitted and answers. Judged are the addresses themselves, after the
    /// lookup: a name can lead anywhere.
    async fn connect(&self, addresses: &[SocketAddr]) -> Result<sockets::Stream, Error> {
        let mut failure = Error::DestinationNotFound;
        let (permitted, refused): (Vec<SocketAddr>, Vec<SocketAddr>) = addresses
            .iter()
            .copied()
            .partition(|address| self.network.permits(*address, SocketAddrUse::TcpConnect));
        if permitted.is_empty() {
            refused
                .into_iter()
                .for_each(|address| self.network.refused(address));
            return Err(match addresses {
                [] => failure,
                _ => Error::DestinationIpProhibited,
            });
        }
        for address in permitted {
            match sockets::Stream::connect(Arc::clone(&self.network), address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = connect_error(error),
            }
        }
        Err(failure)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn connect_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Error::DestinationIpUnroutable,
        _ => Error::Connect(error),
    }
}

fn tls_error(error: io::Error) -> Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
        _ => Error::Tls(error),
    }
}

/// TLS as Mozilla's root certificates allow it: a guest's root filesystem rarely has any.
pub(crate) fn tls() -> Result<Arc<ClientConfig>, Error> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, rustls::Error>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.into(),
        };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    });
    config
        .clone()
        .map_err(|error| Error::InternalError(Some(error.to_string())))
}

/// A body whose parts must not be further apart than a limit.
struct TimedBody {
    body: Incoming,
    limit: Duration,
    next: Pin<Box<Sleep>>,
}

impl TimedBody {
    fn new(body: Incoming, limit: Duration) -> Self {
        Self {
            body,
            limit,
            next: Box::pin(sleep(limit)),
        }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let deadline = Instant::now() + self.limit;
            self.next.as_mut().reset(deadline);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        ready!(self.next.as_mut().poll(context));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Mutex;

    use super::*;
    use crate::network::{NetworkPolicy, Refusals};

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.unwrap().block_on(future)
    }

    #[test]
    fn targets_have_the_port_of_their_scheme() {
        for (authority, https, host, port) in [
            ("example.org", false, "example.org", 80),
            ("example.org", true, "example.org", 443),
            ("user@example.org:8080", true, "example.org", 8080),
            ("192.0.2.1:81", false, "192.0.2.1", 81),
            ("[2001:db8::1]", true, "2001:db8::1", 443),
            ("[::1]:8443", false, "::1", 8443),
        ] {
            let target = Target::new(&authority.parse().unwrap(), https);
            assert_eq!((target.host.as_str(), target.port), (host, port), "{authority}");
        }
    }

    #[test]
    fn the_first_permitted_address_that_answers_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let forbidden: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let refused = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&refused);
        let policy = NetworkPolicy::only(vec!["127.0.0.0/8".parse().unwrap()]);
        let refusals = Refusals::new(move |peer| told.lock().unwrap().push(peer));
        let peers = Peers {
            network: Network::new("test", policy, refusals, None, false),
        };
        let connect = |addresses: &[SocketAddr]| {
            block_on(async {
                peers
                    .connect(addresses)
                    .await
                    .map(|stream| stream.peer_address().unwrap())
            })
        };
        assert_eq!(connect(&[forbidden, closed, open]).unwrap(), open);
        assert!(
            refused.lock().unwrap().is_empty(),
            "nothing was kept from the guest"
        );
        assert!(matches!(connect(&[closed]), Err(Error::ConnectionRefused)));
        assert!(matches!(connect(&[]), Err(Error::DestinationNotFound)));
        assert!(matches!(
            connect(&[forbidden]),
            Err(Error::DestinationIpProhibited)
        ));
        assert_eq!(*refused.lock().unwrap(), [forbidden]);
    }

    #[test]
    fn a_certificate_that_is_not_trusted_is_told_apart() {
        let untrusted = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = |cause| tls_error(io::Error::new(io::ErrorKind::InvalidData, cause));
        assert!(matches!(error(untrusted), Error::TlsCertificateError));
        assert!(matches!(error(rustls::Error::DecryptError), Error::Tls(_)));
        tls().unwrap();
    }
}
