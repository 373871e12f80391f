//! What the kernel tells of a socket, and options that the standard library has no name for.

use std::net::TcpStream;
use std::os::fd::AsRawFd;

use socket2::SockRef;

/// TCPI_OPT_SYN_DATA: the peer took data that came with the SYN.
pub const SYN_DATA: u8 = 32;

/// TCP_CLOSE: the connection has ended, in both directions or by a reset.
pub const CLOSED: u8 = 7;

/// What `struct tcp_info` says that the tests ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// `tcpi_state`.
    pub state: u8,
    /// `tcpi_options`.
    pub options: u8,
    /// Segments with data that this end sent.
    pub data_segs_out: u32,
    /// Bytes of data that this end sent, repetitions included.
    pub bytes_sent: u64,
}

/// TCP_INFO of a socket (`tcpi_bytes_sent`: Linux 4.19).
pub fn info(socket: &impl AsRawFd) -> Info {
    /// Bytes of `struct tcp_info` up to and with `tcpi_bytes_sent`.
    const LENGTH: usize = 208;
    let mut raw = [0_u8; LENGTH];
    let mut length = libc::socklen_t::try_from(LENGTH).expect("a small number");
    // SAFETY: the buffer is as long as the length says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    assert_eq!(
        length as usize, LENGTH,
        "this kernel's struct tcp_info is shorter"
    );
    Info {
        state: raw[0],
        options: raw[5],
        data_segs_out: u32::from_ne_bytes(raw[156..160].try_into().expect("four bytes")),
        bytes_sent: u64::from_ne_bytes(raw[200..208].try_into().expect("eight bytes")),
    }
}

/// The socket's cookie (Linux 4.12).
pub fn cookie(stream: &TcpStream) -> u64 {
    SockRef::from(stream).cookie().expect("SO_COOKIE")
}

/// Sets an integer option of a TCP socket.
pub fn set(socket: &impl AsRawFd, option: i32, value: i32) {
    // SAFETY: the value outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of_val(&value)).expect("a small number"),
        )
    };
    assert_eq!(
        result,
        0,
        "setsockopt {option}: {}",
        std::io::Error::last_os_error()
    );
}

/// Makes close(2) send a reset.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
    linger.expect("SO_LINGER");
}
