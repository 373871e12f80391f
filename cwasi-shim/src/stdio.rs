//! A guest's standard streams: open files that no call of a guest makes its neighbours wait for.
//!
//! The files may be shared with other processes, as a terminal is with the shell, so their flags are left alone: each call
//! says for itself that it must not wait.

mod descriptor;
mod streams;

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::Pollable;

use self::descriptor::Descriptor;
use self::streams::{Input, Output};

/// A guest's standard streams.
#[derive(Clone, Debug, Default)]
pub struct Stdio {
    /// What it reads.
    pub stdin: Stream,
    /// What it writes.
    pub stdout: Stream,
    /// What it says of itself.
    pub stderr: Stream,
}

/// One of a guest's standard streams.
#[derive(Clone, Debug, Default)]
pub enum Stream {
    /// This process's own.
    #[default]
    Inherited,
    /// At its end when read; takes whatever is written.
    Null,
    /// An open file of any kind: it is read and written as it is, its flags are not changed.
    File(Arc<OwnedFd>),
}

impl<T: Into<OwnedFd>> From<T> for Stream {
    fn from(file: T) -> Self {
        Self::File(Arc::new(file.into()))
    }
}

impl Stream {
    /// Writes a line of the host for people. What the file does not take at once is lost: nobody is to wait for it.
    pub(crate) fn tell(&self, line: &dyn Display) {
        let file = match self {
            Self::Inherited => return eprintln!("cwasi: {line}"),
            Self::Null => return,
            Self::File(file) => file,
        };
        let Ok(file) = file.try_clone().and_then(Descriptor::new) else {
            return;
        };
        let line = format!("cwasi: {line}\n");
        let mut rest = line.as_bytes();
        while let Ok(written @ 1..) = file.write(rest) {
            rest = &rest[written..];
        }
    }

    /// A descriptor of its own of what it stands for: the event loop takes each one once.
    fn open(&self, inherited: BorrowedFd<'_>) -> io::Result<Option<Arc<Descriptor>>> {
        let file = match self {
            Self::Inherited => inherited.try_clone_to_owned()?,
            Self::Null => return Ok(None),
            Self::File(file) => file.try_clone()?,
        };
        Ok(Some(Arc::new(Descriptor::new(file)?)))
    }
}

/// The open files behind a guest's standard streams, shared by all its instances.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    stdin: Option<Arc<Descriptor>>,
    stdout: Option<Arc<Descriptor>>,
    stderr: Option<Arc<Descriptor>>,
}

impl Streams {
    pub(crate) fn open(stdio: &Stdio) -> io::Result<Self> {
        Ok(Self {
            stdin: stdio.stdin.open(io::stdin().as_fd())?,
            stdout: stdio.stdout.open(io::stdout().as_fd())?,
            stderr: stdio.stderr.open(io::stderr().as_fd())?,
        })
    }

    /// Gives them to an instance. What it returns has what the instance has written and its files have not taken.
    pub(crate) fn give(&self, wasi: &mut WasiCtxBuilder) -> Unwritten {
        if let Some(file) = &self.stdin {
            wasi.stdin(Input::new(Arc::clone(file)));
        }
        let output = |file: &Option<Arc<Descriptor>>| file.as_ref().map(|file| Output::new(Arc::clone(file)));
        let (stdout, stderr) = (output(&self.stdout), output(&self.stderr));
        if let Some(stdout) = &stdout {
            wasi.stdout(stdout.clone());
        }
        if let Some(stderr) = &stderr {
            wasi.stderr(stderr.clone());
        }
        Unwritten([stdout, stderr])
    }
}

/// What an instance has written and its files have not taken yet.
pub(crate) struct Unwritten([Option<Output>; 2]);

impl Unwritten {
    /// Waits until the files have taken everything, or fail.
    pub(crate) async fn write(&mut self) {
        for output in self.0.iter_mut().flatten() {
            output.ready().await;
        }
    }
}
