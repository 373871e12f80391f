//! The files that a run needs, and which peers they make possible.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::peer::{Host, Peer};
use crate::compare::Skipped;
use crate::tool;

/// The programs and guests of a run.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Directory of `cwasi-agent`, `cwasi-run`, `cwasi-stock-run` and `cwasi-native`.
    pub built: PathBuf,
    /// Directory of the guests' .wasm files.
    pub guests: PathBuf,
}

/// What `cwasi-run --help` says when it takes several programs.
const SEVERAL: &str = "[-- ";

/// The guest without which there is no Wasm peer.
const GUEST: &str = "rr";

impl Programs {
    /// The agent.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.built.join("cwasi-agent")
    }

    /// What runs a peer's programs.
    #[must_use]
    pub fn host(&self, host: Host) -> PathBuf {
        self.built.join(match host {
            Host::Stock => "cwasi-stock-run",
            Host::Runner => "cwasi-run",
            Host::Rust => "cwasi-native",
            Host::C => "cwasi-native-c",
        })
    }

    /// A guest.
    #[must_use]
    pub fn guest(&self, name: &str) -> PathBuf {
        self.guests.join(name).with_extension("wasm")
    }

    /// Those of the peers that can run here, and why the others cannot.
    #[must_use]
    pub fn available(&self, peers: &[Peer]) -> (Vec<Peer>, Vec<Skipped>) {
        let mut skipped = Vec::new();
        let mut available = Vec::new();
        for &peer in peers {
            match self.missing(peer) {
                None => available.push(peer),
                Some(reason) => skipped.push(Skipped {
                    workload: peer.name().to_owned(),
                    reason,
                }),
            }
        }
        (available, skipped)
    }

    fn missing(&self, peer: Peer) -> Option<String> {
        let host = self.host(peer.host());
        if !host.is_file() {
            return Some(format!("{} is not built", host.display()));
        }
        let guest = self.guest(GUEST);
        if peer.is_wasm() && !guest.is_file() {
            return Some(format!("{} is missing", guest.display()));
        }
        if peer == Peer::Redis && tool::find("redis-server").is_none() {
            return Some("redis-server is missing; install the package redis-server".to_owned());
        }
        let several = || takes_several_programs(&host);
        (peer == Peer::Process && !several())
            .then(|| format!("{} runs one program in a process", host.display()))
    }
}

fn takes_several_programs(runner: &Path) -> bool {
    let help = tool::run(Command::new(runner).arg("--help"), "");
    help.is_ok_and(|help| help.contains(SEVERAL))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_not_built_is_skipped_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let programs = Programs {
            built: dir.path().to_owned(),
            guests: dir.path().to_owned(),
        };
        let runner = programs.host(Host::Runner);
        let script = |usage: &str| {
            fs::write(&runner, format!("#!/bin/sh\necho 'Usage: {usage}'\n")).unwrap();
            fs::set_permissions(&runner, fs::Permissions::from_mode(0o700)).unwrap();
        };
        script("cwasi-run FILE [ARGS]...");
        assert!(
            programs.available(&[Peer::Off]).1[0]
                .reason
                .ends_with("rr.wasm is missing")
        );
        fs::write(programs.guest(GUEST), "").unwrap();
        let (available, skipped) = programs.available(&[Peer::Stock, Peer::Off, Peer::Process]);
        assert_eq!(available, [Peer::Off]);
        assert!(skipped[0].reason.ends_with("cwasi-stock-run is not built"));
        assert_eq!(skipped[1].workload, "process");
        script("cwasi-run FILE [ARGS]... [-- FILE [ARGS]...]...");
        assert!(programs.available(&[Peer::Process]).1.is_empty());
    }
}
