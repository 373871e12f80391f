//! Sockets: non-blocking, as those of event loops and Wasm hosts are, with waits in poll(2).

#[cfg(unix)]
#[path = "unix.rs"]
mod system;
#[cfg(not(unix))]
#[path = "wasi.rs"]
mod system;

use std::convert::Infallible;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(unix)]
use std::path::PathBuf;
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use rustix::event::PollFlags;
use rustix::event::{PollFd, poll};
use rustix::io::Errno;

use crate::Result;
use crate::error::Context;

/// The pause between two tries to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Where a peer is: `HOST:PORT`, or `unix:PATH` where there is AF_UNIX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address; a host's name is resolved.
    Tcp(String),
    /// The file of a stream socket.
    #[cfg(unix)]
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        #[cfg(unix)]
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => formatter.write_str(address),
            #[cfg(unix)]
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    inner: system::Listener,
    local: Address,
}

impl Listener {
    /// Listens on an address.
    ///
    /// # Errors
    /// It cannot be used; a socket file must not exist.
    pub fn bind(address: &Address) -> Result<Self> {
        let (inner, local) = system::listen(address).context(|| format!("listen on {address}"))?;
        Ok(Self { inner, local })
    }

    /// Where it listens, with the port that was chosen for port 0.
    #[must_use]
    pub fn local(&self) -> &Address {
        &self.local
    }

    /// The next connection, when there is one.
    ///
    /// # Errors
    /// `WouldBlock` when there is none now.
    pub fn try_accept(&self) -> io::Result<Stream> {
        system::accept(&self.inner).map(Stream)
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The system refuses.
    pub fn accept(&self) -> io::Result<Stream> {
        until_done(self, PollFlags::IN, || self.try_accept())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

#[cfg(unix)]
impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.local {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A connected socket, whose [`Read`] and [`Write`] wait.
#[derive(Debug)]
pub struct Stream(system::Stream);

impl Stream {
    /// Connects; a server that still refuses is tried again for as long as `patience`.
    ///
    /// `nodelay` sets `TCP_NODELAY`. WASI's sockets have no such option: a component's libc takes it and the host decides.
    ///
    /// # Errors
    /// That of the last try.
    pub fn connect(address: &Address, nodelay: bool, patience: Duration) -> Result<Self> {
        let begun = Instant::now();
        let stream = loop {
            match system::connect(address) {
                Err(error) if may_come(&error) && begun.elapsed() < patience => sleep(RETRY_PAUSE),
                result => break result.context(|| format!("connect to {address}"))?,
            }
        };
        let stream = Self(stream);
        stream.set_nodelay(nodelay)?;
        Ok(stream)
    }

    /// Sets `TCP_NODELAY` when `nodelay`: off is the default, and is not asked for. AF_UNIX has no such option.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_nodelay(&self, nodelay: bool) -> Result<()> {
        if !nodelay {
            return Ok(());
        }
        system::set_nodelay(&self.0).context(|| "set TCP_NODELAY".to_owned())
    }

    /// Ends the sending side.
    ///
    /// # Errors
    /// The system refuses.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there now.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }

    /// Writes what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is none now.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    /// Tries `operation`, and waits for `event` whenever it would block.
    ///
    /// # Errors
    /// Those of `operation`, and of poll.
    pub fn until_done<T>(&self, event: PollFlags, operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        until_done(self, event, operation)
    }

    /// Fills the buffer; `false` when the stream ends before its first byte.
    ///
    /// # Errors
    /// The stream ends later (`UnexpectedEof`) or fails.
    pub fn read_message(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Whether a server that has not started yet explains the error.
fn may_come(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        until_done(&*self, PollFlags::IN, || self.try_read(buffer))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        until_done(&*self, PollFlags::OUT, || self.try_write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn until_done<T>(
    socket: impl AsFd,
    event: PollFlags,
    mut operation: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match operation() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(&mut [PollFd::new(&socket, event)])?;
            }
            done => return done,
        }
    }
}

/// Waits until one of them is ready or failed.
///
/// # Errors
/// poll fails.
pub(crate) fn wait(sockets: &mut [PollFd<'_>]) -> io::Result<()> {
    match poll(sockets, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn greet(address: &str) -> Address {
        let listener = Listener::bind(&address.parse().unwrap()).unwrap();
        let local = listener.local().clone();
        let server = thread::spawn(move || listener.accept().unwrap().write_all(b"hello").unwrap());
        let mut text = String::new();
        Stream::connect(&local, true, Duration::ZERO)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        server.join().unwrap();
        assert_eq!(text, "hello");
        local
    }

    #[test]
    fn both_families_connect_and_a_socket_file_goes() {
        assert_ne!(greet("127.0.0.1:0").to_string(), "127.0.0.1:0");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let address = greet(&format!("unix:{}", path.display()));
        assert_eq!(address.to_string(), format!("unix:{}", path.display()));
        assert!(!path.exists());
    }

    #[test]
    fn a_client_waits_for_a_late_server_as_long_as_it_shall() {
        let address = Listener::bind(&"127.0.0.1:0".parse().unwrap())
            .unwrap()
            .local()
            .clone();
        let refused = Stream::connect(&address, false, Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(
            refused.starts_with(&format!("cannot connect to {address}: ")),
            "{refused}"
        );
        let late = address.clone();
        let server = thread::spawn(move || {
            sleep(Duration::from_millis(100));
            drop(Listener::bind(&late).unwrap().accept().unwrap());
        });
        Stream::connect(&address, false, Duration::from_secs(10)).unwrap();
        server.join().unwrap();
    }
}
