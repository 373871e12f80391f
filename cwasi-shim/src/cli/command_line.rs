//! The arguments of `cwasi-run`: flags of the process, and one section for each function.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser};

use crate::http;
use crate::network::{NetworkPolicy, Peer};
use crate::preopen::Preopen;
use crate::stdio::{Stdio, Stream};

/// What stands between the functions.
const SEPARATOR: &str = "--";
/// The file of a flag that stands for the process's own stream.
const OWN: &str = "-";

const USAGE: &str = "cwasi-run [FLAGS] <APP.WASM> [ARGS]... [-- [FLAGS] <APP.WASM> [ARGS]...]...";

/// Run WebAssembly programs as functions of this node.
///
/// A component of WASI 0.2 or a module of WASI 0.1 runs once, with this process's standard streams, and its exit code is passed
/// on. A component that handles HTTP is served. Components have real sockets: when a cwasi agent answers, their connections
/// to other functions of this node are moved by the kernel; when none answers, they run all the same.
///
/// `--` ends the arguments of one program and begins the flags of the next. All run in this process, each in a memory of its
/// own, and their connections to each other never leave it.
#[derive(Debug, Parser)]
#[command(name = "cwasi-run", version, after_help = super::EXIT_CODES, override_usage = USAGE)]
struct First {
    #[command(flatten)]
    process: ProcessFlags,
    #[command(flatten)]
    function: FunctionFlags,
}

/// What holds for the process, and is said before the first program.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of the process, before the first program")]
pub(super) struct ProcessFlags {
    /// Kubernetes namespace of the functions
    #[arg(long, value_name = "NS", env = "CWASI_NAMESPACE", default_value = "default")]
    pub(super) namespace: String,

    /// Network namespace to open sockets in: a name of `ip netns`, or a path
    #[arg(long, value_name = "NAME|PATH", env = "CWASI_NETNS")]
    pub(super) netns: Option<String>,

    /// Do not look for an agent
    #[arg(long)]
    pub(super) no_agent: bool,

    /// Socket of the agent
    #[arg(long, value_name = "PATH", env = "CWASI_SOCKET", default_value = cwasi_client::DEFAULT_SOCKET)]
    pub(super) socket: PathBuf,

    /// Directory of compiled programs [default: /var/cache/cwasi for root, else cwasi in the user's cache directory]
    #[arg(long, value_name = "DIR", env = "CWASI_CACHE_DIR")]
    pub(super) cache_dir: Option<PathBuf>,

    /// Run one program: everything after its file is its own, `--` included
    #[arg(long)]
    single: bool,
}

/// What holds for one function.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of a function, before its program")]
pub(super) struct FunctionFlags {
    /// Name of the function [default: the file's name without its extension]
    #[arg(long, env = "CWASI_NAME")]
    name: Option<String>,

    /// Environment variable of the guest; repeatable. It gets no others
    #[arg(long = "env", value_name = "K=V", value_parser = variable)]
    pub(super) env: Vec<(String, String)>,

    /// Directory that the guest sees, at GUEST when given; repeatable
    #[arg(long = "dir", value_name = "HOST[::GUEST[::ro]]")]
    pub(super) dirs: Vec<Preopen>,

    /// Peer that the guest may connect and send to; repeatable. Without it, every peer
    #[arg(long, value_name = "ADDR[:PORT]|CIDR|all")]
    allow_net: Vec<Peer>,

    /// Where a component that handles HTTP is served
    #[arg(long, value_name = "ADDR:PORT", env = "CWASI_HTTP_ADDR", default_value_t = http::DEFAULT_ADDRESS)]
    pub(super) http: SocketAddr,

    /// Most bytes that the guest's memories and tables may have together
    #[arg(long, value_name = "BYTES", env = "CWASI_MEMORY_LIMIT")]
    pub(super) memory_limit: Option<u64>,

    /// File that it reads as its input; `-` is this process's [default: `-` for the first function, nothing for others]
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,

    /// File that its output goes to, emptied before; `-` is this process's [default: `-`]
    #[arg(long, value_name = "FILE")]
    stdout: Option<PathBuf>,

