//! What the tests of the built `cwasi-agent` share: agents of their own, commands under `exec`, and a program for them to run.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary compiles this module and uses a part of it"
)]

pub mod agent;
pub mod busy;
pub mod counted;
pub mod doctored;
mod flood;
pub mod function;
pub mod peer;
pub mod prometheus;
pub mod services;

use std::io::Read;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support;

/// Ends the test, visibly, where a program that it drives is not installed.
#[macro_export]
macro_rules! needs_program {
    ($program:literal of $package:literal) => {
        if !$crate::support_agent::is_installed($program) {
            let reason = format!("no program `{}`: install the package {}", $program, $package);
            return $crate::support::probe::skipped(&reason);
        }
    };
}

/// Whether a program is found in `PATH`.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// How long a command may take that moves much, or that a busy machine holds up.
pub const LONG: Duration = Duration::from_secs(60);

/// A process that does not outlive the test.
pub struct Process(pub Child);

impl Process {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signal a process");
    }

    /// Waits for its end, and fails the test when it does not come within [`LONG`].
    pub fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.0.try_wait().expect("wait for a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Process {
    /// Asks it to end, and kills it when it does not.
    pub fn stop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        // `exec` cleans up after itself when it is asked to end.
        let _ = kill(self.pid(), Signal::SIGTERM);
        let deadline = Instant::now() + support::patience();
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reads a pipe to its end on a thread of its own, so that the writer is never held up.
pub fn collect(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Names in a directory, none when it does not exist.
pub fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Names of the cgroups that `exec` made for functions with this name.
pub fn leaves(function: &str) -> Vec<String> {
    let parent = cwasi_client::cgroup::unified_root()
        .expect("cgroup v2")
        .join("cwasi");
    let mut names = names_in(&parent);
    names.retain(|name| name.starts_with(&format!("{function}-")));
    names
}
