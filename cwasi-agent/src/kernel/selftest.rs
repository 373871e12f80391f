//! Proof, on private sockets, in a private network namespace where one can be made, that this kernel does what the data plane needs.
//!
//! Kernel versions lie (backports, vendors): what is trusted is what was seen. The test tries each way to measure the
//! receiver's queue, best first, and the first that passes every check is the one to use.

use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::lpm_trie::Key;
use cwasi_client::cgroup::{self, Leaf};
use cwasi_ebpf_common::maps::{
    Config, Flow, FunctionEntry, Locality, Sockets, TrafficEntry, TrafficKey, names,
};
use cwasi_ebpf_common::offsets::QueueMeasure;
use cwasi_ebpf_common::reason::Reason;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};

use super::error::PlaneError;
use super::links;
use super::object::{Loaded, Object};
use super::plane::Maps;
use super::sockets::SocketFactory;

/// How long a step may take before the kernel is called broken, which is looked at again later.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a socket may stay in the sockhash after both ends were closed, which removes it before close(2) returns.
const LINGER: Duration = Duration::from_secs(1);
/// Enough to find a queue that is not bounded, and too little to hurt a node.
const FLOOD: usize = 48 << 20;
/// What the queue may hold above its budget: one message, and what TCP itself buffers.
const SLACK: u64 = 1 << 20;

/// One thing that the kernel was seen to do, or not.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// One of [`CHECKS`].
    pub name: &'static str,
    /// Whether it works.
    pub passed: bool,
    /// What was seen.
    pub detail: String,
}

/// What the self-test found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Every check, for the measure chosen, or for the last one tried.
    pub checks: Vec<Check>,
    /// The measure with which every check passed.
    pub measure: Option<QueueMeasure>,
}

/// Names of the checks, in order.
pub const CHECKS: [&str; 5] = [
    "redirect",
    "queue_charged",
    "order_across_spill",
    "eof_after_data",
    "unaccepted_removed",
];

/// What is seen of the checks after one that failed.
pub const NOT_TRIED: &str = "not tried, an earlier check failed";

/// Tries each queue measure until one passes every check.
#[must_use]
pub fn run() -> Report {
    let mut checks = Vec::new();
    for measure in QueueMeasure::ALL {
        // A network namespace belongs to a thread: this one ends with it.
        let tried = std::thread::spawn(move || try_measure(measure)).join();
        checks = tried.unwrap_or_else(|_| failed(0, "the self-test panicked"));
        if checks.iter().all(|check| check.passed) {
            return Report {
                checks,
                measure: Some(measure),
            };
        }
    }
    Report {
        checks,
        measure: None,
    }
}

/// Every check, with one way to measure the queue.
#[must_use]
pub fn try_measure(measure: QueueMeasure) -> Vec<Check> {
    let mut bench = match Bench::new(measure) {
        Ok(bench) => bench,
        Err(error) => return failed(0, &format!("{}: {error}", measure.label())),
    };
    let steps = [
        Bench::redirect,
        Bench::queue_charged,
        Bench::order_across_spill,
        Bench::eof_after_data,
        Bench::unaccepted_removed,
    ];
    let mut checks = Vec::new();
    for (name, step) in CHECKS.into_iter().zip(steps) {
        match step(&mut bench) {
            Ok(detail) => checks.push(Check {
                name,
                passed: true,
                detail: format!("{}: {detail}", measure.label()),
            }),
            Err(error) => {
                checks.push(Check {
                    name,
                    passed: false,
                    detail: format!("{}: {error}", measure.label()),
                });
                // The stream is in an unknown state: what follows would only repeat the failure.
                checks.extend(failed(checks.len(), NOT_TRIED));
                break;
            }
        }
    }
    checks
}

