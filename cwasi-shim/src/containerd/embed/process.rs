//! The process of a pod's functions: it runs the guest of each stand-in, as long as the stand-in lives.

use std::convert::Infallible;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::{process, thread};

use cwasi_client::process_report::{EVERY, ProcessReport};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::message::{ADMIT_FILES, End, Given, MAX_GIVEN_BYTES, Notice, Order, START_FILES};
use super::wire::{AsyncChannel, Channel, Message, WireError};
use crate::code::Code;
use crate::containerd::bundle::{network, not_allowed};
use crate::containerd::compile::engine;
use crate::engine::LoadError;
use crate::guest::{Guest, GuestConfig, GuestError};
use crate::network::Refusals;
use crate::preopen::Preopen;
use crate::program::{NO_SOCKETS, Program};
use crate::sandbox::{self, Sandbox};
use crate::sockets::LocalNetwork;
use crate::stdio::Stdio;

/// Longest reason that a stand-in is told, in characters: it is one line of a log.
const MAX_REASON: usize = 4096;

/// Runs guests as the shim on the other side of `control` orders, until it closes that or is gone.
///
/// # Errors
/// The system refuses what the process needs.
pub fn run(control: OwnedFd) -> io::Result<()> {
    end_with(control.try_clone()?)?;
    let runtime = sandbox::runtime()?;
    let ended = runtime.block_on(serve(Channel::from(control)));
    runtime.shutdown_background();
    match ended {
        Ok(never) => match never {},
        Err(WireError::Closed) => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Ends this process when the shim is gone, whatever its guests are doing.
fn end_with(control: OwnedFd) -> io::Result<()> {
    let wait = move || {
        let mut polled = [PollFd::new(control.as_fd(), PollFlags::empty())];
        while let Ok(_) | Err(Errno::EINTR) = poll(&mut polled, PollTimeout::NONE) {
            if polled[0].any().unwrap_or_default() {
                break;
            }
        }
        process::exit(0);
    };
    thread::Builder::new()
        .name("shim".to_owned())
        .spawn(wait)
        .map(drop)
}

/// What all guests share.
struct Host {
    control: AsyncChannel,
    sandbox: Sandbox,
    network: LocalNetwork,
    /// What the shim was told last.
    reported: Mutex<ProcessReport>,
}

async fn serve(control: Channel) -> Result<Infallible, WireError> {
    let host = Arc::new(Host {
        control: AsyncChannel::new(control)?,
        sandbox: Sandbox::new(),
        network: LocalNetwork::default(),
        reported: Mutex::default(),
    });
    tokio::spawn(Arc::clone(&host).report_often());
    loop {
        let Message { body, files } = host.control.receive::<Order>().await?;
        let Order::Admit { guest, name } = body;
        let Ok([channel, code]) = <[OwnedFd; ADMIT_FILES]>::try_from(files) else {
            return Err(WireError::Form("a guest without its files".to_owned()));
        };
        let stand_in = AsyncChannel::new(Channel::from(channel))?;
        // SAFETY: the shim sends what `compile` made, by the engine of this very program.
        let code = unsafe { Code::from_file(File::from(code)) };
        tokio::spawn(Arc::clone(&host).see_through(guest, name, stand_in, code));
    }
}

impl Host {
    /// Tells the shim what passes between the guests.
    async fn report_often(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.report();
        }
    }

    /// Tells the shim what passed between the guests, if that is news.
    fn report(&self) {
        let report = ProcessReport::from(self.network.traffic());
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if *reported == report {
            return;
        }
        let all = report.connections.len();
        let mut listed = all;
        loop {
            let part = ProcessReport {
                connections: report.connections[all - listed..].to_vec(),
                ..report
            };
            match self.control.send(&Notice::Report(part)) {
                Ok(()) => break *reported = report,
                // Long names: the connections that were made last are listed.
                Err(WireError::TooLong { .. }) if listed > 0 => listed = listed * 3 / 4,
                // The next one says it all.
                Err(error) => break log::debug!("a report is left out: {error}"),
            }
        }
    }

    /// Runs a guest from its start to its end.
    async fn see_through(self: Arc<Self>, guest: u64, name: String, stand_in: AsyncChannel, code: Code) {
        if let Some(end) = self.run(&name, &stand_in, code).await
            && let Err(error) = stand_in.send(&end)
        {
            log::debug!("{name}: nobody hears of its end: {error}");
        }
        drop(stand_in);
        self.report();
        if let Err(error) = self.control.send(&Notice::Gone { guest }) {
            log::warn!("{name}: the shim does not hear of its end: {error}");
        }
    }

    /// Waits for the stand-in to start the guest, and runs it. `None` when the stand-in ended first.
    async fn run(&self, name: &str, stand_in: &AsyncChannel, code: Code) -> Option<End> {
        let program = engine().and_then(|engine| engine.link(&code));
        drop(code);
        let Message { body: (), files } = stand_in.receive().await.ok()?;
        if program.as_ref().is_ok_and(Program::imports_sockets) {
            log::warn!("{name}: {NO_SOCKETS}");
        }
        // A guest that handles HTTP opens its directories for every instance: they stay open until it has ended.
        let (guest, _directories) = match prepare(name, &self.network, program, files) {
            Ok(prepared) => prepared,
            Err(error) => return Some(end(Err(error))),
        };
        let mut running = self.sandbox.start(guest);
        tokio::select! {
            ended = &mut running => Some(end(ended)),
            _ = stand_in.receive::<()>() => {
                running.killer().kill();
                // Its sockets are closed when this says so.
                drop(running.await);
                None
            }
        }
    }
}

fn end(ended: Result<u8, GuestError>) -> End {
    match ended {
        Ok(code) => End { code, reason: None },
        Err(error) => End {
            code: error.exit_code(),
            reason: Some(error.to_string().chars().take(MAX_REASON).collect()),
        },
    }
}

/// A guest of what its stand-in sent, and the directories that it was sent.
fn prepare(
    name: &str,
    local: &LocalNetwork,
    program: Result<Program, LoadError>,
    files: Vec<OwnedFd>,
) -> Result<(Guest, Vec<OwnedFd>), GuestError> {
    let failed = |error: &dyn Display| GuestError::Start(error.to_string());
    let program = program.map_err(|error| failed(&error))?;
    let mut files = files.into_iter();
    let first: Vec<OwnedFd> = files.by_ref().take(START_FILES).collect();
    let [given, stdin, stdout, stderr] =
        <[OwnedFd; START_FILES]>::try_from(first).map_err(|_| failed(&"its stand-in sent no files"))?;
    let given = read(given).map_err(|error| failed(&error))?;
    let directories: Vec<OwnedFd> = files.collect();
    if directories.len() != given.directories.len() {
        return Err(failed(&"its stand-in sent other directories than it named"));
    }
    let stdio = Stdio {
        stdin: stdin.into(),
        stdout: stdout.into(),
        stderr: stderr.into(),
    };
    let log = stdio.stderr.clone();
    let preopens = given.directories.iter().zip(&directories);
    let config = GuestConfig {
        name: name.to_owned(),
        local: Some(local.clone()),
        alone: false,
        args: given.args,
        env: given.env,
        stdio,
        preopens: preopens
            .map(|(directory, opened)| Preopen {
                // Of this process's own /proc, which no guest sees.
                host: PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())),
                guest: directory.guest.clone(),
                read_only: directory.read_only,
            })
            .collect(),
        cwd: given.cwd,
        http: given.http,
        network: network(given.allow_net.as_deref()).map_err(|error| failed(&error))?,
        refusals: Refusals::new(move |peer| log.tell(&not_allowed(peer))),
        memory_limit: given.memory_limit,
    };
    Ok((Guest::new(&program, &config)?, directories))
}

