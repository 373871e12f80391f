//! The messages of the agent's Unix socket: one JSON object a line, one [`Response`] for each [`Request`], in order.
//!
//! A connection may carry any number of requests. Closing it changes nothing: a registration ends with
//! [`Request::Unregister`], [`Request::UnregisterCgroup`] or with its cgroup.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::process_report::{FunctionRef, ProcessReport};

/// Longest request line that the agent reads, in bytes, newline included.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Most addresses that a launcher may name.
pub const MAX_ADDRESSES: usize = 64;

/// What a caller asks of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Make the processes of a cgroup a function. Registering a cgroup again replaces what was said of it and keeps its id.
    Register(FunctionSpec),
    /// Forget a function; its open connections go on as they are.
    Unregister {
        /// The id that [`Registered::id`] gave.
        id: u32,
    },
    /// Forget the function of a cgroup; its open connections go on as they are. When there is none, all is as asked for.
    UnregisterCgroup {
        /// Absolute path of the cgroup's directory, which may be gone already.
        cgroup: PathBuf,
    },
    /// Tell of the connections between the functions of one process, in the place of what was told before.
    ReportProcess {
        /// The registration of the process.
        of: FunctionRef,
        /// Its connections.
        report: ProcessReport,
    },
    /// Health and totals of the agent.
    Status,
    /// Every registered function.
    Functions,
    /// Every connection that has at least one enrolled end, and those inside of processes as far as these list them.
    Flows,
    /// What happened to connections, as far as the agent still remembers it.
    Events {
        /// The [`Events::next`] of the answer before, 0 for everything remembered.
        after: u64,
    },
    /// Which path a connection from a function to an address would take.
    Explain {
        /// Name (`namespace/name`, or `name` in `default`) or address of the connecting function.
        src: String,
        /// Address, `address:port`, or name of the function connected to.
        dst: String,
    },
    /// Turn acceleration on or off; open connections move at their next send.
    SetEnabled {
        /// Whether the kernel may redirect.
        enabled: bool,
    },
    /// Take programs and pins out of the kernel, then end the agent.
    Unload,
    /// Version of the agent.
    Version,
}

/// A function as its launcher describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    /// Name, unique in its namespace only by convention.
    pub name: String,
    /// Kubernetes namespace, `default` when the launcher knows none.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Pod that the function belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Container in that pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Names of the functions that run in the one process of this registration; empty where the process is one function.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// Labels and annotations that operators select by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Directory of the function's cgroup v2 leaf; the caller's own cgroup when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Network namespace file of the function; the caller's own when absent. It is not looked at where `addresses` are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Which of its sockets may be accelerated.
    #[serde(default)]
    pub sockets: Sockets,
    /// Addresses on which the function can be reached; those of the network namespace's interfaces when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// Which sockets of a function may be accelerated.
///
/// A read that sleeps in the kernel on an accelerated socket returns EAGAIN when a signal, or the ACK of its own FIN, wakes it.
/// Programs that wait in poll or epoll, as every Wasm runtime does, never see it. A read can also come short although there is
/// more: programs that wait level-triggered are told of the rest, others must read until EAGAIN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sockets {
    /// Those that are non-blocking when the connection is made; accepted ones, when their listener is. They are sent to by the
    /// accelerated path while they are polled level-triggered.
    #[default]
    NonBlocking,
    /// All: none is ever read blocking, or the program handles EAGAIN; and where it waits edge-triggered, it reads until EAGAIN.
    All,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// What the agent answers: `{"ok": …}` or `{"error": …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The request was carried out.
    Ok(Reply),
    /// The request was refused and changed nothing.
    Error(ApiError),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Reason for programs.
    pub code: ErrorCode,
    /// Reason and remedy for people, one line.
    pub message: String,
}

/// Reasons for which a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is not a request.
    Malformed,
    /// A field's value cannot be used.
    Invalid,
    /// The caller is not root.
    PermissionDenied,
    /// The named function is not registered.
    NotFound,
    /// A limit is reached (functions, map entries).
    Exhausted,
    /// The agent failed; its log has the details.
    Internal,
}

