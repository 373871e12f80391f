//! Calls and their answers as lines of a file.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress};
use wasip2::sockets::tcp::TcpSocket;

/// Where the lines go.
const PATH: &str = "/transcript";
/// Bytes that are written out; of more only their number is told.
const SHOWN: usize = 40;
/// What a failed stream may name in its error's text.
const CAUSES: [&str; 4] = ["connectionreset", "connectionaborted", "brokenpipe", "timedout"];

/// What was asked and answered so far.
pub(crate) struct Transcript {
    file: RefCell<File>,
    /// Ports of this section, in the order in which they appeared.
    ports: RefCell<Vec<u16>>,
}

impl Transcript {
    pub(crate) fn create() -> Self {
        Self {
            file: RefCell::new(File::create(PATH).expect("a directory / that can be written")),
            ports: RefCell::default(),
        }
    }

    /// Writes a line. Each is written at once: what a trap ends has its lines, too.
    pub(crate) fn line(&self, line: &str) {
        writeln!(self.file.borrow_mut(), "{line}").expect("a transcript that can be written");
    }

    /// Begins a new section, in which ports are named anew: the system may give one that was closed to another socket.
    pub(crate) fn section(&self, name: &str) {
        self.ports.borrow_mut().clear();
        self.line(&format!("# {name}"));
    }

    /// Writes a call and what it was answered.
    pub(crate) fn tell(&self, call: &str, answer: impl Answer) {
        self.call(call, answer);
    }

    /// As [`Self::tell`], and hands the answer on.
    pub(crate) fn call<A: Answer>(&self, call: &str, answer: A) -> A {
        self.line(&format!("{call} -> {}", answer.tell(self)));
        answer
    }

    /// As [`Self::call`], but tells of an amount only whether it is none.
    pub(crate) fn amount<F: Failure>(&self, call: &str, answer: Result<u64, F>) -> Result<u64, F> {
        let told = match &answer {
            Ok(0) => "none".to_owned(),
            Ok(_) => "some".to_owned(),
            Err(failure) => failure.tell(),
        };
        self.line(&format!("{call} -> {told}"));
        answer
    }

    /// The name of a port.
    fn port(&self, port: u16) -> String {
        if port == 0 {
            return "0".to_owned();
        }
        let mut ports = self.ports.borrow_mut();
        let at = ports.iter().position(|known| *known == port).unwrap_or_else(|| {
            ports.push(port);
            ports.len() - 1
        });
        format!("P{}", at + 1)
    }
}

/// What a call can be answered.
pub(crate) trait Answer {
    fn tell(&self, transcript: &Transcript) -> String;
}

/// What a call can fail with.
pub(crate) trait Failure {
    fn tell(&self) -> String;
}

impl Failure for ErrorCode {
    fn tell(&self) -> String {
        format!("error {}", self.name())
    }
}

impl Failure for StreamError {
    fn tell(&self) -> String {
        match self {
            Self::Closed => "error closed".to_owned(),
            Self::LastOperationFailed(error) => {
                // WASI 0.2 has no other way to ask which error it was.
                let text = error.to_debug_string().to_lowercase();
                let text: String = text.chars().filter(|letter| letter.is_alphanumeric()).collect();
                let known = CAUSES.into_iter().find(|cause| text.contains(cause));
                format!("error last-operation-failed ({})", known.unwrap_or("?"))
            }
        }
    }
}

impl<T: Answer, F: Failure> Answer for Result<T, F> {
    fn tell(&self, transcript: &Transcript) -> String {
        match self {
            Ok(answer) => answer.tell(transcript),
            Err(failure) => failure.tell(),
        }
    }
}

macro_rules! told_as_they_are {
    ($($kind:ty),*) => {$(
        impl Answer for $kind {
            fn tell(&self, _: &Transcript) -> String {
                self.to_string()
            }
        }
    )*};
}

told_as_they_are!(bool, u8, u32, u64, usize, String, &str);

impl Answer for () {
    fn tell(&self, _: &Transcript) -> String {
        "ok".to_owned()
    }
}

impl Answer for Vec<u8> {
    fn tell(&self, _: &Transcript) -> String {
        match self.len() {
            length @ 0..=SHOWN => format!("{length} bytes {:?}", String::from_utf8_lossy(self)),
            length => format!("{length} bytes"),
        }
    }
}

impl Answer for IpAddressFamily {
    fn tell(&self, _: &Transcript) -> String {
        let name = match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        };
        name.to_owned()
    }
}

impl Answer for IpSocketAddress {
    fn tell(&self, transcript: &Transcript) -> String {
        match self {
            Self::Ipv4(address) => {
                let (a, b, c, d) = address.address;
                let ip = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
                format!("{ip}:{}", transcript.port(address.port))
            }
            Self::Ipv6(address) => {
                let (a, b, c, d, e, f, g, h) = address.address;
                let ip = Ipv6Addr::new(a, b, c, d, e, f, g, h);
                let port = transcript.port(address.port);
                format!(
                    "[{ip}]:{port} flow {} scope {}",
                    address.flow_info, address.scope_id
                )
            }
        }
    }
}

impl Answer for TcpSocket {
    fn tell(&self, _: &Transcript) -> String {
        "a socket".to_owned()
    }
}

impl Answer for (InputStream, OutputStream) {
    fn tell(&self, _: &Transcript) -> String {
        "streams".to_owned()
    }
}

impl Answer for (TcpSocket, InputStream, OutputStream) {
    fn tell(&self, _: &Transcript) -> String {
        "a socket and streams".to_owned()
    }
}
