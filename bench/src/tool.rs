//! The command-line tools that a run needs, and the packages that have them.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::IoContext;
use crate::{Error, Result};

/// Tools by name, with Debian's package of each.
const PACKAGES: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
];

/// Where tools of administrators are, also when the caller's PATH leaves that out.
const ADMIN_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The package that has a tool.
#[must_use]
pub fn package(name: &str) -> Option<&'static str> {
    PACKAGES
        .iter()
        .find(|(tool, _)| *tool == name)
        .map(|(_, package)| *package)
}

/// The path of a tool, from PATH or the administrators' directories.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(ADMIN_DIRS.map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// A command of a tool.
#[must_use]
pub fn command(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| name.into()))
}

/// Runs a command with `input` as its stdin and returns its stdout.
///
/// # Errors
/// [`Error::Spawn`] with the package to install when the tool is missing, [`Error::Failed`] with its stderr.
pub fn run(command: &mut Command, input: &str) -> Result<String> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| spawn_error(command, source))?;
    let mut stdin = child.stdin.take().expect("piped above");
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child
        .wait_with_output()
        .action(|| format!("wait for {}", brief(command)))?;
    if !output.status.success() {
        return Err(Error::Failed {
            program: brief(command),
            status: output.status,
            stderr: last_lines(&output.stderr),
        });
    }
    written.action(|| format!("write to {}", brief(command)))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The error of a command that cannot be started.
pub(crate) fn spawn_error(command: &Command, source: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    let remedy = match package(&program) {
        Some(package) => format!("; install the package {package}"),
        None => String::new(),
    };
    Error::Spawn {
        program,
        source,
        remedy,
    }
}

/// A command line in short: the program's name and its first arguments.
#[must_use]
pub fn brief(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args().take(3) {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// The end of what a program printed, as one line.
#[must_use]
pub(crate) fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let from = lines.len().saturating_sub(5);
    if lines.is_empty() {
        "it printed nothing".to_owned()
    } else {
        lines[from..].join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_the_command_and_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "cat; echo no >&2; exit 3"]), "x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "sh -c cat; echo no >&2; exit 3 failed (exit status: 3): no"
        );
        assert_eq!(run(&mut Command::new("cat"), "x\ny").unwrap(), "x\ny");
    }

    #[test]
    fn missing_tools_name_their_package() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = spawn_error(&Command::new("nft"), missing).to_string();
        assert!(error.ends_with("; install the package nftables"), "{error}");
        assert!(find("no-such-tool-of-anyone").is_none());
        assert!(find("sh").is_some());
    }

    #[test]
    fn the_last_lines_are_kept() {
        assert_eq!(last_lines(b"a\nb\nc\n\nd\ne\n f\n"), "b; c; d; e; f");
        assert_eq!(last_lines(b"\n"), "it printed nothing");
    }
}
