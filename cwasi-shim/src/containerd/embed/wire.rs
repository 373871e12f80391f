//! Messages between the shim, the process of a pod's functions and the stand-ins: JSON and open files over `SOCK_SEQPACKET`.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    setsockopt, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

/// Longest message, in bytes: a report with as many connections as it may list. A socket's buffer takes one (see
/// `net.core.wmem_default`).
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// Most files of a message: the kernel's `SCM_MAX_FD`.
pub const MAX_FILES: usize = 253;

/// Why a message was not exchanged.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// {call} failed: {errno}
    #[error("{call} failed: {errno}")]
    System {
        /// Call that failed.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// {files} files and {bytes} bytes are more than a message may have
    #[error("{files} files and {bytes} bytes are more than a message may have")]
    TooLong {
        /// Files of the message.
        files: usize,
        /// Its length.
        bytes: usize,
    },
    /// a message that makes no sense: {0}
    #[error("a message that makes no sense: {0}")]
    Form(String),
    /// the other side has gone
    #[error("the other side has gone")]
    Closed,
}

fn failed(call: &'static str) -> impl FnOnce(Errno) -> WireError {
    move |errno| match errno {
        // A peer that goes with messages unread resets.
        Errno::EPIPE | Errno::ECONNRESET => WireError::Closed,
        errno => WireError::System { call, errno },
    }
}

/// A message with the files that came with it.
#[derive(Debug)]
pub struct Message<T> {
    /// What it says.
    pub body: T,
    /// Its files, in the sender's order.
    pub files: Vec<OwnedFd>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Two ends of a new connection.
    ///
    /// # Errors
    /// [`WireError::System`].
    pub fn pair() -> Result<(Self, Self), WireError> {
        let (one, other) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(failed("socketpair"))?;
        Ok((Self(one), Self(other)))
    }

    /// Has a send fail after `seconds` with a peer that does not read.
    ///
    /// # Errors
    /// [`WireError::System`].
    pub fn set_send_timeout(&self, seconds: i64) -> Result<(), WireError> {
        setsockopt(&self.0, sockopt::SendTimeout, &TimeVal::seconds(seconds)).map_err(failed("setsockopt"))
    }

    /// Sends a message with duplicates of `files`.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn send(&self, body: &impl Serialize, files: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let bytes = serde_json::to_vec(body).map_err(|error| WireError::Form(error.to_string()))?;
        if bytes.len() > MAX_MESSAGE_BYTES || files.len() > MAX_FILES {
            return Err(WireError::TooLong {
                files: files.len(),
                bytes: bytes.len(),
            });
        }
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[][..] } else { &rights[..] };
        let data = [IoSlice::new(&bytes)];
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &data, control, MsgFlags::MSG_NOSIGNAL, None) {
                Err(Errno::EINTR) => {}
                sent => return sent.map(drop).map_err(failed("sendmsg")),
            }
        }
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// [`WireError`]; [`WireError::Closed`] at the connection's end.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Message<T>, WireError> {
        let mut bytes = vec![0; MAX_MESSAGE_BYTES];
        let mut control = nix::cmsg_space!([RawFd; MAX_FILES]);
        let mut data = [IoSliceMut::new(&mut bytes)];
        let received = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.0.as_raw_fd(), &mut data, Some(&mut control), flags) {
                Err(Errno::EINTR) => {}
                received => break received.map_err(failed("recvmsg"))?,
            }
        };
        let mut files = Vec::new();
        for message in received.cmsgs().map_err(failed("recvmsg"))? {
            if let ControlMessageOwned::ScmRights(numbers) = message {
                // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
                files.extend(
                    numbers
                        .into_iter()
                        .map(|number| unsafe { OwnedFd::from_raw_fd(number) }),
                );
            }
        }
        let (length, truncated) = (received.bytes, received.flags.contains(MsgFlags::MSG_TRUNC));
        if length == 0 {
            return Err(WireError::Closed);
        }
        if truncated {
            return Err(WireError::Form("it is too long".to_owned()));
        }
        let body =
            serde_json::from_slice(&bytes[..length]).map_err(|error| WireError::Form(error.to_string()))?;
        Ok(Message { body, files })
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A channel of a tokio runtime.
#[derive(Debug)]
pub struct AsyncChannel(AsyncFd<Channel>);