fn failed(from: usize, detail: &str) -> Vec<Check> {
    CHECKS
        .into_iter()
        .skip(from)
        .map(|name| Check {
            name,
            passed: false,
            detail: detail.to_owned(),
        })
        .collect()
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The plane could not be loaded.
    #[error("{0}")]
    Plane(#[from] PlaneError),
    /// The cgroup could not be made.
    #[error("{0}")]
    Cgroup(#[from] cgroup::CgroupError),
    /// A socket call failed.
    #[error("{call}: {source}")]
    Socket { call: &'static str, source: io::Error },
    /// A socket call took too long.
    #[error("{0}: not done within {seconds} s; the node may be short of memory, or too busy", seconds = PATIENCE.as_secs())]
    Slow(&'static str),
    /// The kernel did something else.
    #[error("{0}")]
    Wrong(String),
}

fn call(call: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |source| match source.kind() {
        ErrorKind::WouldBlock => Failure::Slow(call),
        _ => Failure::Socket { call, source },
    }
}

/// A connected pair of private sockets under a private instance of the programs.
struct Bench {
    maps: Maps,
    sender: TcpStream,
    receiver: TcpStream,
    sent: u64,
    received: u64,
    factory: SocketFactory,
    // What follows is kept until the sockets are closed.
    _links: (aya::programs::links::FdLink, aya::programs::sk_msg::SkMsgLink),
    _object: Loaded,
    _place: Place,
}

/// The cgroup of the sockets.
enum Place {
    /// One of their own.
    Leaf(Leaf),
    /// This process's, in which it is alone: a user that is not root may not enter another, nor may a cgroup namespace.
    Own(PathBuf),
}

impl Place {
    /// Finds one, and enters it with a child that makes sockets.
    fn enter(netns: Option<&Path>) -> Result<(Self, SocketFactory), Failure> {
        let start =
            |cgroup: Option<&Path>| SocketFactory::start(cgroup, netns).map_err(call("enter the cgroup"));
        let entered = Leaf::create("selftest").map_err(Failure::from).and_then(|leaf| {
            let factory = start(Some(leaf.path()))?;
            Ok((Self::Leaf(leaf), factory))
        });
        entered.or_else(|refused| match cgroup::alone()? {
            Some(own) => Ok((Self::Own(own), start(None)?)),
            None => Err(refused),
        })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Leaf(leaf) => leaf.path(),
            Self::Own(path) => path,
        }
    }

    fn id(&self) -> Result<u64, Failure> {
        Ok(cgroup::id(self.path())?)
    }
}

impl Bench {
    fn new(measure: QueueMeasure) -> Result<Self, Failure> {
        let netns = private_netns().map_err(call("make a network namespace"))?;
        let (place, mut factory) = Place::enter(netns.as_deref())?;
        let mut object = Loaded::load(Object::embedded(), measure, None, None)?;
        let mut maps = Maps::take(&mut object)?;
        let verdict = maps.attach_verdict(&mut object)?;
        configure(&mut maps, place.id()?)?;
        let link = links::attach(object.sock_ops()?, place.path())?;
        let (sender, receiver) = connect(&mut factory).map_err(call("connect"))?;
        Ok(Self {
            maps,
            sender,
            receiver,
            sent: 0,
            received: 0,
            factory,
            _links: (link, verdict),
            _object: object,
            _place: place,
        })
    }

    fn redirect(&mut self) -> Result<String, Failure> {
        for _ in 0..4 {
            self.send(1000).map_err(call("send"))?;
            self.expect(1000)?;
        }
        let flow = self.flow()?;
        match flow.sent.redirect_messages {
            0 => {
                let reason = Reason::from_index(flow.reason).map_or("unknown", Reason::label);
                Err(Failure::Wrong(format!(
                    "4 messages sent, none was redirected, the last one for {reason}"
                )))
            }
            redirected => Ok(format!("{redirected} of 4 messages redirected")),
        }
    }

    /// Nobody reads: the queue must stop growing near its budget, and the sender must be stopped by TCP.
    fn queue_charged(&mut self) -> Result<String, Failure> {
        let before = self.flow()?.sent;
        self.sender
            .set_nonblocking(true)
            .map_err(call("set_nonblocking"))?;
        let mut flooded = 0;
        while flooded < FLOOD {
            match self.send(32 << 10) {
                Ok(sent) => flooded += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    return Err(Failure::Socket {
                        call: "send to an idle reader",
                        source: error,
                    });
                }
            }
        }
        self.sender.set_nonblocking(false).map_err(call("set_blocking"))?;
        let after = self.flow()?.sent;
        let queued = after.redirect_bytes - before.redirect_bytes;
        if queued > u64::from(Config::MIN_BUDGET) + SLACK || flooded >= FLOOD {
            return Err(Failure::Wrong(format!(
                "an idle reader's queue grew to {queued} bytes"
            )));
        }
        if after.to_tcp == before.to_tcp {
            return Err(Failure::Wrong("the sender never went back to TCP".to_owned()));
        }
        Ok(format!(
            "{queued} bytes queued, then TCP took {} and stopped",
            after.tcp_bytes - before.tcp_bytes
        ))
    }

    /// Reads what the flood left in both queues, and goes on: the bytes must come in the order in which they were sent.
    fn order_across_spill(&mut self) -> Result<String, Failure> {
        let waiting = usize::try_from(self.sent - self.received).unwrap_or(usize::MAX);
        self.expect(waiting)?;
        let before = self.flow()?.sent;
        let deadline = Instant::now() + PATIENCE;
        while self.flow()?.sent.to_redirect == before.to_redirect {
            if Instant::now() > deadline {
                return Err(Failure::Wrong(
                    "the flow was not redirected again after its spill".to_owned(),
                ));
            }
            self.send(1000).map_err(call("send"))?;
            self.expect(1000)?;
        }
        Ok(format!(
            "{} bytes in order over {} changes of path",
            self.received,
            before.to_tcp + before.to_redirect + 1
        ))
    }

    fn eof_after_data(&mut self) -> Result<String, Failure> {
        self.send(100_000).map_err(call("send"))?;
        // With both directions shut down TCP is done with the receiver, whatever it has not read.
        for stream in [&self.receiver, &self.sender] {
            stream
                .shutdown(std::net::Shutdown::Write)
                .map_err(call("shutdown"))?;
        }
        self.expect(100_000)?;
        match self.receiver.read(&mut [0; 16]).map_err(call("read the end"))? {
            0 => Ok("the end came after 100000 bytes".to_owned()),
            more => Err(Failure::Wrong(format!("{more} bytes came after the last"))),
        }
    }

    /// A connection that nobody accepted leaves the sockhash with its listener: one that stays there keeps its memory, and in the end
    /// there is no room for others.
    fn unaccepted_removed(&mut self) -> Result<String, Failure> {
        let before = self.enrolled()?;
        let (listener, address) = listen(&mut self.factory).map_err(call("listen"))?;
        let dialled = dial(&mut self.factory, address).map_err(call("connect"))?;
        let ends: HashSet<u64> = self.enrolled()?.difference(&before).copied().collect();
        if ends.len() < 2 {
            return Err(Failure::Wrong(format!(
                "{} of 2 ends of a connection were enrolled",
                ends.len()
            )));
        }
        drop((listener, dialled));
        let deadline = Instant::now() + LINGER;
        while !self.enrolled()?.is_disjoint(&ends) {
            if Instant::now() > deadline {
                return Err(Failure::Wrong(
                    "a connection that nobody accepted stays in the sockhash".to_owned(),
                ));
            }
            std::thread::sleep(LINGER / 100);
        }
        Ok("a connection that nobody accepted is gone with its listener".to_owned())
    }

    /// Cookies of the sockets in the sockhash.
    fn enrolled(&self) -> Result<HashSet<u64>, Failure> {
        let cookies: Result<HashSet<u64>, _> = self.maps.sockets.keys().collect();
        Ok(cookies.map_err(PlaneError::map(names::SOCKETS, "iterate"))?)
    }

    /// Sends the next `len` bytes of the pattern, or as many as one call takes from a non-blocking socket.
    fn send(&mut self, len: usize) -> io::Result<usize> {
        let data: Vec<u8> = (0..len as u64).map(|at| pattern(self.sent + at)).collect();
        let sent = self.sender.write(&data)?;
        self.sent += sent as u64;
        Ok(sent)
    }

    /// Reads `len` bytes, which must go on with the pattern.
    fn expect(&mut self, len: usize) -> Result<(), Failure> {
        let mut data = vec![0; len];
        self.receiver.read_exact(&mut data).map_err(call("read"))?;
        let wrong = (self.received..)
            .zip(&data)
            .find(|(at, byte)| pattern(*at) != **byte);
        self.received += len as u64;
        match wrong {
            None => Ok(()),
            Some((at, _)) => Err(Failure::Wrong(format!("byte {at} is not the one that was sent"))),
        }
    }

    fn flow(&self) -> Result<Flow, Failure> {
        let local = self.sender.local_addr().map_err(call("getsockname"))?.port();
        let flows = self.maps.flows.iter().filter_map(Result::ok);
        flows
            .map(|(_, flow)| flow)
            .find(|flow| flow.local_port == u32::from(local))
            .ok_or_else(|| Failure::Wrong("the connection was not enrolled".to_owned()))
    }
}

/// A byte that differs from its neighbours, and from those a page or a message away.
fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0]
}

