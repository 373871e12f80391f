//! The way to a collector: one connection for each batch, on the thread that sends them.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::Scheme;
use hyper::{Uri, client};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::lost;
use crate::outgoing::tls;

/// Longest answer that is read, in bytes: it says what was refused, in a few words.
const MAX_ANSWER: usize = 64 * 1024;

/// A client without state.
#[derive(Debug)]
pub(super) struct Collector {
    timeout: Duration,
}

impl Collector {
    /// A client that gives a collector so long for each batch.
    pub(super) const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The library's thread polls this outside of any runtime, and has nothing else to do.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let answered = runtime.block_on(async {
            let late = |_| HttpError::from(io::Error::from(io::ErrorKind::TimedOut));
            timeout(self.timeout, exchange(request)).await.map_err(late)?
        });
        // A name lookup that still runs must not hold the thread up.
        runtime.shutdown_background();
        match &answered {
            Err(error) => lost(error),
            Ok(answer) if !answer.status().is_success() => {
                lost(&format_args!("the collector says {}", answer.status()))
            }
            Ok(_) => {}
        }
        answered
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(uri: &Uri) -> Result<Box<dyn Stream>, HttpError> {
    let https = uri.scheme() == Some(&Scheme::HTTPS);
    let host = uri.host().ok_or("the endpoint names no host")?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    if !https {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host.to_owned())?;
    let stream = TlsConnector::from(tls()?).connect(name, stream).await?;
    Ok(Box::new(stream))
}

async fn exchange(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let stream = connect(request.uri()).await?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = request.map(Full::new);
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str())?;
        request.headers_mut().insert(HOST, host);
    }
    // Scheme and authority in the request line are for proxies.
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}