impl AsyncChannel {
    /// Takes a channel over, which no longer blocks. Belongs into a runtime with io.
    ///
    /// # Errors
    /// [`WireError::System`].
    pub fn new(channel: Channel) -> Result<Self, WireError> {
        fcntl(&channel, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed("fcntl"))?;
        // SAFETY: a channel owns its descriptor for as long as it lives, and nothing takes it out of here.
        let registered = unsafe { AsyncFd::register(channel) };
        let registered = registered.map_err(|error| failed("epoll_ctl")(errno(&error.into())))?;
        Ok(Self(registered))
    }

    /// Sends a message without waiting: one for which the peer left no room is an error.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn send(&self, body: &impl Serialize) -> Result<(), WireError> {
        self.0.get_ref().send(body, &[])
    }

    /// As [`AsyncChannel::send`], with duplicates of `files`.
    #[cfg(test)]
    pub(super) fn send_with(&self, body: &impl Serialize, files: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        self.0.get_ref().send(body, files)
    }

    /// Waits for a message. Nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// [`WireError`]; [`WireError::Closed`] at the connection's end.
    pub async fn receive<T: DeserializeOwned>(&self) -> Result<Message<T>, WireError> {
        loop {
            let mut ready = self
                .0
                .readable()
                .await
                .map_err(|error| failed("epoll_wait")(errno(&error)))?;
            match self.0.get_ref().receive() {
                Err(WireError::System {
                    errno: Errno::EAGAIN, ..
                }) => ready.clear_ready(),
                received => return received,
            }
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    use super::*;

    #[test]
    fn messages_bring_their_files() {
        let (one, other) = Channel::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        file.rewind().unwrap();
        one.send(&"first", &[file.as_fd()]).unwrap();
        one.send(&"second", &[]).unwrap();
        let first = other.receive::<String>().unwrap();
        assert_eq!((first.body.as_str(), first.files.len()), ("first", 1));
        let mut text = String::new();
        File::from(first.files.into_iter().next().unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "content");
        let second = other.receive::<String>().unwrap();
        assert_eq!((second.body.as_str(), second.files.len()), ("second", 0));
    }

    #[test]
    fn limits_are_kept_by_both_sides() {
        let (one, other) = Channel::pair().unwrap();
        let long = "x".repeat(MAX_MESSAGE_BYTES);
        assert!(matches!(one.send(&long, &[]), Err(WireError::TooLong { .. })));
        let files = vec![one.as_fd(); MAX_FILES + 1];
        assert!(matches!(one.send(&1, &files), Err(WireError::TooLong { .. })));
        one.send(&1, &files[1..]).unwrap();
        assert_eq!(other.receive::<u8>().unwrap().files.len(), MAX_FILES);
        one.send(&"a word", &[]).unwrap();
        assert!(matches!(other.receive::<u8>(), Err(WireError::Form(_))));
    }

    #[test]
    fn the_end_is_told_from_a_message() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&1, &[]).unwrap();
        drop(one);
        assert_eq!(other.receive::<u8>().unwrap().body, 1);
        assert!(matches!(other.receive::<u8>(), Err(WireError::Closed)));
        assert!(matches!(other.send(&1, &[]), Err(WireError::Closed)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_wait_gives_way_to_others() {
        let (one, other) = Channel::pair().unwrap();
        let other = AsyncChannel::new(other).unwrap();
        let received = async { other.receive::<u8>().await.unwrap().body };
        let sent = async {
            tokio::task::yield_now().await;
            one.send(&7, &[]).unwrap();
        };
        assert_eq!(tokio::join!(received, sent).0, 7);
    }
}