/// What a stand-in wrote into memory that it sealed.
fn read(memory: OwnedFd) -> io::Result<Given> {
    let memory = File::from(memory);
    let length = memory.metadata()?.len();
    if length > MAX_GIVEN_BYTES {
        return Err(io::Error::other(format!(
            "arguments and variables of {length} bytes"
        )));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    memory.read_exact_at(&mut bytes, 0)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::super::message::Directory;
    use super::*;
    use crate::code::sealed;
    use crate::exit;

    /// What none of these tests takes, unless it hangs.
    const LIMIT: Duration = Duration::from_secs(60);

    /// A process without a process: it is served by the test's own thread.
    struct Shim {
        control: AsyncChannel,
        guests: u64,
    }

    impl Shim {
        /// Admits a guest, and gives its stand-in's end.
        fn admit(&mut self, wat: &str) -> AsyncChannel {
            let wasm = wat::parse_str(wat).unwrap();
            let code = engine().unwrap().prepare_to_share(&wasm, None).unwrap().code;
            let (stand_in, its) = Channel::pair().unwrap();
            self.guests += 1;
            let order = Order::Admit {
                guest: self.guests,
                name: format!("guest-{}", self.guests),
            };
            self.control
                .send_with(&order, &[its.as_fd(), code.as_fd()])
                .unwrap();
            AsyncChannel::new(stand_in).unwrap()
        }

        /// The next guest that has gone.
        async fn gone(&self) -> u64 {
            match self.control.receive::<Notice>().await.unwrap().body {
                Notice::Gone { guest } => guest,
                Notice::Report(report) => panic!("nothing passed: {report:?}"),
            }
        }
    }

    fn test(test: impl AsyncFnOnce(Shim)) {
        let (control, its) = Channel::pair().unwrap();
        let runtime = sandbox::runtime().unwrap();
        let ended = runtime.block_on(async {
            let served = tokio::spawn(serve(its));
            let control = AsyncChannel::new(control).unwrap();
            tokio::time::timeout(LIMIT, test(Shim { control, guests: 0 })).await?;
            // With the shim's end of the connection it ends.
            assert!(matches!(served.await.unwrap(), Err(WireError::Closed)));
            Ok::<(), tokio::time::error::Elapsed>(())
        });
        runtime.shutdown_background();
        ended.unwrap();
    }

    /// What a stand-in sends to start its guest, which has a directory when `directory` is one.
    fn start(stand_in: &AsyncChannel, directory: Option<&File>) {
        let named = directory.map(|_| Directory {
            guest: "/".to_owned(),
            read_only: true,
        });
        let given = Given {
            args: vec!["guest".to_owned()],
            env: Vec::new(),
            cwd: None,
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            allow_net: None,
            memory_limit: None,
            directories: named.into_iter().collect(),
        };
        let given = sealed(c"given", &serde_json::to_vec(&given).unwrap()).unwrap();
        let null = File::open("/dev/null").unwrap();
        let streams = [given.as_fd(), null.as_fd(), null.as_fd(), null.as_fd()];
        let files: Vec<_> = streams.into_iter().chain(directory.map(AsFd::as_fd)).collect();
        stand_in.send_with(&(), &files).unwrap();
    }

    async fn end_of(stand_in: &AsyncChannel) -> (u8, Option<String>) {
        let end = stand_in.receive::<End>().await.unwrap().body;
        (end.code, end.reason)
    }

    const RETURNS: &str = r#"(module (func (export "_start")))"#;
    const TRAPS: &str = r#"(module (func (export "_start") unreachable))"#;
    const SPINS: &str = r#"(module (func (export "_start") (loop br 0)))"#;

    #[test]
    fn each_guest_ends_alone() {
        test(async |mut shim| {
            let spinning = shim.admit(SPINS);
            start(&spinning, None);
            let directory = File::open("/").unwrap();
            let returning = shim.admit(RETURNS);
            start(&returning, Some(&directory));
            assert_eq!(end_of(&returning).await, (0, None));
            assert_eq!(shim.gone().await, 2);
            let trapping = shim.admit(TRAPS);
            start(&trapping, None);
            let (code, reason) = end_of(&trapping).await;
            assert_eq!(code, exit::TRAP);
            assert!(reason.unwrap().contains("trapped"));
            assert_eq!(shim.gone().await, 3);
            // Nothing but its stand-in's end ends this one.
            drop(spinning);
            assert_eq!(shim.gone().await, 1);
        });
    }

    #[test]
    fn a_guest_that_was_never_started_goes_with_its_stand_in() {
        test(async |mut shim| {
            drop(shim.admit(SPINS));
            assert_eq!(shim.gone().await, 1);
        });
    }

    #[test]
    fn a_stand_in_that_makes_no_sense_is_told_so() {
        test(async |mut shim| {
            let null = File::open("/dev/null").unwrap();
            for (guest, files) in [0, START_FILES - 1, START_FILES, START_FILES + 1]
                .into_iter()
                .enumerate()
            {
                let stand_in = shim.admit(RETURNS);
                stand_in.send_with(&(), &vec![null.as_fd(); files]).unwrap();
                let (code, reason) = end_of(&stand_in).await;
                assert_eq!(code, exit::HOST, "{files} files");
                assert!(reason.unwrap().starts_with("the guest cannot be started"));
                assert_eq!(shim.gone().await, guest as u64 + 1);
            }
        });
    }
}
