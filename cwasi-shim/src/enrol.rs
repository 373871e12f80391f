//! The guest's process as a function of the node's agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cwasi_client::cgroup::{CgroupError, Leaf};
use cwasi_client::client::{Client, ClientError};
use cwasi_client::netns;
use cwasi_client::process_report::{FunctionRef, Reporter};
use cwasi_client::protocol::{ApiError, FunctionSpec, Registered};

use crate::sockets::LocalNetwork;

/// Longest wait for each answer of the agent: a guest starts without acceleration rather than late.
pub const AGENT_TIMEOUT: Duration = Duration::from_millis(200);

/// Longest name of a cgroup that is made of a function's name.
const MAX_LEAF_NAME: usize = 64;

/// Why the process is not a function.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// {0}
    #[error(transparent)]
    Client(#[from] ClientError),
    /// {0}
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// a thread that reports connections cannot be started: {0}
    #[error("a thread that reports connections cannot be started: {0}")]
    Reporter(io::Error),
}

/// This process as a function, in a cgroup of its own. Ends with [`Enrolment::end`], or with a drop that tells nobody of
/// what fails.
#[derive(Debug)]
pub struct Enrolment {
    client: Client,
    leaf: Leaf,
    registered: Registered,
    socket: PathBuf,
    reporter: Option<Reporter>,
}

impl Enrolment {
    /// Moves this process into a new cgroup and registers it as `spec`, whose cgroup and, if empty, addresses are filled in:
    /// those of the calling thread's network namespace. Nothing is changed when no agent answers.
    ///
    /// # Errors
    /// [`EnrolError`]; the process is then where it was.
    pub fn begin(socket: &Path, mut spec: FunctionSpec) -> Result<Self, EnrolError> {
        let mut client = Client::connect_timeout(socket, AGENT_TIMEOUT)?;
        let mut leaf = Leaf::create(&leaf_name(&spec.name))?;
        leaf.enter()?;
        spec.cgroup = Some(leaf.path().to_owned());
        if spec.addresses.is_empty() {
            // The agent looks for itself when it is told none.
            spec.addresses = netns::function_addresses().unwrap_or_default();
        }
        let registered = client.register(&spec)?;
        Ok(Self {
            client,
            leaf,
            registered,
            socket: socket.to_owned(),
            reporter: None,
        })
    }

    /// Tells the agent from now on of the connections inside this process; `refused` gets what it says when it does not take
    /// that.
    ///
    /// # Errors
    /// [`EnrolError::Reporter`].
    pub fn reporting(
        mut self,
        network: LocalNetwork,
        refused: impl FnOnce(ApiError) + Send + 'static,
    ) -> Result<Self, EnrolError> {
        // An agent that was started anew knows the cgroup, and gives another id.
        let of = FunctionRef::Cgroup(self.leaf.path().to_owned());
        let report = move || network.traffic().into();
        let reporter =
            Reporter::start(self.socket.clone(), of, report, refused).map_err(EnrolError::Reporter)?;
        self.reporter = Some(reporter);
        Ok(self)
    }

    /// What the agent answered.
    #[must_use]
    pub const fn registered(&self) -> &Registered {
        &self.registered
    }

    /// Unregisters the function, moves the process back and removes its cgroup.
    ///
    /// # Errors
    /// [`EnrolError`] of the first step that failed; the others are done all the same.
    pub fn end(mut self) -> Result<(), EnrolError> {
        // What it says last is of a function that is registered.
        drop(self.reporter.take());
        let unregistered = self.client.unregister(self.registered.id);
        let closed = self.leaf.close();
        unregistered?;
        Ok(closed?)
    }
}

/// A function's name as part of a cgroup's.
fn leaf_name(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') {
            c
        } else {
            '-'
        }
    };
    let leaf: String = name.chars().map(plain).take(MAX_LEAF_NAME).collect();
    if leaf.is_empty() {
        "function".to_owned()
    } else {
        leaf
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_are_kept() {
        assert_eq!(leaf_name("resize-2"), "resize-2");
        assert_eq!(leaf_name("../a b/ö"), "---a-b--");
        assert_eq!(leaf_name(""), "function");
    }

    #[test]
    fn without_an_agent_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let before = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let error = Enrolment::begin(&dir.path().join("agent.sock"), FunctionSpec::default()).unwrap_err();
        assert!(
            matches!(error, EnrolError::Client(ClientError::NoAgent { .. })),
            "{error:?}"
        );
        assert_eq!(std::fs::read_to_string("/proc/self/cgroup").unwrap(), before);
    }

    proptest! {
        #[test]
        fn every_name_makes_one_directory(name: String) {
            let leaf = leaf_name(&name);
            prop_assert!(!leaf.is_empty() && leaf.len() <= MAX_LEAF_NAME);
            prop_assert!(leaf.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        }
    }
}
