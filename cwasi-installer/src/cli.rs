//! The commands of `cwasi-installer`.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::containerd::Restart;
use crate::host::Host;
use crate::install::{Plan, install};
use crate::node::Node;
use crate::status::{State, Status, status};
use crate::uninstall::{AgentDirectories, Options, uninstall};
use crate::{Error, Result, SHIM, process};

/// Puts the cwasi shim and containerd's runtime handler on a node, and takes them away again without a trace.
#[derive(Debug, Parser)]
#[command(name = "cwasi-installer", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done; 1 status: not, or not wholly, installed; 2 the command line is wrong; 3 refused, nothing was \
                        changed; 4 failed, and everything is as it was before; 6 failed otherwise."
)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// Where the node's root is mounted; every other path is one of the node.
    #[arg(
        long,
        env = "CWASI_HOST_ROOT",
        default_value = "/",
        global = true,
        value_name = "DIR"
    )]
    host_root: PathBuf,
    /// containerd's configuration. The handler goes into it, or into DIR/cwasi.toml where it is of version 3 or 4 and imports
    /// DIR/*.toml.
    #[arg(
        long,
        env = "CWASI_CONTAINERD_CONFIG",
        default_value = "/etc/containerd/config.toml",
        global = true,
        value_name = "PATH",
        value_parser = absolute
    )]
    config: PathBuf,
    /// Directory for the programs, which go to its `bin`.
    #[arg(long, env = "CWASI_PREFIX", default_value = "/opt/cwasi", global = true, value_name = "DIR", value_parser = absolute)]
    prefix: PathBuf,
    /// The program containerd, which is asked about its configuration [default: where packages, k3s and RKE2 have it].
    #[arg(long, env = "CWASI_CONTAINERD", global = true, value_name = "PATH", value_parser = absolute)]
    containerd: Option<PathBuf>,
    /// How containerd is restarted.
    #[arg(
        long,
        env = "CWASI_RESTART",
        default_value = "systemd",
        global = true,
        value_name = "HOW"
    )]
    restart: How,
    /// The unit that `--restart systemd` restarts, such as k3s, k3s-agent, rke2-agent.
    #[arg(
        long,
        env = "CWASI_SERVICE",
        default_value = "containerd",
        global = true,
        value_name = "UNIT"
    )]
    service: String,
    /// The command that `--restart command` runs, by the node's shell.
    #[arg(long, env = "CWASI_RESTART_COMMAND", global = true, value_name = "CMD")]
    restart_command: Option<String>,
    /// How to show results.
    #[arg(
        short,
        long,
        env = "CWASI_OUTPUT",
        default_value = "table",
        global = true,
        value_name = "FORMAT"
    )]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum How {
    /// `systemctl restart UNIT`, in the node's root.
    Systemd,
    /// A command of your own.
    Command,
    /// Not at all: you restart it.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs: one JSON document.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy the shim, add the handler, restart containerd. Does nothing where all is done; goes on where another run was killed.
    Install(InstallArgs),
    /// Restore the configuration, restart containerd, remove everything that `install` brought.
    Uninstall(UninstallArgs),
    /// Say what is installed; exits with 1 when something is missing.
    Status,
}

#[derive(Debug, Args)]
struct InstallArgs {
    /// Name of the runtime handler, the `handler` of a RuntimeClass.
    #[arg(long, env = "CWASI_HANDLER", default_value = "cwasi", value_parser = label)]
    handler: String,
    /// Directory with bin/containerd-shim-cwasi-v1 [default: ../share/cwasi, or .., of this program's own].
    #[arg(long, env = "CWASI_PAYLOAD", value_name = "DIR")]
    payload: Option<PathBuf>,
    /// Another program of the payload to copy, such as cwasi-run or cwasi-agent; repeatable, or comma separated.
    #[arg(long, env = "CWASI_WITH", value_name = "PROGRAM", value_delimiter = ',', value_parser = program)]
    with: Vec<String>,
    /// The kubelet's directory: the agent's seccomp profile goes to its seccomp/cwasi/agent.json.
    #[arg(long, env = "CWASI_KUBELET_ROOT", value_name = "DIR", value_parser = absolute)]
    kubelet_root: Option<PathBuf>,
    /// Stay until SIGTERM or SIGINT, as the container of a DaemonSet does.
    #[arg(long, env = "CWASI_WAIT")]
    wait: bool,
    /// Uninstall at that signal. A rolling update or a drain of the node sends it, too.
    #[arg(long, env = "CWASI_UNINSTALL_ON_EXIT", requires = "wait")]
    uninstall_on_exit: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

#[derive(Debug, Args)]
struct UninstallArgs {
    /// Also while functions run: they go on, and what is left of them is not cleaned up by the shim.
    #[arg(long, env = "CWASI_FORCE")]
    force: bool,
    /// Stay until SIGTERM or SIGINT, as the container of a DaemonSet does.
    #[arg(long, env = "CWASI_WAIT")]
    wait: bool,
    #[command(flatten)]
    cache: CacheArgs,
    /// The agent's directory of socket and state, such as /run/cwasi, removed with it: after `cwasi-agent unload`.
    #[arg(long, env = "CWASI_AGENT_DIR", value_name = "DIR", value_parser = absolute)]
    agent_dir: Option<PathBuf>,
    /// The agent's directory of pins, such as /sys/fs/bpf/cwasi, removed when there are none.
    #[arg(long, env = "CWASI_AGENT_BPFFS", value_name = "DIR", value_parser = absolute)]
    agent_bpffs: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CacheArgs {
    /// The shim's directory of compiled guests, removed with it.
    #[arg(long, env = "CWASI_CACHE_DIR", default_value = "/var/cache/cwasi", value_name = "DIR", value_parser = absolute)]
    cache_dir: PathBuf,
}

fn absolute(text: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() && path.file_name().is_some() {
        return Ok(path);
    }
    Err("not an absolute path of the node".to_owned())
}

/// A RuntimeClass's handler is a DNS label (RFC 1123).
fn label(text: &str) -> std::result::Result<String, String> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = !text.starts_with('-') && !text.ends_with('-');
    if (1..=63).contains(&text.len()) && text.bytes().all(is_inner) && ends {
        return Ok(text.to_owned());
    }
    Err("not a DNS label: up to 63 lower-case letters, digits and inner dashes".to_owned())
}

fn program(text: &str) -> std::result::Result<String, String> {
    if !text.is_empty() && !text.contains('/') && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err("not the name of a program".to_owned())
}

impl Common {
    fn node(&self) -> std::result::Result<Node, &'static str> {
        Ok(Node {
            host: Host::new(&self.host_root, Box::new(|change| tracing::debug!("{change}"))),
            config: self.config.clone(),
            prefix: self.prefix.clone(),
            containerd: self.containerd.clone(),
            restart: match self.restart {
                How::Systemd => Restart::Systemd(self.service.clone()),
                How::Command => {
                    let command = self.restart_command.clone();
                    Restart::Command(command.ok_or("`--restart command` needs --restart-command")?)
                }
                How::None => Restart::None,
            },
        })
    }