    /// File that its standard error goes to, emptied before; `-` is this process's [default: `-`]
    #[arg(long, value_name = "FILE")]
    stderr: Option<PathBuf>,

    /// The component or module, and the guest's arguments
    // One list, so that every flag after the file is the guest's.
    #[arg(required = true, trailing_var_arg = true, value_names = ["APP.WASM", "ARGS"])]
    command: Vec<String>,
}

/// Everything that `cwasi-run` was told.
#[derive(Debug)]
pub(super) struct CommandLine {
    pub(super) process: ProcessFlags,
    /// At least one.
    pub(super) functions: Vec<FunctionFlags>,
}

impl CommandLine {
    /// This process's arguments. Ends the process where they cannot be used, or ask for help.
    pub(super) fn get() -> Self {
        Self::parse(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn parse(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let First { process, function } = First::try_parse_from(arguments)?;
        let mut functions = vec![function];
        while !process.single
            && let Some(next) = functions.last_mut().and_then(FunctionFlags::cut)
        {
            functions.push(FunctionFlags::of_later(next)?);
        }
        // What follows the end of the flags may be another separator.
        if functions.iter().any(|function| function.command.is_empty()) {
            let message = format!("there is no program before a '{SEPARATOR}'");
            return Err(First::command().error(ErrorKind::MissingRequiredArgument, message));
        }
        Ok(Self { process, functions })
    }

    /// The standard streams of each function.
    ///
    /// # Errors
    /// The file that cannot be opened, and why.
    pub(super) fn open_streams(&self) -> Result<Vec<Stdio>, (PathBuf, io::Error)> {
        let own = |function: &FunctionFlags| function.stdin.as_deref() == Some(Path::new(OWN));
        // The input of a process has one reader.
        let first_reads = !self.functions.iter().any(own);
        let open = |(index, function): (usize, &FunctionFlags)| {
            Ok(Stdio {
                stdin: match &function.stdin {
                    None if index > 0 || !first_reads => Stream::Null,
                    file => stream(file.as_deref(), |path| File::open(path))?,
                },
                stdout: stream(function.stdout.as_deref(), create)?,
                stderr: stream(function.stderr.as_deref(), create)?,
            })
        };
        self.functions.iter().enumerate().map(open).collect()
    }
}

impl FunctionFlags {
    /// The section of a function that is not the first.
    fn of_later(words: Vec<String>) -> Result<Self, clap::Error> {
        let command = Command::new("cwasi-run")
            .no_binary_name(true)
            .override_usage(USAGE);
        // What names one function cannot stand in the environment of all.
        let mut command = Self::augment_args(command)
            .mut_arg("name", |name| name.env(None::<&str>))
            .mut_arg("http", |http| http.env(None::<&str>));
        let matches = command
            .try_get_matches_from_mut(words)
            .map_err(|error| match of_process(&error) {
                Some(flag) => {
                    let message =
                        format!("'{flag}' holds for the whole process: it belongs before the first program");
                    command.error(ErrorKind::UnknownArgument, message)
                }
                None => error,
            })?;
        Self::from_arg_matches(&matches)
    }

    /// Takes what follows its arguments out of them: the section of the next function.
    fn cut(&mut self) -> Option<Vec<String>> {
        let end = self.command.iter().position(|word| word == SEPARATOR)?;
        let next = self.command.split_off(end + 1);
        self.command.truncate(end);
        Some(next)
    }

    pub(super) fn wasm(&self) -> &Path {
        Path::new(&self.command[0])
    }

    /// The guest's arguments, its file's name first.
    pub(super) fn arguments(&self) -> Vec<String> {
        let program = self.wasm().file_name().unwrap_or_default().to_string_lossy();
        let arguments = self.command[1..].iter().cloned();
        std::iter::once(program.into_owned()).chain(arguments).collect()
    }

    pub(super) fn name(&self) -> String {
        let stem = || self.wasm().file_stem().unwrap_or_default().to_string_lossy();
        self.name.clone().unwrap_or_else(|| stem().into_owned())
    }

    pub(super) fn network(&self) -> NetworkPolicy {
        match self.allow_net.as_slice() {
            [] => NetworkPolicy::unrestricted(),
            peers => NetworkPolicy::only(peers.to_vec()),
        }
    }
}

/// The flag of the process that `error` does not know.
fn of_process(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let long = flag.strip_prefix("--")?;
    let known = First::command()
        .get_arguments()
        .any(|argument| argument.get_long() == Some(long));
    (error.kind() == ErrorKind::UnknownArgument && known).then(|| flag.clone())
}

fn stream(
    file: Option<&Path>,
    open: impl FnOnce(&Path) -> io::Result<File>,
) -> Result<Stream, (PathBuf, io::Error)> {
    match file {
        Some(path) if path != Path::new(OWN) => open(path)
            .map(Stream::from)
            .map_err(|error| (path.to_owned(), error)),
        _ => Ok(Stream::Inherited),
    }
}

/// As `>` of a shell does, but so that several writers of one file do not write over each other.
fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    Ok(file)
}

fn variable(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a variable is NAME=VALUE"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    fn parsed(arguments: &[&str]) -> CommandLine {
        CommandLine::parse(["cwasi-run"].iter().chain(arguments)).unwrap()
    }

