//! Programs of the node, run to their end within a time.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::IoContext;
use crate::{Error, Result};

/// How often an end is looked for.
const POLL: Duration = Duration::from_millis(20);

/// How much of what a failed command printed is shown.
const SHOWN: usize = 600;

/// Runs a command that must succeed within `limit`, and gives what it prints on stdout.
pub(crate) fn stdout(command: &mut Command, limit: Duration) -> Result<String> {
    let name = brief(command);
    // Memory and not pipes: what a command leaves running would keep a pipe open for ever.
    let (out, err) = (memory(&name)?, memory(&name)?);
    let copy = |file: &File| file.as_fd().try_clone_to_owned().on("run", &name);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(copy(&out)?)
        .stderr(copy(&err)?)
        .spawn()
        .on("run", &name)?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().on("wait for", &name)? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Command {
                command: name,
                detail: format!("no end within {limit:?}"),
            });
        }
        thread::sleep(POLL);
    };
    let (out, err) = (
        content(out).on("read the output of", &name)?,
        content(err).on("read the output of", &name)?,
    );
    if status.success() {
        return Ok(out);
    }
    Err(Error::Command {
        command: name,
        detail: format!("{status}: {}", end_of(&err)),
    })
}

fn memory(name: &str) -> Result<File> {
    memfd_create(c"output", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .on("make a file in memory for", name)
}

fn content(mut file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines, as one: a message for people is one line.
fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let line = lines.join("; ");
    let cut = line.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
    line[cut..].to_owned()
}

fn brief(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// The directory of this program's own file.
pub(crate) fn own_directory() -> Result<std::path::PathBuf> {
    let own = env::current_exe().on("find", "this program's own file")?;
    Ok(own.parent().unwrap_or(&own).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(stdout(&mut sh("echo out"), LONG).unwrap(), "out\n");
        let error = stdout(&mut sh("echo one >&2; echo two >&2; exit 3"), LONG).unwrap_err();
        assert!(error.to_string().ends_with("exit status: 3: one; two"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let error = stdout(&mut sh("exec sleep 1000"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("no end within"), "{error}");
    }
}
