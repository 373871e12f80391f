//! Programs in a network namespace: started, waited for, and never left behind.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::panic;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cwasi_client::netns;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::error::IoContext;
use crate::{Error, Result, interrupt, tool};

/// How often the end of a process is looked for.
const POLL: Duration = Duration::from_millis(10);

/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A running program, in a process group of its own: a Ctrl-C at the terminal reaches only this process, which then ends
/// it in order. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a command, in `netns` when given.
    ///
    /// # Errors
    /// The program or the namespace does not exist, or the system refuses.
    pub fn spawn(command: &mut Command, netns: Option<&Path>) -> Result<Self> {
        Self::spawn_on(command, netns, None)
    }

    /// [`Process::spawn`] on the processor `cpu` alone, when given.
    ///
    /// # Errors
    /// See there; the processor does not exist.
    pub fn spawn_on(command: &mut Command, netns: Option<&Path>, cpu: Option<usize>) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // A child starts where the thread that forks it is: no code has to run between fork and exec.
        let start = || pin(cpu).and_then(|()| command.spawn());
        let spawned = match netns {
            Some(path) => netns::run(path, start)?,
            None => thread::scope(|scope| scope.spawn(start).join())
                .unwrap_or_else(|panicked| panic::resume_unwind(panicked)),
        };
        let mut child = spawned.map_err(|source| tool::spawn_error(command, source))?;
        Ok(Self {
            name: tool::brief(command),
            stdout: child.stdout.take().map(collect),
            stderr: child.stderr.take().map(collect),
            child,
            ended: None,
        })
    }

    /// The process, told of in errors as `command`: for one that something else has started in its place.
    #[must_use]
    pub fn named(mut self, command: &Command) -> Self {
        self.name = tool::brief(command);
        self
    }

    /// The command line in short.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the program ends by itself and returns its stdout.
    ///
    /// # Errors
    /// [`Error::Failed`] when it exits non-zero, [`Error::Timeout`], [`Error::Interrupted`].
    pub fn wait(mut self, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.poll()? {
                return self.output(status);
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout {
                    program: self.name.clone(),
                    what: "end".to_owned(),
                    after: timeout,
                });
            }
            interrupt::pause(POLL)?;
        }
    }

    /// Waits until something listens on a TCP port in `netns`.
    ///
    /// # Errors
    /// The program ended instead ([`Error::Failed`]), [`Error::Timeout`], [`Error::Interrupted`].
    pub fn wait_listening(&mut self, netns: &Path, port: u16, timeout: Duration) -> Result<()> {
        self.wait_until(&format!("listen on port {port}"), timeout, || {
            listens(netns, port)
        })
    }

    /// Waits until `ready`.
    ///
    /// # Errors
    /// See [`Process::wait_listening`].
    pub fn wait_until(
        &mut self,
        what: &str,
        timeout: Duration,
        mut ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !ready()? {
            if let Some(status) = self.poll()? {
                let stderr = self.stderr();
                return Err(Error::Failed {
                    program: self.name.clone(),
                    status,
                    stderr,
                });
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout {
                    program: self.name.clone(),
                    what: what.to_owned(),
                    after: timeout,
                });
            }
            interrupt::pause(POLL)?;
        }
        Ok(())
    }

    /// Asks the program to end by SIGTERM, and kills it when it does not.
    ///
    /// # Errors
    /// Its state cannot be read.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // Only the program itself: it may want to end its children in an order of its own.
        signal(kill(pid, Signal::SIGTERM))?;
        let deadline = Instant::now() + GRACE;
        while self.poll()?.is_none() {
            if Instant::now() > deadline {
                signal(killpg(pid, Signal::SIGKILL))?;
                self.ended = Some(self.child.wait().action(|| format!("wait for {}", self.name))?);
                break;
            }
            thread::sleep(POLL);
        }
        // Children that outlived it are still in its group.
        signal(killpg(pid, Signal::SIGKILL))
    }

    /// Sends a signal to it alone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&self, what: Signal) -> Result<()> {
        self.pid().map_or(Ok(()), |pid| signal(kill(pid, what)))
    }

    /// Sends a signal to it and to what it has started.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal_group(&self, what: Signal) -> Result<()> {
        self.pid().map_or(Ok(()), |pid| signal(killpg(pid, what)))
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<Pid> {
        match self.ended {
            None => i32::try_from(self.child.id()).ok().map(Pid::from_raw),
            Some(_) => None,
        }
    }

    /// Its exit status, once it has ended.
    ///
    /// # Errors
    /// Its state cannot be read.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .action(|| format!("wait for {}", self.name))?;
        }
        Ok(self.ended)
    }

    fn output(&mut self, status: ExitStatus) -> Result<String> {
        // A child that outlived it would hold the pipes open.
        if let Ok(group) = i32::try_from(self.child.id()) {
            signal(killpg(Pid::from_raw(group), Signal::SIGKILL))?;
        }
        let stdout = join(self.stdout.take());
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        let stderr = self.stderr();
        Err(Error::Failed {
            program: self.name.clone(),
            status,
            stderr,
        })
    }

    fn stderr(&mut self) -> String {
        tool::last_lines(&join(self.stderr.take()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to tell; whatever survives in a pod is killed with the topology.
        let _ = self.end();
    }
}

/// Keeps the calling thread, and what it forks, on one processor.
fn pin(cpu: Option<usize>) -> io::Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Reads to the end on a thread, so that a talkative program never blocks on a full pipe.
fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is all there is to show.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn join(reader: Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}

fn signal(result: nix::Result<()>) -> Result<()> {
    match result {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno).action(|| "signal a process"),
    }
}

