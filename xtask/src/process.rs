//! Running other programs: every failure names the command.

use crate::progress;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

/// Runs a command with this process's own stdout and stderr and waits for it.
///
/// # Errors
/// [`Error::Spawn`] when it cannot start, [`Error::Failed`] when it exits non-zero.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|source| spawn_error(command, source))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(command, status))
    }
}

/// Runs a command behind a progress line; its output is shown only when it fails.
///
/// # Errors
/// As [`run`].
pub fn run_quiet(message: &str, command: &mut Command) -> Result<Output> {
    let step = progress::step(message);
    let result = capture(command);
    drop(step);
    result
}

/// Runs a command and returns its trimmed stdout.
///
/// # Errors
/// As [`run`], and [`Error::Output`] when stdout is not UTF-8.
pub fn stdout(command: &mut Command) -> Result<String> {
    let output = capture(command)?;
    let text = String::from_utf8(output.stdout).map_err(|error| Error::Output {
        program: brief(command),
        detail: error.to_string(),
    })?;
    Ok(text.trim_end().to_owned())
}

fn capture(command: &mut Command) -> Result<Output> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| spawn_error(command, source))?;
    if output.status.success() {
        return Ok(output);
    }
    eprint!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Err(failed(command, output.status))
}

/// Runs a command that reports on stderr as it goes, and returns what it printed on stdout.
///
/// # Errors
/// As [`run`].
pub fn stdout_bytes(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| spawn_error(command, source))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(failed(command, output.status))
    }
}

/// The executables that a `cargo build --message-format=json…` says it made.
#[must_use]
pub fn executables(messages: &[u8]) -> Vec<PathBuf> {
    messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(message.get("executable")?.as_str()?.into()))
        .collect()
}

fn failed(command: &Command, status: ExitStatus) -> Error {
    Error::Failed {
        program: brief(command),
        status,
    }
}

/// The program and its first argument, which is the subcommand of the tools used here.
#[must_use]
pub fn brief(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let mut text = program.to_string_lossy().into_owned();
    if let Some(argument) = command.get_args().next() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

fn spawn_error(command: &Command, source: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    let remedy = match program.as_str() {
        "rustc" | "cargo" | "rustup" => "install Rust with rustup",
        "apt-get" | "dpkg-deb" => "this step needs a Debian or Ubuntu machine",
        "tar" => "install tar and xz",
        _ => "",
    };
    Error::Spawn {
        program,
        remedy,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::executables;
    use std::path::Path;

    #[test]
    fn executables_are_read_from_cargo_messages() {
        let messages = br#"{"reason":"compiler-artifact","executable":null}
{"reason":"compiler-artifact","executable":"/t/release/cwasi"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executables(messages), [Path::new("/t/release/cwasi")]);
        assert!(executables(b"{}\nno json").is_empty());
    }
}