    fn print(&self, value: &impl Serialize, text: &str) -> Result<()> {
        let text = match self.output {
            Format::Table => text.to_owned(),
            Format::Json => {
                serde_json::to_string_pretty(value).map_err(|error| Error::Output(error.into()))?
            }
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(Error::Output)
    }
}

impl UninstallArgs {
    fn options(&self) -> Options {
        Options {
            force: self.force,
            cache: Some(self.cache.cache_dir.clone()),
            agent: AgentDirectories {
                run: self.agent_dir.clone(),
                bpffs: self.agent_bpffs.clone(),
            },
        }
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("CWASI_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .try_init();
    let node = cli.common.node().unwrap_or_else(|error| {
        Cli::command()
            .error(ErrorKind::MissingRequiredArgument, error)
            .exit()
    });
    match perform(&cli, &node) {
        Ok(code) => code,
        // A reader that has seen enough, such as `head`, is no failure.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "cwasi-installer: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn perform(cli: &Cli, node: &Node) -> Result<ExitCode> {
    let common = &cli.common;
    match &cli.command {
        Command::Install(options) => {
            let signals = options.wait.then(hold_signals);
            let payload = options.payload.clone().map_or_else(default_payload, Ok)?;
            let kubelet_root = options.kubelet_root.as_deref();
            let plan = Plan::new(node, &options.handler, &payload, &options.with, kubelet_root);
            let done = install(node, &plan)?;
            common.print(&done, &done.message)?;
            if let Some(signals) = signals {
                wait(&signals);
                if options.uninstall_on_exit {
                    let on_exit = Options {
                        cache: Some(options.cache.cache_dir.clone()),
                        ..Options::default()
                    };
                    let done = uninstall(node, &on_exit)?;
                    common.print(&done, &done.message)?;
                }
            }
        }
        Command::Uninstall(options) => {
            let signals = options.wait.then(hold_signals);
            let done = uninstall(node, &options.options())?;
            common.print(&done, &done.message)?;
            if let Some(signals) = signals {
                wait(&signals);
            }
        }
        Command::Status => {
            let status = status(node)?;
            common.print(&status, &lines(&status))?;
            return Ok(match status.state {
                State::Installed => ExitCode::SUCCESS,
                State::Incomplete | State::Absent => ExitCode::from(1),
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(status: &Status) -> String {
    let mut text = match status.state {
        State::Installed => "installed".to_owned(),
        State::Incomplete => "not wholly installed".to_owned(),
        State::Absent => "not installed".to_owned(),
    };
    if let (Some(handler), Some(config), Some(version)) = (&status.handler, &status.config, &status.version) {
        text += &format!(
            ": handler {handler} in {}, by version {version}",
            config.display()
        );
    }
    for problem in &status.problems {
        text += &format!("\n  {problem}");
    }
    if !status.running.is_empty() {
        text += &format!("\n  {} processes of functions run", status.running.len());
    }
    text
}

/// In the image the payload is apart from this program; in the tarball all programs are in one directory.
fn default_payload() -> Result<PathBuf> {
    let parent = process::own_directory()?.join("..");
    let share = parent.join("share/cwasi");
    let is_there = |payload: &Path| payload.join("bin").join(SHIM).exists();
    Ok(if is_there(&share) { share } else { parent })
}

/// From here on the signals wait until they are waited for. The first process of a container would not be ended by them.
fn hold_signals() -> SigSet {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    if let Err(error) = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None) {
        tracing::warn!("cannot hold signals: {error}");
    }
    signals
}

fn wait(signals: &SigSet) {
    match signals.wait() {
        Ok(signal) => tracing::info!("{signal}"),
        Err(error) => tracing::error!("cannot wait for signals: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        let parse = |arguments: &[&str]| Cli::try_parse_from([&["cwasi-installer"], arguments].concat());
        assert!(parse(&["install", "--with", "cwasi-run,cwasi-agent", "--handler", "a-1"]).is_ok());
        for wrong in [
            &["install", "--handler", "A"][..],
            &["install", "--handler", "a]"],
            &["install", "--with", "../sh"],
            &["install", "--uninstall-on-exit"],
            &["status", "--config", "config.toml"],
            &["status", "--prefix", "/"],
            &["uninstall", "--cache-dir", "cache"],
            &["status", "--restart", "sometimes"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