/// Whether a TCP socket listens on `port` in a network namespace.
///
/// # Errors
/// The namespace cannot be entered.
pub fn listens(netns: &Path, port: u16) -> Result<bool> {
    // /proc/thread-self, not /proc/self: only this thread is in the namespace.
    let tables = netns::run(netns, || {
        ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")))
    })?;
    // A kernel without IPv6 has no tcp6.
    Ok(tables.iter().flatten().any(|table| listens_in(table, port)))
}

/// Whether a `/proc/net/tcp` table has a socket in state LISTEN (0A) on `port`.
fn listens_in(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _, state) = (fields.next(), fields.next(), fields.next());
        local.is_some_and(|local| local.ends_with(&suffix)) && state == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listening_sockets_are_told_from_others() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n   \
                     1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000\n";
        assert!(listens_in(table, 8080));
        assert!(!listens_in(table, 8081));
        assert!(!listens_in(table, 80));
    }

    #[test]
    fn the_own_namespace_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        match listens(Path::new("/proc/self/ns/net"), port) {
            Ok(found) => assert!(found),
            Err(Error::Netns(netns::NetnsError::Enter { errno, .. })) => eprintln!("skipped: setns: {errno}"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn output_and_failure_come_back() {
        let process = Process::spawn(Command::new("echo").arg("hi"), None).unwrap();
        assert_eq!(process.wait(Duration::from_secs(10)).unwrap(), "hi\n");
        let process = Process::spawn(Command::new("sh").args(["-c", "echo why >&2; exit 4"]), None).unwrap();
        let error = process.wait(Duration::from_secs(10)).unwrap_err().to_string();
        assert!(
            error.contains("exit status: 4") && error.ends_with("why"),
            "{error}"
        );
    }

    #[test]
    fn a_drop_ends_the_whole_group() {
        let mut process = Process::spawn(
            Command::new("sh").args(["-c", "sleep 1000 & echo $!; wait"]),
            None,
        )
        .unwrap();
        let pid = process.pid().unwrap();
        let group_alive = || killpg(pid, None).is_ok();
        assert!(process.poll().unwrap().is_none() && group_alive());
        drop(process);
        // The orphan is reaped by init, whenever that gets to it.
        let deadline = Instant::now() + Duration::from_secs(10);
        while group_alive() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        assert!(!group_alive());
    }

    #[test]
    fn a_processor_is_the_only_one() {
        let status = Process::spawn_on(Command::new("cat").arg("/proc/self/status"), None, Some(0)).unwrap();
        let status = status.wait(Duration::from_secs(10)).unwrap();
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    }

    #[test]
    fn a_slow_program_times_out() {
        let process = Process::spawn(Command::new("sleep").arg("1000"), None).unwrap();
        let error = process.wait(Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    }
}