    fn refused(arguments: &[&str]) -> clap::Error {
        CommandLine::parse(["cwasi-run"].iter().chain(arguments)).unwrap_err()
    }

    fn only(arguments: &[&str]) -> FunctionFlags {
        let [function] = <[_; 1]>::try_from(parsed(arguments).functions).unwrap();
        function
    }

    #[test]
    fn flags_are_consistent() {
        First::command().debug_assert();
        FunctionFlags::augment_args(Command::new("later")).debug_assert();
    }

    #[test]
    fn everything_after_the_program_is_its_own() {
        let function = only(&["--name", "a", "app.wasm", "--name", "b", "-x", "c"]);
        assert_eq!(function.name(), "a");
        assert_eq!(function.arguments(), ["app.wasm", "--name", "b", "-x", "c"]);
        assert_eq!(only(&["/a/b/app.wasm"]).arguments(), ["app.wasm"]);
        assert_eq!(only(&["/a/b/app.wasm"]).name(), "app");
    }

    #[test]
    fn a_separator_begins_the_next_function() {
        let line = parsed(&[
            "--no-agent",
            "--name",
            "one",
            "a.wasm",
            "x",
            "--",
            "--env",
            "A=1",
            "b.wasm",
            "--name",
            "y",
            "--",
            "c.wasm",
        ]);
        assert!(line.process.no_agent);
        let names: Vec<String> = line.functions.iter().map(FunctionFlags::name).collect();
        assert_eq!(names, ["one", "b", "c"]);
        let arguments: Vec<_> = line.functions.iter().map(FunctionFlags::arguments).collect();
        assert_eq!(
            arguments,
            [vec!["a.wasm", "x"], vec!["b.wasm", "--name", "y"], vec!["c.wasm"]]
        );
        assert_eq!(line.functions[1].env, [("A".to_owned(), "1".to_owned())]);
        assert!(line.functions[0].env.is_empty() && line.functions[2].env.is_empty());
    }

    #[test]
    fn single_gives_every_word_to_one_program() {
        let function = only(&["--single", "app.wasm", "-x", "--", "b.wasm"]);
        assert_eq!(function.arguments(), ["app.wasm", "-x", "--", "b.wasm"]);
        // Before the program it ends the flags, as everywhere.
        assert_eq!(only(&["--", "app.wasm", "x"]).arguments(), ["app.wasm", "x"]);
    }

    #[test]
    fn sections_without_a_program_are_refused() {
        for arguments in [
            &[][..],
            &["a.wasm", "--"],
            &["a.wasm", "--", "--name", "b"],
            &["--", "--", "b.wasm"],
            &["a.wasm", "--", "--", "--", "b.wasm"],
        ] {
            let error = refused(arguments);
            assert_eq!(
                error.kind(),
                ErrorKind::MissingRequiredArgument,
                "{arguments:?}: {error}"
            );
        }
    }

