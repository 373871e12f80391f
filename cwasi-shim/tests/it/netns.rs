//! Network namespaces of the tests.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// A network namespace with its loopback up, alive as long as its thread.
pub(crate) struct Netns {
    pub(crate) path: PathBuf,
    pub(crate) port: u16,
    _end: Sender<()>,
}

impl Netns {
    /// Listens in it on a port of 127.0.0.1.
    pub(crate) fn new() -> Result<Self, String> {
        let (ready, came) = channel();
        let (end, ended) = channel();
        thread::spawn(move || {
            let made = || {
                unshare(CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| format!("unshare(CLONE_NEWNET): {errno}"))?;
                let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
                if !up.is_ok_and(|status| status.success()) {
                    return Err("ip link set lo up failed".to_owned());
                }
                let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
                    .map_err(|error| error.to_string())?;
                let path = format!(
                    "/proc/{}/task/{}/ns/net",
                    std::process::id(),
                    nix::unistd::gettid()
                );
                Ok((PathBuf::from(path), listener))
            };
            let listener = match made() {
                Ok((path, listener)) => {
                    ready
                        .send(Ok((path, listener.local_addr().unwrap().port())))
                        .unwrap();
                    listener
                }
                Err(error) => return ready.send(Err(error)).unwrap(),
            };
            let _: Result<(), _> = ended.recv();
            drop(listener);
        });
        let (path, port) = came.recv().unwrap()?;
        Ok(Self {
            path,
            port,
            _end: end,
        })
    }

    /// Bytes that its loopback has carried.
    pub(crate) fn loopback_bytes(&self) -> u64 {
        let devices = self.path.parent().unwrap().with_file_name("net").join("dev");
        let devices = fs::read_to_string(devices).unwrap();
        let loopback = devices
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("lo:"));
        loopback
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }
}
