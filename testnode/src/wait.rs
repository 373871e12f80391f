//! Waiting with an end: what hangs becomes an error that tells what was waited for.

use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{IoContext, brief};
use crate::{Error, Result};

/// How long one step may take on a busy machine, compilation of a guest included: as long as a kubelet waits for an answer.
pub const LONG: Duration = Duration::from_secs(120);

/// How long a closed connection may stay whose peer is gone without an answer: TCP repeats its end for 102 s
/// (`net.ipv4.tcp_orphan_retries` of 0 means 8 times), and the agent looks every 10 s. So long it is no leftover.
pub const CLOSING: Duration = Duration::from_secs(150);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `find` gives a value.
///
/// # Errors
/// [`Error::Timeout`] after [`LONG`], and what `find` fails with.
pub fn until<T>(what: impl Into<String>, find: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within(LONG, what, find)
}

/// [`until`], with another end.
///
/// # Errors
/// See there.
pub fn within<T>(
    after: Duration,
    what: impl Into<String>,
    mut find: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + after;
    loop {
        if let Some(found) = find()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(Error::Timeout {
                what: what.into(),
                after,
            });
        }
        thread::sleep(POLL);
    }
}

/// Waits for the end of a program, and kills it when that does not come in time.
pub(crate) fn end_of(child: &mut Child, name: &str, after: Duration) -> Result<std::process::ExitStatus> {
    let ended = within(after, format!("the end of {name}"), || {
        child.try_wait().action(|| format!("wait for {name}"))
    });
    if ended.is_err() {
        // It may have ended meanwhile.
        let _ = child.kill();
        let _ = child.wait();
    }
    ended
}

/// Runs a command to its end, within [`LONG`].
///
/// # Errors
/// It cannot be started, or does not end.
pub fn output(command: &mut Command) -> Result<Output> {
    let name = brief(command);
    let files = (scratch()?, scratch()?);
    let copy = |file: &std::fs::File| file.try_clone().action(|| "copy a descriptor");
    // Files and not pipes: what a command leaves running would keep a pipe open for ever.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(copy(&files.0)?)
        .stderr(copy(&files.1)?)
        .spawn()
        .action(|| format!("run {name}"))?;
    let status = end_of(&mut child, &name, LONG)?;
    Ok(Output {
        status,
        stdout: content(files.0)?,
        stderr: content(files.1)?,
    })
}

/// Runs a command that must succeed, and gives what it prints on stdout.
///
/// # Errors
/// See [`output`]; [`Error::Failed`] with everything that it printed.
pub fn succeed(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() {
        return Ok(stdout);
    }
    Err(Error::Failed {
        program: brief(command),
        status: output.status,
        output: format!("{}{}", stdout, stderr).trim().to_owned(),
    })
}

fn scratch() -> Result<std::fs::File> {
    tempfile::tempfile().action(|| "make a temporary file")
}

fn content(mut file: std::fs::File) -> Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .action(|| "read a command's output")?;
    Ok(bytes)
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_give_output_or_their_reason() {
        assert_eq!(succeed(Command::new("echo").arg("hi")).unwrap(), "hi\n");
        let error = succeed(Command::new("sh").args(["-c", "echo why >&2; exit 4"])).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("exit status: 4") && error.ends_with("why"),
            "{error}"
        );
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let error = end_of(&mut child, "sleep", Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert!(child.try_wait().unwrap().is_some());
    }

    #[test]
    fn what_a_command_leaves_running_is_not_waited_for() {
        let left = succeed(Command::new("sh").args(["-c", "sleep 1000 & echo $!"])).unwrap();
        let pid: i32 = left.trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}