fn configure(maps: &mut Maps, cgroup_id: u64) -> Result<(), PlaneError> {
    let config = Config {
        budget: Config::MIN_BUDGET,
        learn: 0,
        ..Config::default()
    };
    maps.config
        .set(0, config, 0)
        .map_err(PlaneError::map(names::CONFIG, "update"))?;
    let other = maps.traffic.insert(TrafficKey::OTHER, TrafficEntry::EMPTY, 0);
    other.map_err(PlaneError::map(names::TRAFFIC, "update"))?;
    let function = maps.functions.insert(
        cgroup_id,
        FunctionEntry {
            id: 1,
            sockets: Sockets::All as u32,
        },
        0,
    );
    function.map_err(PlaneError::map(names::FUNCTIONS, "update"))?;
    let loopback = Key::new(128, Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
    maps.locality
        .insert(&loopback, Locality::Local as u32, 0)
        .map_err(PlaneError::map(names::LOCALITY, "update"))
}

/// Moves the calling thread into a new network namespace whose loopback is up, and gives its file; `None` where that takes a right
/// that this process does not have: the loopback of its own will do.
fn private_netns() -> io::Result<Option<PathBuf>> {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Err(Errno::EPERM) => return Ok(None),
        done => done?,
    }
    let control = socket::socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = 1; // IFF_UP
    // SAFETY: the request is a live ifreq, which SIOCSIFFLAGS reads.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Some(Path::new("/proc/thread-self/ns/net").to_owned()))
}

