//! Flags, and their mirrors in the environment.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use cwasi_client::DEFAULT_SOCKET;
use cwasi_client::protocol::{FunctionSpec, Sockets};
use cwasi_ebpf_common::maps::Config;
use ipnet::{AddrParseError, IpNet};

use crate::agent::Settings;
use crate::exec::ExecOptions;
use crate::kernel::object::Object;
use crate::page::StatusPage;
use crate::prepare::User;
use crate::run::RunOptions;

/// Most that may wait in one receiver's queue, whatever is asked for: it is kernel memory.
const MAX_BUDGET: i64 = 1 << 30;

/// The node agent of cwasi: TCP between the functions of a node goes straight from socket to socket.
#[derive(Debug, Parser)]
#[command(name = "cwasi-agent", version, propagate_version = true)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The agent's Unix socket.
    #[arg(long, env = "CWASI_SOCKET", default_value = DEFAULT_SOCKET, global = true, value_name = "PATH")]
    pub socket: PathBuf,
    /// Directory of the pinned maps and links, on a bpffs.
    #[arg(
        long,
        env = "CWASI_BPFFS",
        default_value = "/sys/fs/bpf/cwasi",
        global = true,
        value_name = "DIR"
    )]
    pub bpffs: PathBuf,
    /// How to show results.
    #[arg(
        short,
        long,
        env = "CWASI_OUTPUT",
        default_value = "table",
        global = true,
        value_name = "FORMAT"
    )]
    pub output: Format,
}

/// How to show results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: one JSON document.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground.
    Run(RunArgs),
    /// Show health and totals; exits with 1 when degraded.
    Status,
    /// List the registered functions.
    Functions,
    /// List the open connections of functions.
    Flows(FlowsArgs),
    /// Look at what the kernel offers, and say what to do about each miss; exits with 1 when something needed is missing.
    Probe,
    /// Switch acceleration on.
    Enable(StateArgs),
    /// Switch acceleration off: open connections go on by TCP from their next send. Works without an agent too.
    Disable(StateArgs),
    /// Take programs, maps and pins out of the kernel and end the agent; open connections go on by TCP.
    Unload,
    /// Say which path a connection would take, and why.
    Explain {
        /// Connecting function: NAME, NAMESPACE/NAME, or its address.
        src: String,
        /// Destination: ADDRESS, ADDRESS:PORT, or the NAME of a function.
        dst: String,
    },
    /// Run a command as a function: in a cgroup of its own, registered, its exit code passed on.
    Exec(ExecArgs),
    /// As root: make the agent's directories and give them, with what is in them, to the user that it is to run as.
    Prepare(PrepareArgs),
    /// Show the build of this program, and of the agent if one answers.
    Version,
}

/// Where what must survive a restart is kept.
#[derive(Clone, Debug, Args)]
pub struct StateArgs {
    /// Directory of what survives a restart [default: `state` beside the socket].
    #[arg(long, env = "CWASI_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl StateArgs {
    /// The state directory.
    #[must_use]
    pub fn dir(&self, common: &Common) -> PathBuf {
        let beside = || common.socket.parent().unwrap_or(Path::new("")).join("state");
        self.state_dir.clone().unwrap_or_else(beside)
    }
}

/// Flags of `prepare`.
#[derive(Clone, Debug, Args)]
pub struct PrepareArgs {
    /// The user, and the group where that has another number.
    #[arg(long, value_name = "UID[:GID]")]
    pub user: User,
    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Where to serve Prometheus metrics, /healthz and /readyz; port 0 takes any.
    #[arg(
        long,
        env = "CWASI_METRICS_ADDR",
        default_value = "127.0.0.1:9464",
        value_name = "ADDR:PORT"
    )]
    metrics_addr: SocketAddr,
    /// Serve a status page beside the metrics, at /status: to this machine alone, or to any that reaches the metrics.
    #[arg(
        long,
        env = "CWASI_STATUS_PAGE",
        default_value = "off",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "loopback",
        value_name = "AUDIENCE"
    )]
    status_page: StatusPage,
    /// Bytes that may wait in one receiver's redirect queue before its senders go back to TCP.
    #[arg(
        long,
        env = "CWASI_BUDGET_BYTES",
        default_value_t = Config::DEFAULT_BUDGET,
        value_parser = value_parser!(u32).range(i64::from(Config::MIN_BUDGET)..=MAX_BUDGET),
        value_name = "BYTES"
    )]
    budget_bytes: u32,
    /// Prefixes of this node's endpoints, beside loopback and the functions' addresses; comma separated, repeatable.
    #[arg(long, env = "CWASI_LOCAL_CIDR", value_name = "CIDR,…")]
    local_cidr: Vec<Cidrs>,
    /// Prefixes of Services, behind which a function of this node may be; comma separated, repeatable.
    #[arg(long, env = "CWASI_SERVICE_CIDR", value_name = "CIDR,…")]
    service_cidr: Vec<Cidrs>,
}

impl RunArgs {
    /// What the agent is to do.
    #[must_use]
    pub fn options(&self, common: &Common) -> RunOptions {
        let all = |cidrs: &[Cidrs]| cidrs.iter().flat_map(|cidrs| cidrs.0.clone()).collect();
        RunOptions {
            socket: common.socket.clone(),
            state_dir: self.state.dir(common),
            status_page: self.status_page,
            object: Object::embedded(),
            settings: Settings {
                bpffs: common.bpffs.clone(),
                budget: self.budget_bytes,
                local: all(&self.local_cidr),
                service: all(&self.service_cidr),
                metrics_addr: Some(self.metrics_addr),
            },
        }
    }
}

