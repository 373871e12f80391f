//! Connections between the functions of one process, which no kernel socket carries: what their launcher tells the agent.
//!
//! Such a process is one registration, with its functions in [`FunctionSpec::members`]. The agent cannot see what they say to
//! each other; a [`Reporter`] in the process tells it.
//!
//! [`FunctionSpec::members`]: crate::protocol::FunctionSpec::members

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::client::{Client, ClientError};
use crate::protocol::{ApiError, ErrorCode};

/// Most connections that a report may list: as many as fit into a request with names and addresses of usual length.
pub const MAX_CONNECTIONS: usize = 256;

/// How often a [`Reporter`] looks.
pub const EVERY: Duration = Duration::from_secs(1);

/// How often a [`Reporter`] repeats what has not changed, for an agent that was started anew.
pub const REPEAT: Duration = Duration::from_secs(5);

/// Longest wait of a [`Reporter`] for each answer of the agent.
const TIMEOUT: Duration = Duration::from_millis(200);

/// Which registration something is said of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionRef {
    /// The one with this id, as [`Registered::id`](crate::protocol::Registered::id) gave it.
    Id(u32),
    /// The one of this cgroup directory, an absolute path. It stays right when the function is registered anew.
    Cgroup(PathBuf),
}

/// The in-process connections of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessReport {
    /// Since the process began.
    #[serde(default)]
    pub totals: ProcessTotals,
    /// Open connections, listed or not.
    #[serde(default)]
    pub open: u64,
    /// Open connections, at most [`MAX_CONNECTIONS`] of them.
    #[serde(default)]
    pub connections: Vec<ProcessConnection>,
}

/// Sums over all in-process connections of a process, open and closed. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTotals {
    /// Connections that were opened.
    pub connections: u64,
    /// Writes of the guests, in either direction.
    pub messages: u64,
    /// Bytes that they wrote.
    pub bytes: u64,
}

/// An open in-process connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessConnection {
    /// The end that connected.
    pub client: ProcessEnd,
    /// The end that accepted.
    pub server: ProcessEnd,
    /// When it was established: [`monotonic_ns`] of then.
    pub established_ns: u64,
}

/// One end of an in-process connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEnd {
    /// Name of the function, one of the registration's members.
    pub function: String,
    /// Local address as this function sees it, and remote address as the other one does.
    pub address: SocketAddr,
    /// Writes of this function.
    pub messages: u64,
    /// Bytes that it wrote.
    pub bytes: u64,
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of [`ProcessConnection::established_ns`] and of the kernel's own flows.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// A thread that tells the agent of this process's connections, and that there are none left when it ends.
///
/// That there is no agent, or one that does not know the function, is no error: it is tried again at the next look.
#[derive(Debug)]
pub struct Reporter {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Asks `report` every [`EVERY`], and sends what it returns to the agent on `socket` when that changed, or was last sent
    /// [`REPEAT`] ago. A process without any in-process connection sends nothing.
    ///
    /// `refused` is called, once, with what the agent says when it does not take what it is sent: until `report` returns
    /// something else, what passes in this process is not shown anywhere.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(
        socket: PathBuf,
        of: FunctionRef,
        mut report: impl FnMut() -> ProcessReport + Send + 'static,
        refused: impl FnOnce(ApiError) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let run = move || {
            let mut told = Told::new(socket, of, refused);
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                told.tell(report(), Instant::now());
            }
            let last = ProcessReport {
                open: 0,
                connections: Vec::new(),
                ..report()
            };
            told.tell(last, Instant::now());
        };
        let thread = thread::Builder::new()
            .name("cwasi-reporter".to_owned())
            .spawn(run)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Reporter {
    /// Sends the last totals, with no connection open, and waits for that: at most two seconds, whatever the agent does.
    /// To be done before the function is unregistered.
    fn drop(&mut self) {
        drop(self.stop.take());
        // Where `report` drops what holds the reporter, this is its own thread.
        let other = |thread: &JoinHandle<()>| thread.thread().id() != thread::current().id();
        if let Some(thread) = self.thread.take().filter(other) {
            let _ = thread.join();
        }
    }
}