/// Answers by request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Register`].
    Registered(Registered),
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Functions`].
    Functions(Vec<Function>),
    /// To [`Request::Flows`].
    Flows(Vec<Flow>),
    /// To [`Request::Events`].
    Events(Events),
    /// To [`Request::Explain`].
    Explanation(Explanation),
    /// To [`Request::Version`].
    Version(Version),
    /// To requests that have nothing to tell.
    Done,
}

/// The agent's answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The function's id on this node, from 1.
    pub id: u32,
    /// Whether new connections of the function may be redirected in the kernel.
    pub accelerated: bool,
    /// Why not, when they may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Health and totals of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Build of the agent.
    pub version: Version,
    /// Whether connections are redirected: enabled by the operator and not degraded.
    pub accelerating: bool,
    /// The operator's switch.
    pub enabled: bool,
    /// Everything that keeps the data plane from working as it should; empty when all is well.
    pub degraded: Vec<Degradation>,
    /// How the peer's queue is measured on this kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_measure: Option<String>,
    /// Most bytes that may wait in one receiver's redirect queue.
    pub budget_bytes: u32,
    /// Registered functions.
    pub functions: usize,
    /// Open connections by path.
    pub flows: PathCounts,
    /// Sum over all connections, open and closed.
    pub traffic: Traffic,
    /// Connections that stayed on TCP or went back to it, by reason.
    pub fallbacks: BTreeMap<String, u64>,
    /// Directory of the pins.
    pub bpffs: PathBuf,
    /// Where metrics are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_addr: Option<SocketAddr>,
    /// Fill of the kernel maps.
    pub maps: Vec<MapUsage>,
}

/// One thing that is wrong, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degradation {
    /// Reason for programs, such as `self_test_order`.
    pub reason: String,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
    pub remedy: String,
}

/// Number of open connections by path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathCounts {
    /// Both directions' last message was redirected, or one's and the other is silent.
    pub kernel: u64,
    /// Carried by TCP.
    pub network: u64,
    /// Inside of a process, as the process tells.
    #[serde(default)]
    pub process: u64,
}

/// Messages and bytes by path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Messages moved by the kernel program.
    pub redirect_messages: u64,
    /// Bytes moved by the kernel program.
    pub redirect_bytes: u64,
    /// Messages of enrolled connections that went by TCP.
    pub tcp_messages: u64,
    /// Bytes of enrolled connections that went by TCP.
    pub tcp_bytes: u64,
    /// Changes from TCP to redirect.
    pub to_redirect: u64,
    /// Changes from redirect to TCP.
    pub to_tcp: u64,
    /// Ends of connections that were enrolled; a connection between two functions of the node has two.
    pub connections: u64,
    /// Messages of connections inside of processes.
    #[serde(default)]
    pub process_messages: u64,
    /// Bytes of connections inside of processes.
    #[serde(default)]
    pub process_bytes: u64,
    /// Connections inside of processes; of one connection, 1 at the end that connected.
    #[serde(default)]
    pub process_connections: u64,
}

/// Fill of a kernel map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapUsage {
    /// Map name.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries that fit.
    pub capacity: u64,
}

/// A registered function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Id on this node.
    pub id: u32,
    /// What its launcher said, with the agent's findings where it said nothing.
    pub spec: FunctionSpec,
    /// Inode of the cgroup directory, which is the id the kernel knows.
    pub cgroup_id: u64,
    /// Process that registered it, from its socket credentials; 0 when the agent does not see it, or registered the function by
    /// its announcement ([`crate::announce`]).
    pub registered_by: u32,
    /// Whether new connections may be redirected.
    pub accelerated: bool,
    /// Why not, when they may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the function sent, over all its connections.
    pub sent: Traffic,
}

/// One end of a connection: what a function sends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Cookie of the sending socket, as `ss -e` shows it; 0 on the path `process`, where there is no socket.
    pub cookie: u64,
    /// Sending function (`namespace/name`).
    pub src: String,
    /// Receiving function, when the peer is enrolled on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<String>,
    /// Address of the sending socket.
    pub local: SocketAddr,
    /// Address to which it is connected.
    pub remote: SocketAddr,
    /// `kernel` or `network`: where its last message went. `process`: its bytes stay inside of one process.
    pub path: String,
    /// Why it is on `network`, when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was sent.
    pub sent: Traffic,
    /// Seconds since the connection was established.
    pub age_seconds: u64,
}

/// What happened to connections since an earlier [`Request::Events`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// To be given in the next request.
    pub next: u64,
    /// Events in between that were forgotten: more came than the agent remembers.
    pub skipped: u64,
    /// The events, oldest first.
    pub events: Vec<FlowEvent>,
}

/// Something that happened to one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEvent {
    /// `enrolled`, `closed`, or `left_to_tcp` where the kernel would not enrol it.
    pub kind: String,
    /// Why, for `left_to_tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Function of the socket.
    pub src: String,
    /// Function of the peer, when it is enrolled on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<String>,
    /// Address of the socket.
    pub local: SocketAddr,
    /// Address to which it is connected.
    pub remote: SocketAddr,
    /// What was sent, for `closed`.
    pub sent: Traffic,
}

/// Which path a connection would take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `process`, `kernel`, `network`, or `depends` where only the handshake can tell.
    pub path: String,
    /// The steps of the decision, in order.
    pub steps: Vec<String>,
    /// The entry of the locality map that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<IpNet>,
}

/// Build of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Version of the crate.
    pub version: String,
    /// Version of the layout of the pinned maps.
    pub layout: u32,
    /// SHA-256 of the embedded eBPF object, in hex.
    pub object_sha256: String,
}
