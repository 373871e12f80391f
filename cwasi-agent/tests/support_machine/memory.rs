//! The memory that the whole machine has for TCP.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;

use super::Setting;
use crate::support::netns::Bridged;
use crate::support::pod::{Pod, connect};
use crate::support::stream::Line;

/// Bytes (`SOCK_MIN_SNDBUF`, and some) of a message that is let through whatever TCP has: see `__sk_mem_raise_allocated`.
pub const LET_THROUGH: usize = 8 << 10;

/// Pages that TCP has of the machine's memory (`/proc/net/sockstat`).
pub fn pages() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").expect("read /proc/net/sockstat");
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: "));
    let words: Vec<_> = line.expect("a line for TCP").split_whitespace().collect();
    let at = words.iter().position(|word| *word == "mem").expect("`mem`");
    words[at + 1].parse().expect("a number of pages")
}

/// A limit of the machine's memory for TCP (`tcp_mem`), as long as it lives.
pub struct Limit(Setting);

impl Limit {
    /// One that is near, and that nothing is refused for: as memory is when it runs short little by little.
    pub fn near() -> Self {
        Self(Setting::change("/proc/sys/net/ipv4/tcp_mem", "1 1 1000000"))
    }

    /// Pages up to which TCP is free, above which it is under pressure, and which it never exceeds but to go on at all.
    pub fn set(&self, free: u64, pressure: u64, most: u64) {
        self.0.set(&format!("{free} {pressure} {most}"));
    }
}

/// Connections of plain TCP that hold memory: their senders have sent what they could, and nobody reads.
pub struct Hoard {
    lines: Vec<(Line, TcpStream, TcpStream)>,
}

impl Hoard {
    /// Fills so many connections between processes that are no functions.
    pub fn fill(client: &Pod, server: &Pod, connections: u64) -> Self {
        let listener = server.listen((Bridged::v4(1), 0));
        let address = listener.local_addr().expect("getsockname");
        let lines = (0..connections).map(|seed| {
            let (from, to) = connect(client, &listener, address);
            let mut line = Line::new(seed);
            loop {
                match line.send_some(&from, 64 << 10) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("send: {error}"),
                }
            }
            (line, from, to)
        });
        Self {
            lines: lines.collect(),
        }
    }

    /// Reads everything: no byte was lost meanwhile.
    pub fn release(self) {
        for (mut line, from, to) in self.lines {
            drop(from);
            line.end(&to);
        }
    }
}
