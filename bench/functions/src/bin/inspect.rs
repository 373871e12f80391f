//! Tells what a program is given, and tries what it may do with it.

use cwasi_functions::args::Args;
use cwasi_functions::error::exit;
use cwasi_functions::{Result, report};
use serde::Serialize;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, io, thread};

const USAGE: &str = "\
Prints a JSON line with its arguments, variables and working directory, and what the options below gave.

Usage: inspect [OPTIONS]

  --list DIR       names in a directory
  --read FILE      content of a file
  --write FILE     write the file: null, or the error and its number
  --allocate MIB   have so much memory
  --sleep SECONDS  go on only after that
  --spin           compute for ever
  --trap           trap
  --exit CODE      end with this exit code";

const MIB: usize = 1024 * 1024;

#[derive(Serialize)]
struct Report {
    args: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: Tried<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Tried<Vec<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<Tried<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write: Option<Tried<()>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_mib: Option<usize>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Tried<T> {
    Did(T),
    Failed { error: String, errno: Option<i32> },
}

impl<T> From<io::Result<T>> for Tried<T> {
    fn from(result: io::Result<T>) -> Self {
        match result {
            Ok(value) => Self::Did(value),
            Err(error) => Self::Failed {
                errno: error.raw_os_error(),
                error: error.to_string(),
            },
        }
    }
}

fn main() -> ExitCode {
    let mut code = 0;
    match exit("inspect", || run().map(|wanted| code = wanted)) {
        ExitCode::SUCCESS => leave(code),
        failed => failed,
    }
}

/// Ends with `code`; what main returns tells a component's host only success from failure.
#[cfg(all(target_os = "wasi", target_env = "p2"))]
fn leave(code: u8) -> ExitCode {
    wasip2::cli::exit::exit_with_code(code);
    unreachable!("the host has ended it")
}

#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
fn leave(code: u8) -> ExitCode {
    ExitCode::from(code)
}

fn run() -> Result<u8> {
    let Some(mut args) = Args::from_env(USAGE, &["spin", "trap"])? else {
        return Ok(0);
    };
    let list: Option<PathBuf> = args.optional("list")?;
    let read: Option<PathBuf> = args.optional("read")?;
    let write: Option<PathBuf> = args.optional("write")?;
    let allocate: Option<usize> = args.optional("allocate")?;
    let sleep: Option<u64> = args.optional("sleep")?;
    let (spin, trap) = (args.flag("spin"), args.flag("trap"));
    let code = args.optional("exit")?.unwrap_or_default();
    args.finish()?;

    let memory = allocate.map(|mib| black_box(vec![1u8; mib * MIB]));
    report::print(&Report {
        args: env::args().collect(),
        env: env::vars().collect(),
        cwd: env::current_dir().into(),
        list: list.map(|dir| names(&dir).into()),
        read: read.map(|file| fs::read_to_string(file).into()),
        write: write.map(|file| fs::write(file, "written by inspect\n").into()),
        allocated_mib: memory.as_ref().map(|memory| memory.len() / MIB),
    })?;
    if let Some(seconds) = sleep {
        thread::sleep(Duration::from_secs(seconds));
    }
    if spin {
        loop {
            black_box(());
        }
    }
    if trap {
        std::process::abort();
    }
    // Kept until here.
    drop(memory);
    Ok(code)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}
