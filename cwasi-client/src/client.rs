//! A blocking client of the agent's socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::process_report::{FunctionRef, MAX_CONNECTIONS, ProcessReport};
use crate::protocol::{ApiError, FunctionSpec, MAX_REQUEST_BYTES, Registered, Reply, Request, Response};

/// How long a connection, and each read and write on it, may take unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer that the client reads: the flows of a full node, in the kernel and inside of processes, are about 64 MiB.
const MAX_RESPONSE_BYTES: u64 = 128 << 20;

/// Why the agent could not be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// no agent answers on {path}: {source}
    #[error("no agent answers on {path}: {source}")]
    NoAgent {
        /// The agent's socket.
        path: PathBuf,
        /// Error of `connect`.
        source: io::Error,
    },
    /// the agent's socket {path} is not open to this user; run this as root
    #[error("the agent's socket {path} is not open to this user; run this as root")]
    Denied {
        /// The agent's socket.
        path: PathBuf,
    },
    /// cannot connect to {path}: {source}
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// The agent's socket.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// the agent does not answer: {call} failed: {source}
    #[error("the agent does not answer: {call} failed: {source}")]
    Io {
        /// The call that failed.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// the agent does not answer in time; it may still be starting, or busy: see its log and /readyz
    #[error("the agent does not answer in time; it may still be starting, or busy: see its log and /readyz")]
    Slow,
    /// the agent closed the connection without an answer
    #[error("the agent closed the connection without an answer")]
    Closed,
    /// the request is {0} bytes long, the agent reads at most 65536
    #[error("the request is {0} bytes long, the agent reads at most {MAX_REQUEST_BYTES}")]
    TooLong(usize),
    /// the agent's answer is not of this protocol: {0}
    #[error("the agent's answer is not of this protocol: {0}")]
    Protocol(String),
    /// the agent refused
    #[error(transparent)]
    Refused(#[from] ApiError),
}

impl ClientError {
    /// Whether nothing at all listens on the socket, as opposed to an agent that refuses or fails.
    #[must_use]
    pub const fn is_no_agent(&self) -> bool {
        matches!(self, Self::NoAgent { .. })
    }
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the agent that listens on `path`.
    ///
    /// # Errors
    /// [`ClientError::NoAgent`] when nothing listens there, [`ClientError::Denied`] without the right to connect.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_timeout(path, DEFAULT_TIMEOUT)
    }

    /// Connects like [`Client::connect`]; the connect and each later read and write may take `timeout`.
    ///
    /// # Errors
    /// See [`Client::connect`]; an agent that is stopped and whose backlog is full counts as none.
    pub fn connect_timeout(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let failed = |errno: Errno| {
            let (path, source) = (path.to_owned(), io::Error::from(errno));
            match errno {
                Errno::ENOENT | Errno::ECONNREFUSED | Errno::EAGAIN | Errno::ENOTSOCK => {
                    ClientError::NoAgent { path, source }
                }
                Errno::EACCES | Errno::EPERM => ClientError::Denied { path },
                _ => ClientError::Connect { path, source },
            }
        };
        let address = UnixAddr::new(path).map_err(failed)?;
        let socket = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(failed)?;
        // Set before the connect, SO_SNDTIMEO bounds it too; std has no timeout for Unix sockets.
        let time = TimeVal::microseconds(i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX).max(1));
        setsockopt(&socket, sockopt::SendTimeout, &time).map_err(failed)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &time).map_err(failed)?;
        connect(socket.as_raw_fd(), &address).map_err(failed)?;
        Ok(Self {
            stream: BufReader::new(UnixStream::from(socket)),
        })
    }

    /// Makes a cgroup's processes a function.
    ///
    /// # Errors
    /// The agent refused, or did not answer.
    pub fn register(&mut self, spec: &FunctionSpec) -> Result<Registered, ClientError> {
        match self.call(&Request::Register(spec.clone()))? {
            Reply::Registered(registered) => Ok(registered),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes the agent forget the function `id`.
    ///
    /// # Errors
    /// No function has that id, or the agent did not answer.
    pub fn unregister(&mut self, id: u32) -> Result<(), ClientError> {
        match self.call(&Request::Unregister { id })? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes the agent forget the function of a cgroup, which may be gone already. No function is no error.
    ///
    /// # Errors
    /// The path is not absolute, or the agent did not answer.
    pub fn unregister_cgroup(&mut self, cgroup: &Path) -> Result<(), ClientError> {
        let cgroup = cgroup.to_owned();
        match self.call(&Request::UnregisterCgroup { cgroup })? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Tells of the connections inside of a function's process. Of those that do not fit into a request, the last ones are
    /// left out.
    ///
    /// # Errors
    /// No such function is registered, a name cannot be used, or the agent did not answer.
    pub fn report_process(&mut self, of: &FunctionRef, report: &ProcessReport) -> Result<(), ClientError> {
        let mut listed = report.connections.len().min(MAX_CONNECTIONS);
        loop {
            let report = ProcessReport {
                connections: report.connections[..listed].to_vec(),
                ..*report
            };
            match self.call(&Request::ReportProcess {
                of: of.clone(),
                report,
            }) {
                // Nothing was sent yet.
                Err(ClientError::TooLong(_)) if listed > 0 => listed = listed * 3 / 4,
                reply => {
                    return match reply? {
                        Reply::Done => Ok(()),
                        other => Err(unexpected(&other)),
                    };
                }
            }
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The agent refused, or did not answer. After an error other than [`ClientError::Refused`] the connection is of no
    /// more use.
    pub fn call(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let mut line =
            serde_json::to_vec(request).map_err(|error| ClientError::Protocol(error.to_string()))?;
        line.push(b'\n');
        if line.len() > MAX_REQUEST_BYTES {
            return Err(ClientError::TooLong(line.len()));
        }
        match self.stream.get_mut().write_all(&line) {
            // An agent that refuses the connection says why before it closes it: read that.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(ClientError::Io {
                    call: "write",
                    source: error,
                });
            }
            _ => {}
        }
        let mut answer = Vec::new();
        (&mut self.stream)
            .take(MAX_RESPONSE_BYTES)
            .read_until(b'\n', &mut answer)
            .map_err(|source| match source.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Slow,
                _ => ClientError::Io { call: "read", source },
            })?;
        if answer.last() != Some(&b'\n') {
            return Err(if answer.is_empty() {
                ClientError::Closed
            } else {
                ClientError::Protocol(format!("it ends after {} bytes", answer.len()))
            });
        }
        decode(&answer)
    }
}

/// Reads an answer, one line of the agent's.
///
/// # Errors
/// [`ClientError::Refused`] when it is a refusal, [`ClientError::Protocol`] when it is none of the protocol.
pub fn decode(answer: &[u8]) -> Result<Reply, ClientError> {
    match serde_json::from_slice(answer).map_err(|error| ClientError::Protocol(error.to_string()))? {
        Response::Ok(reply) => Ok(reply),
        Response::Error(error) => Err(ClientError::Refused(error)),
    }
}

/// The error of an answer to another question. A long one is not repeated.
fn unexpected(reply: &Reply) -> ClientError {
    let kind = match reply {
        Reply::Registered(_) => "a registration",
        Reply::Status(_) => "a status",
        Reply::Functions(_) => "functions",
        Reply::Flows(_) => "flows",
        Reply::Events(_) => "events",
        Reply::Explanation(_) => "an explanation",
        Reply::Version(_) => "a version",
        Reply::Done => "no content",
    };
    ClientError::Protocol(format!("it is of another question: {kind}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::protocol::ErrorCode;

    /// A client whose agent reads one line and answers `answer`.
    fn against(answer: &'static [u8]) -> Client {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            stream.write_all(answer).unwrap();
        });
        Client::connect(&path).unwrap()
    }

    #[test]
    fn answers_are_told_apart() {
        let mut client = against(b"{\"ok\":{\"registered\":{\"id\":7,\"accelerated\":true}}}\n");
        let registered = client.register(&FunctionSpec::default()).unwrap();
        assert_eq!(
            registered,
            Registered {
                id: 7,
                accelerated: true,
                reason: None
            }
        );

        let mut client = against(b"{\"error\":{\"code\":\"not_found\",\"message\":\"no function 9\"}}\n");
        let error = client.unregister(9).unwrap_err();
        assert_eq!(error.to_string(), "no function 9");
        assert!(matches!(
            error,
            ClientError::Refused(ApiError {
                code: ErrorCode::NotFound,
                ..
            })
        ));

        assert!(matches!(against(b"").unregister(1), Err(ClientError::Closed)));
        assert!(matches!(
            against(b"hello\n").unregister(1),
            Err(ClientError::Protocol(_))
        ));
        assert!(matches!(
            against(b"{\"ok\":\"do").unregister(1),
            Err(ClientError::Protocol(_))
        ));
        assert!(matches!(
            against(b"{\"ok\":{\"flows\":[]}}\n").unregister(1),
            Err(ClientError::Protocol(_))
        ));
    }

    #[test]
    fn missing_agent_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let error = Client::connect(&path).unwrap_err();
        assert!(error.is_no_agent());
        assert!(
            error
                .to_string()
                .starts_with(&format!("no agent answers on {}", path.display())),
            "{error}"
        );

        drop(UnixListener::bind(&path).unwrap());
        assert!(
            Client::connect(&path).unwrap_err().is_no_agent(),
            "a socket file that nobody listens on"
        );
    }

    #[test]
    fn silent_agent_times_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut client = Client::connect_timeout(&path, Duration::from_millis(20)).unwrap();
        assert!(matches!(client.call(&Request::Version), Err(ClientError::Slow)));
    }

    #[test]
    fn long_request_is_not_sent() {
        let spec = FunctionSpec {
            name: "x".repeat(MAX_REQUEST_BYTES),
            ..FunctionSpec::default()
        };
        assert!(matches!(
            against(b"").register(&spec),
            Err(ClientError::TooLong(_))
        ));
    }
}