/// What the agent was told.
struct Told<F> {
    socket: PathBuf,
    of: FunctionRef,
    /// The last report that the agent took, and when.
    last: Option<(ProcessReport, Instant)>,
    /// Hears of the first report that the agent does not take.
    refused: Option<F>,
}

impl<F: FnOnce(ApiError)> Told<F> {
    const fn new(socket: PathBuf, of: FunctionRef, refused: F) -> Self {
        Self {
            socket,
            of,
            last: None,
            refused: Some(refused),
        }
    }

    /// Sends the report where it is news.
    fn tell(&mut self, report: ProcessReport, now: Instant) {
        let is_known = match &self.last {
            None => report == ProcessReport::default(),
            Some((last, at)) => *last == report && now.saturating_duration_since(*at) < REPEAT,
        };
        if is_known {
            return;
        }
        let sent = self.send(&report);
        self.last = sent.is_ok().then_some((report, now));
        // Not yet registered, or no longer, is how functions begin and end.
        if let Err(ClientError::Refused(error)) = sent
            && error.code != ErrorCode::NotFound
            && let Some(refused) = self.refused.take()
        {
            refused(error);
        }
    }

    /// Connects for each report: an agent keeps few connections, and closes those that are silent.
    fn send(&self, report: &ProcessReport) -> Result<(), ClientError> {
        Client::connect_timeout(&self.socket, TIMEOUT)?.report_process(&self.of, report)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::sync::mpsc::{Receiver, Sender};

    use super::*;
    use crate::protocol::{FunctionSpec, MAX_REQUEST_BYTES, Request};

    fn end(function: &str, port: u16) -> ProcessEnd {
        ProcessEnd {
            function: function.to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            messages: 1,
            bytes: 2,
        }
    }

    fn report(messages: u64, connections: usize) -> ProcessReport {
        let connection = ProcessConnection {
            client: end("a", 40_000),
            server: end("b", 80),
            established_ns: 5,
        };
        ProcessReport {
            totals: ProcessTotals {
                connections: connections as u64,
                messages,
                bytes: 10 * messages,
            },
            open: connections as u64,
            connections: vec![connection; connections],
        }
    }

    fn not_refused(error: ApiError) {
        panic!("refused: {error}");
    }

    /// An agent that takes every report and passes it on; it ends with the receiver.
    fn agent(path: &Path) -> Receiver<(FunctionRef, ProcessReport)> {
        let listener = UnixListener::bind(path).unwrap();
        let (told, reports): (Sender<(FunctionRef, ProcessReport)>, _) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                assert!(line.len() <= MAX_REQUEST_BYTES);
                let Ok(Request::ReportProcess { of, report }) = serde_json::from_str(&line) else {
                    panic!("{line}");
                };
                (&stream).write_all(b"{\"ok\":\"done\"}\n").unwrap();
                if told.send((of, report)).is_err() {
                    return;
                }
            }
        });
        reports
    }

    #[test]
    fn the_words_of_a_report_are_these() {
        let request = Request::ReportProcess {
            of: FunctionRef::Cgroup("/sys/fs/cgroup/x".into()),
            report: report(3, 1),
        };
        let text = serde_json::to_string(&request).unwrap();
        let end = |name, port| {
            format!(r#"{{"function":"{name}","address":"127.0.0.1:{port}","messages":1,"bytes":2}}"#)
        };
        assert_eq!(
            text,
            format!(
                r#"{{"method":"report_process","of":{{"cgroup":"/sys/fs/cgroup/x"}},"report":{{"totals":{{"connections":1,"messages":3,"bytes":30}},"open":1,"connections":[{{"client":{},"server":{},"established_ns":5}}]}}}}"#,
                end("a", 40_000),
                end("b", 80)
            )
        );
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        let short = r#"{"method":"report_process","of":{"id":7},"report":{}}"#;
        assert_eq!(
            serde_json::from_str::<Request>(short).unwrap(),
            Request::ReportProcess {
                of: FunctionRef::Id(7),
                report: ProcessReport::default()
            }
        );
    }

    #[test]
    fn a_launcher_that_knows_no_members_registers_as_before() {
        let spec = FunctionSpec {
            name: "echo".to_owned(),
            namespace: "default".to_owned(),
            ..FunctionSpec::default()
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert!(!text.contains("members"), "an older agent takes it: {text}");
        assert_eq!(serde_json::from_str::<FunctionSpec>(&text).unwrap(), spec);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let reports = agent(&path);
        let send = |report: &ProcessReport| {
            let mut client = Client::connect(&path).unwrap();
            client.report_process(&FunctionRef::Id(1), report).unwrap();
            reports.recv().unwrap().1
        };
        let usual = send(&report(1, MAX_CONNECTIONS));
        assert_eq!(usual.connections.len(), MAX_CONNECTIONS);
        let many = send(&report(1, 5000));
        assert_eq!((many.connections.len(), many.open), (MAX_CONNECTIONS, 5000));
        let mut long = report(1, 200);
        for connection in &mut long.connections {
            connection.client.function = "x".repeat(253);
            connection.server.function = "y".repeat(253);
        }
        let sent = send(&long);
        assert!(
            (50..200).contains(&sent.connections.len()),
            "{}",
            sent.connections.len()
        );
        assert_eq!(sent.totals, long.totals);
    }

    #[test]
    fn news_are_told_at_once_and_the_rest_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let of = FunctionRef::Id(3);
        let mut told = Told::new(path.clone(), of.clone(), not_refused);
        let start = Instant::now();
        told.tell(report(1, 1), start);
        assert!(told.last.is_none(), "there is no agent");
        let reports = agent(&path);
        told.tell(ProcessReport::default(), start);
        assert!(reports.try_recv().is_err(), "nothing to tell of");
        told.tell(report(1, 1), start);
        assert_eq!(reports.recv().unwrap(), (of, report(1, 1)));
        told.tell(report(1, 1), start + REPEAT / 2);
        assert!(reports.try_recv().is_err(), "not new");
        told.tell(report(2, 1), start + REPEAT / 2);
        assert_eq!(reports.recv().unwrap().1, report(2, 1));
        told.tell(report(2, 1), start + 2 * REPEAT);
        assert_eq!(
            reports.recv().unwrap().1,
            report(2, 1),
            "an agent may be a new one"
        );
    }

    #[test]
    fn a_reporter_may_be_dropped_by_what_it_asks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let (keeper, kept) = channel::<Reporter>();
        let (done, is_done) = channel();
        let ask = move || {
            drop(kept.try_recv());
            let _ = done.send(());
            report(1, 1)
        };
        keeper
            .send(Reporter::start(path, FunctionRef::Id(1), ask, not_refused).unwrap())
            .unwrap();
        is_done.recv().unwrap();
        while is_done.recv().is_ok() {}
    }

    #[test]
    fn the_last_report_is_sent_before_the_reporter_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let reporter =
            Reporter::start(path.clone(), FunctionRef::Id(1), || report(9, 2), not_refused).unwrap();
        let reports = agent(&path);
        drop(reporter);
        let (_, last) = reports.try_iter().last().unwrap();
        assert_eq!(last.totals, report(9, 2).totals);
        assert_eq!((last.open, last.connections.len()), (0, 0));
        // Nobody to tell: it ends all the same.
        let path = dir.path().join("nobody.sock");
        drop(Reporter::start(path, FunctionRef::Id(1), || report(9, 2), not_refused).unwrap());
    }
}