    #[test]
    fn flags_of_the_process_are_refused_later() {
        let told = |flag| refused(&["a.wasm", "--", flag, "b.wasm"]).to_string();
        for flag in [
            "--netns",
            "--no-agent",
            "--socket",
            "--cache-dir",
            "--namespace",
            "--single",
        ] {
            assert!(
                told(flag).contains("belongs before the first program"),
                "{flag}: {}",
                told(flag)
            );
        }
        assert!(!told("--no-such-flag").contains("belongs"));
    }

    #[test]
    fn variables_are_name_and_value() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(variable("A="), Ok(("A".to_owned(), String::new())));
        assert!(variable("A").is_err());
        assert!(variable("=b").is_err());
    }

    #[test]
    fn listed_peers_are_the_only_ones() {
        assert_eq!(only(&["app.wasm"]).network(), NetworkPolicy::unrestricted());
        let function = only(&["--allow-net", "10.0.0.0/8", "--allow-net", "[::1]:80", "app.wasm"]);
        let peers = ["10.0.0.0/8", "[::1]:80"].map(|peer| peer.parse().unwrap());
        assert_eq!(function.network(), NetworkPolicy::only(peers.to_vec()));
    }

    #[test]
    fn one_function_reads_the_input_of_the_process() {
        let readers = |arguments: &[&str]| {
            let streams = parsed(arguments).open_streams().unwrap();
            let inherits = |stdio: &Stdio| matches!(stdio.stdin, Stream::Inherited);
            streams.iter().map(inherits).collect::<Vec<_>>()
        };
        assert_eq!(readers(&["a.wasm"]), [true]);
        assert_eq!(readers(&["a.wasm", "--", "b.wasm"]), [true, false]);
        assert_eq!(
            readers(&["a.wasm", "--", "--stdin", "-", "b.wasm"]),
            [false, true]
        );
        assert_eq!(
            readers(&["--stdin", "/dev/null", "a.wasm", "--", "b.wasm"]),
            [false, false]
        );
    }

    #[test]
    fn files_of_streams_are_emptied_and_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "old").unwrap();
        let log = path.to_str().unwrap();
        let line = parsed(&[
            "--stdout", log, "--stderr", log, "a.wasm", "--", "--stdout", log, "b.wasm",
        ]);
        let streams = line.open_streams().unwrap();
        for stream in [&streams[0].stdout, &streams[1].stdout, &streams[0].stderr] {
            let Stream::File(file) = stream else {
                panic!("{stream:?}")
            };
            File::from(file.try_clone().unwrap())
                .write_all(b"line\n")
                .unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "line\n".repeat(3));

        let missing = dir.path().join("none/log");
        let (path, error) = parsed(&["--stdin", missing.to_str().unwrap(), "a.wasm"])
            .open_streams()
            .unwrap_err();
        assert_eq!((path, error.kind()), (missing, io::ErrorKind::NotFound));
    }

    /// Words as a shell may hand them over, in any bytes.
    fn word() -> impl Strategy<Value = OsString> {
        const KNOWN: &[&str] = &[
            "--",
            "a.wasm",
            "-",
            "",
            "--name",
            "--single",
            "--env",
            "A=1",
            "=",
            "--dir",
            "/:::",
            "::",
            "--allow-net",
            "all",
            "--http",
            "[::]:0",
            "--memory-limit",
            "-1",
            "--stdin",
            "--netns=x",
            "--no-agent",
            "-x",
        ];
        prop_oneof![
            6 => prop::sample::select(KNOWN).prop_map(OsString::from),
            1 => any::<String>().prop_map(OsString::from),
            1 => prop::collection::vec(any::<u8>(), 0..8).prop_map(OsString::from_vec),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn all_words_are_functions_or_refused(words in prop::collection::vec(word(), 0..12)) {
            let line = std::iter::once(OsString::from("cwasi-run")).chain(words);
            match CommandLine::parse(line) {
                Ok(line) => {
                    prop_assert!(!line.functions.is_empty());
                    for function in &line.functions {
                        let _ = (function.name(), function.wasm(), function.network());
                        prop_assert!(!function.arguments().is_empty());
                    }
                }
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