/// Prefixes separated by commas. An empty text is none: manifests set variables to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cidrs(Vec<IpNet>);

impl FromStr for Cidrs {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Flags of `flows`.
#[derive(Clone, Copy, Debug, Args)]
pub struct FlowsArgs {
    /// Go on: every interval, show open connections and what happened to connections meanwhile.
    #[arg(short, long)]
    pub watch: bool,
    /// Seconds between two looks, at most 30: the agent closes connections that are silent for a minute.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u64).range(1..=30), value_name = "SECONDS")]
    pub interval: u64,
}

/// [`Sockets`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SocketsArg {
    /// Those that are non-blocking when the connection is made; accepted ones, when their listener is.
    NonBlocking,
    /// All of them.
    All,
}

/// Flags of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Name of the function.
    #[arg(long)]
    name: String,
    /// Kubernetes namespace of the function.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Network namespace to run in: a name that `ip netns` knows, or a path.
    #[arg(long, value_name = "NAME|PATH")]
    netns: Option<String>,
    /// Which of its sockets may be accelerated. `all`: none is ever read blocking, or the command handles EAGAIN; and where it
    /// waits edge-triggered, it reads until EAGAIN.
    #[arg(long, value_enum, default_value = "non-blocking")]
    sockets: SocketsArg,
    /// Label of the function; repeatable.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Command and arguments.
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl ExecArgs {
    /// What to run.
    #[must_use]
    pub fn options(&self, common: &Common) -> ExecOptions {
        ExecOptions {
            socket: common.socket.clone(),
            function: FunctionSpec {
                name: self.name.clone(),
                namespace: self.namespace.clone(),
                sockets: match self.sockets {
                    SocketsArg::NonBlocking => Sockets::NonBlocking,
                    SocketsArg::All => Sockets::All,
                },
                labels: self.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
                ..FunctionSpec::default()
            },
            netns: self.netns.clone(),
            command: self.command.clone(),
        }
    }
}

fn label(text: &str) -> Result<(String, String), Infallible> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(arguments: &[&str]) -> Result<RunOptions, clap::Error> {
        let cli = Cli::try_parse_from([&["cwasi-agent", "run"], arguments].concat())?;
        match cli.command {
            Command::Run(options) => Ok(options.options(&cli.common)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_state_directory_is_beside_the_socket() {
        assert_eq!(run(&[]).unwrap().state_dir, Path::new("/run/cwasi/state"));
        assert_eq!(
            run(&["--socket", "/a/b.sock"]).unwrap().state_dir,
            Path::new("/a/state")
        );
        assert_eq!(run(&["--state-dir", "/s"]).unwrap().state_dir, Path::new("/s"));
    }

    #[test]
    fn prefixes_come_separated_or_repeated() {
        let cidr = |text: &str| text.parse::<IpNet>().unwrap();
        let options = run(&[
            "--local-cidr",
            "10.0.0.0/24, fd00::/64",
            "--local-cidr=10.1.0.0/24",
            "--service-cidr=",
        ]);
        let settings = options.unwrap().settings;
        assert_eq!(
            settings.local,
            [cidr("10.0.0.0/24"), cidr("fd00::/64"), cidr("10.1.0.0/24")]
        );
        assert_eq!(settings.service, []);
        assert!(run(&["--local-cidr", "10.0.0.0/33"]).is_err());
        assert!(run(&["--service-cidr", "nonsense"]).is_err());
    }

    #[test]
    fn the_status_page_is_off_until_asked_for() {
        let page = |arguments: &[&str]| run(arguments).unwrap().status_page;
        assert_eq!(page(&[]), StatusPage::Off);
        assert_eq!(page(&["--status-page"]), StatusPage::Loopback);
        assert_eq!(page(&["--status-page=any"]), StatusPage::Any);
        assert_eq!(page(&["--status-page=off"]), StatusPage::Off);
        assert!(run(&["--status-page=yes"]).is_err());
    }

    #[test]
    fn budgets_are_bounded() {
        assert_eq!(run(&[]).unwrap().settings.budget, 4 << 20);
        assert_eq!(
            run(&["--budget-bytes", "262144"]).unwrap().settings.budget,
            262_144
        );
        assert!(run(&["--budget-bytes", "65536"]).is_err());
        assert!(run(&["--budget-bytes", "4294967295"]).is_err());
    }

    #[test]
    fn a_command_comes_after_two_dashes() {
        let parse = |arguments: &[&str]| Cli::try_parse_from([&["cwasi-agent", "exec"], arguments].concat());
        let cli = parse(&[
            "--name", "a", "--label", "k=v=w", "--label", "flag", "--", "ls", "-o", "json",
        ])
        .unwrap();
        assert_eq!(cli.common.output, Format::Table);
        let Command::Exec(options) = cli.command else {
            panic!("not exec")
        };
        let options = options.options(&cli.common);
        assert_eq!(options.command, ["ls", "-o", "json"]);
        assert_eq!(options.function.labels["k"], "v=w");
        assert_eq!(options.function.labels["flag"], "");
        assert_eq!(options.function.namespace, "default");
        assert_eq!(options.function.sockets, Sockets::NonBlocking);
        assert!(parse(&["--name", "a"]).is_err());
        assert!(parse(&["--", "ls"]).is_err());
    }
}