fn connect(factory: &mut SocketFactory) -> io::Result<(TcpStream, TcpStream)> {
    let (listener, address) = listen(factory)?;
    let sender = dial(factory, address)?;
    let receiver = accept(&listener, sender.local_addr()?)?;
    for stream in [&sender, &receiver] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((sender, receiver))
}

fn tcp(factory: &mut SocketFactory) -> io::Result<OwnedFd> {
    factory.socket(libc::AF_INET, libc::SOCK_STREAM)
}

fn listen(factory: &mut SocketFactory) -> io::Result<(TcpListener, SocketAddrV4)> {
    let listener = tcp(factory)?;
    socket::bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
    socket::listen(&listener, socket::Backlog::new(16)?)?;
    let listener = TcpListener::from(listener);
    match listener.local_addr()? {
        SocketAddr::V4(address) => Ok((listener, address)),
        SocketAddr::V6(_) => Err(io::Error::other("an AF_INET socket has no IPv4 address")),
    }
}

fn dial(factory: &mut SocketFactory, address: SocketAddrV4) -> io::Result<TcpStream> {
    let connecting = tcp(factory)?;
    socket::connect(connecting.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(TcpStream::from(connecting))
}

/// Takes the connection of this peer; in a network namespace that is not private, others may have come first.
fn accept(listener: &TcpListener, peer: SocketAddr) -> io::Result<TcpStream> {
    loop {
        let (stream, from) = listener.accept()?;
        if from == peer {
            return Ok(stream);
        }
    }
}
