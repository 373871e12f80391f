//! Runs of the built `cwasi-run`.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::functions::prebuilt;

/// The compiled programs in the directory of a cache.
pub(crate) fn cached(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "cwasm"))
        .collect()
}

/// A component in a directory of its own, beside its cache.
pub(crate) struct Runner {
    pub(crate) dir: tempfile::TempDir,
    cache: PathBuf,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// Asserts the exit code and that standard error is one line with `part` in it.
    pub(crate) fn expect_line(&self, code: u8, part: &str) {
        assert_eq!(self.code, Some(i32::from(code)), "{self:?}");
        let lines: Vec<_> = self.stderr.lines().collect();
        assert!(
            matches!(lines.as_slice(), [line] if line.starts_with("cwasi-run: ") && line.contains(part)),
            "{self:?}"
        );
    }

    /// Asserts the exit code and that nothing was said on standard error.
    pub(crate) fn expect_quiet(&self, code: u8) {
        assert_eq!(
            (self.code, self.stderr.as_str()),
            (Some(i32::from(code)), ""),
            "{self:?}"
        );
    }
}

impl Runner {
    pub(crate) fn new(wasm: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("app.wasm"), wasm).unwrap();
        let cache = dir.path().join("cache");
        Self { dir, cache }
    }

    /// A committed function, with a cache that all tests share: it is large, and compiled without optimization.
    pub(crate) fn prebuilt(name: &str) -> Self {
        Self::new(&prebuilt(name)).with_shared_cache("functions")
    }

    /// With the cache of this name, which outlives the test.
    pub(crate) fn with_shared_cache(self, name: &str) -> Self {
        Self {
            cache: Path::new(env!("CARGO_TARGET_TMPDIR")).join(name),
            ..self
        }
    }

    pub(crate) fn wasm(&self) -> PathBuf {
        self.dir.path().join("app.wasm")
    }

    /// A run with these flags, which has neither the test's environment nor its input.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, flags: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cwasi-run"));
        command
            .env_clear()
            .env("CWASI_CACHE_DIR", &self.cache)
            .args(flags);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the component without an agent, with these flags before its file.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, flags: &[S]) -> Ended {
        self.command(flags)
            .arg("--no-agent")
            .arg(self.wasm())
            .output()
            .unwrap()
            .into()
    }

    /// Runs the component without an agent and flags.
    pub(crate) fn run_plain(&self) -> Ended {
        self.run::<&str>(&[])
    }
}

/// A run that is going on; killed if the test ends before it.
pub(crate) struct Running {
    child: Option<Child>,
}

impl Running {
    /// Starts `command` and waits until its guest has printed that it started.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_with(command, |line| line == b"started\n")
    }

    /// Starts `command` and waits until its guest has printed its first line, which must be as expected.
    pub(crate) fn start_with(command: &mut Command, expected: impl FnOnce(&[u8]) -> bool) -> Self {
        let mut child = command.spawn().unwrap();
        let mut line = Vec::new();
        // The buffer may take more than the line, but nothing that these tests look at.
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_until(b'\n', &mut line)
            .unwrap();
        let running = Self { child: Some(child) };
        assert!(expected(&line), "{}", String::from_utf8_lossy(&line));
        running
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the end. The guest's input stays open until then: its end would end some guests by itself.
    pub(crate) fn wait(mut self) -> Ended {
        let mut child = self.child.take().unwrap();
        let _input = child.stdin.take();
        child.wait_with_output().unwrap().into()
    }

    /// Ends the guest's input, then waits for its end.
    pub(crate) fn finish(mut self) -> Ended {
        drop(self.child.as_mut().and_then(|child| child.stdin.take()));
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
