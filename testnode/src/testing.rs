//! Tests on a node: one for each containerd that can be had, skipped visibly where something is missing.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use crate::containerd::{Containerd, Runtime};
use crate::node::Node;
use crate::{Error, Result, native};

/// Says on stderr why a test does nothing. Not by `eprintln!`, which the test harness keeps to itself when a test passes.
pub fn skipped(reason: &dyn Display) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// Why a test that needs root cannot run, `None` when it can.
#[must_use]
pub fn not_root() -> Option<String> {
    (!nix::unistd::geteuid().is_root()).then(|| "not root".to_owned())
}

/// Why there can be no node here, `None` if there can.
#[must_use]
pub fn missing() -> Option<String> {
    if let Some(reason) = not_root() {
        return Some(reason);
    }
    if let Err(error) = cwasi_client::cgroup::unified_root() {
        return Some(error.to_string());
    }
    let files = [
        ("/usr/lib/cni/bridge", "containernetworking-plugins"),
        ("/usr/lib/cni/loopback", "containernetworking-plugins"),
    ];
    if let Some((file, package)) = files.iter().find(|(file, _)| !Path::new(file).exists()) {
        return Some(format!("no {file}: install the package {package}"));
    }
    let programs = [("ip", "iproute2"), ("runc", "runc"), ("cc", "gcc and libc6-dev")];
    programs
        .iter()
        .find(|(program, _)| !native::is_installed(program))
        .map(|(program, package)| format!("no program `{program}`: install the package {package}"))
}

/// Which containerd a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The machine's own.
    Installed,
    /// Debian's newest, unpacked privately.
    Newer,
}

impl Release {
    /// Looks once in a process: what cannot be fetched takes its time to say so.
    fn find(self) -> std::result::Result<Containerd, Unavailable> {
        static INSTALLED: Found = Found::new();
        static NEWER: Found = Found::new();
        let (found, look): (_, fn() -> Result<Containerd>) = match self {
            Self::Installed => (&INSTALLED, Containerd::installed),
            Self::Newer => (&NEWER, Containerd::newer),
        };
        found.get_or_init(|| look().map_err(Unavailable::from)).clone()
    }
}

type Found = OnceLock<std::result::Result<Containerd, Unavailable>>;

/// Why there is no node.
#[derive(Clone)]
enum Unavailable {
    /// Something is missing on this machine.
    Skip(String),
    /// Something is wrong.
    Fail(String),
}

impl From<Error> for Unavailable {
    fn from(error: Error) -> Self {
        match error {
            Error::Missing { .. } | Error::Build(xtask::Error::Missing { .. }) => {
                Self::Skip(error.to_string())
            }
            _ => Self::Fail(error.to_string()),
        }
    }
}

/// Runs a test on a node of its own; fails it with the node's log, or when it leaves something behind.
///
/// # Panics
/// The test fails.
pub fn on_node(
    release: Release,
    runtimes: impl FnOnce() -> Result<Vec<Runtime>>,
    test: impl FnOnce(&Node) -> Result<()>,
) {
    if let Some(reason) = missing() {
        return skipped(&reason);
    }
    let runtimes = runtimes().map_err(Unavailable::from);
    let found = release.find().and_then(|containerd| Ok((containerd, runtimes?)));
    let (containerd, runtimes) = match found {
        Ok(found) => found,
        Err(Unavailable::Skip(reason)) => return skipped(&reason),
        Err(Unavailable::Fail(error)) => panic!("{error}"),
    };
    let name = containerd.to_string();
    let node = Node::start(containerd, runtimes).unwrap_or_else(|error| panic!("{name}: {error}"));
    // A panic inside drops the node, which then shows its log and removes what is left.
    if let Err(error) = test(&node).and_then(|()| node.settle()) {
        let said = node.last_words();
        drop(node);
        // The reason comes last, where it is looked for.
        panic!("{said}\n{name}: {error}");
    }
}

/// The runtimes of a node that runs functions, and native containers beside them.
///
/// # Errors
/// [`Error::Missing`] when the shim is not built.
pub fn functions() -> Result<Vec<Runtime>> {
    Ok(vec![Runtime::runc(), Runtime::cwasi()?])
}

/// The runtimes of a node that runs native containers only.
///
/// # Errors
/// None.
pub fn native() -> Result<Vec<Runtime>> {
    Ok(vec![Runtime::runc()])
}

/// Makes of each function `fn(&Node) -> Result<()>` a test for each containerd; with `native:` before them, on nodes without
/// the shim `containerd-shim-cwasi-v1`.
#[macro_export]
macro_rules! node_tests {
    (native: $($test:ident),* $(,)?) => {
        $($crate::node_tests!(@one $test, $crate::testing::native);)*
    };
    (@one $test:ident, $runtimes:path) => {
        mod $test {
            #[test]
            fn installed() {
                $crate::testing::on_node($crate::testing::Release::Installed, $runtimes, super::$test);
            }

            #[test]
            fn newer() {
                $crate::testing::on_node($crate::testing::Release::Newer, $runtimes, super::$test);
            }
        }
    };
    ($($test:ident),* $(,)?) => {
        $($crate::node_tests!(@one $test, $crate::testing::functions);)*
    };
}
