//! `examples`: the functions that the documentation shows, built as it says and run.

use crate::error::FileContext;
use crate::{Error, Result, apt, features, paths, process};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use super::build_functions::{c_example, rust_example};

const EXAMPLES: &str = "examples/functions";
const PING: &str = "bench/functions/prebuilt/ping.wasm";

/// The tool that makes components of Python programs, and its version.
const COMPONENTIZE: &str = "componentize-py";
const COMPONENTIZE_VERSION: &str = "0.25.1";

/// How long a function may take until it listens: a component of 18 MB is compiled first, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes a component of what is in a directory of the repository.
type Build = fn(&str) -> Result<PathBuf>;

/// Builds the functions of examples/functions in Rust, C and Python, and lets each answer another function.
///
/// What this machine has no tools for is skipped, with the reason. `componentize-py` is installed into the cache of build tools.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// An example cannot be built, or does not send back what it is sent.
pub fn run(_args: &Args) -> Result<()> {
    let examples: [(&str, Build); 3] = [
        ("rust", rust_example),
        ("c", c_example),
        ("python", python_example),
    ];
    let mut built = Vec::new();
    for (language, build) in examples {
        match build(&format!("{EXAMPLES}/{language}")) {
            Ok(component) => built.push((language, component)),
            Err(reason @ Error::Missing { .. }) => println!("skipped: {language}: {reason}"),
            Err(error) => return Err(error),
        }
    }
    // Last: it may replace this very program, which the Rust example is built with.
    process::run(features::whole_workspace(
        Command::new("cargo").arg("build").current_dir(paths::root()),
    ))?;
    let runner = paths::target_dir().join("debug/cwasi-run");
    for (language, component) in built {
        answers_ping(&runner, &component)?;
        println!("{language}: {} answers", component.display());
    }
    Ok(())
}

fn python_example(directory: &str) -> Result<PathBuf> {
    let out = paths::target_dir().join("guests/python");
    std::fs::create_dir_all(&out).file("create", &out)?;
    let component = out.join("echo.wasm");
    process::run_quiet(
        "building the Python example",
        Command::new(componentize()?)
            .args(["-d", "echo.wit", "-w", "echo", "componentize", "app", "-o"])
            .arg(&component)
            // What it compiles would be left beside the source.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(paths::root().join(directory)),
    )?;
    Ok(component)
}

/// The path of componentize-py, which is installed first when it is missing.
fn componentize() -> Result<PathBuf> {
    let environment = paths::cache_dir()?.join(format!("{COMPONENTIZE}-{COMPONENTIZE_VERSION}"));
    let program = environment.join("bin").join(COMPONENTIZE);
    if program.exists() {
        return Ok(program);
    }
    if apt::can_install() {
        apt::install_missing(&["python3-venv"])?;
    }
    let missing = |_| Error::Missing {
        what: format!("{COMPONENTIZE} {COMPONENTIZE_VERSION} cannot be installed"),
        remedy: "it needs Python 3.10 or later with venv and pip".into(),
    };
    process::run_quiet(
        "making a Python environment",
        Command::new("python3").args(["-m", "venv"]).arg(&environment),
    )
    .map_err(missing)?;
    process::run_quiet(
        &format!("installing {COMPONENTIZE}"),
        Command::new(environment.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .arg(format!("{COMPONENTIZE}=={COMPONENTIZE_VERSION}")),
    )
    .map_err(missing)?;
    Ok(program)
}

/// Runs the component as a function that `ping` measures: it compares every byte that comes back.
fn answers_ping(runner: &Path, component: &Path) -> Result<()> {
    let address = free_address()?;
    let function = || {
        let mut command = Command::new(runner);
        command.arg("--no-agent");
        command.env("CWASI_CACHE_DIR", paths::target_dir().join("guests/cache"));
        command
    };
    let mut echo = Running::start(function().arg(component).arg(&address))?;
    echo.wait_for("listening on")?;
    for size in ["64", "100000"] {
        process::run_quiet(
            &format!("sending to {}", component.display()),
            function()
                .args([PING, &address, "--count", "9", "--size", size])
                .current_dir(paths::root()),
        )?;
    }
    Ok(())
}

fn free_address() -> Result<String> {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    Ok(address.file("bind", "127.0.0.1:0")?.to_string())
}

/// A function that runs until this is dropped.
struct Running {
    child: Child,
    lines: Receiver<String>,
    program: String,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let program = process::brief(command);
        let spawned = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|source| Error::Spawn {
            program: program.clone(),
            remedy: "",
            source,
        })?;
        let errors = child.stderr.take().expect("piped above");
        let (send, lines) = mpsc::channel();
        // Ends with the program.
        thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(|line| line.ok()) {
                eprintln!("{line}");
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            program,
        })
    }

    fn wait_for(&mut self, beginning: &str) -> Result<()> {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if line.starts_with(beginning) {
                return Ok(());
            }
        }
        Err(Error::Output {
            program: self.program.clone(),
            detail: format!("no line `{beginning}`"),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
