//! `status`: what is on the node.

use std::path::PathBuf;

use serde::Serialize;

use crate::Result;
use crate::host::sha256;
use crate::journal::Journal;
use crate::node::Node;

/// What is on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// In one word.
    pub state: State,
    /// Version of the installer that did it.
    pub version: Option<String>,
    /// Name of the handler.
    pub handler: Option<String>,
    /// The configuration file that has it.
    pub config: Option<PathBuf>,
    /// What is not as it should be, each one clause for people.
    pub problems: Vec<String>,
    /// Processes of the shim.
    pub running: Vec<u32>,
}

/// How much is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Everything.
    Installed,
    /// Something is missing; `install` and `uninstall` both go on from there.
    Incomplete,
    /// Nothing.
    Absent,
}

/// Looks, and changes nothing.
///
/// # Errors
/// The node's files cannot be read.
pub fn status(node: &Node) -> Result<Status> {
    let running = node.running();
    let Some(journal) = Journal::read(node)? else {
        return Ok(Status {
            state: State::Absent,
            version: None,
            handler: None,
            config: None,
            problems: Vec::new(),
            running,
        });
    };
    let mut problems = Vec::new();
    for file in journal.files.iter().filter(|file| !node.host.exists(file)) {
        problems.push(format!("{} is missing", file.display()));
    }
    let target = node.host.read(&journal.target)?;
    let is_as_written = target
        .as_ref()
        .is_some_and(|found| sha256(&found.bytes) == journal.written);
    if !is_as_written && !has_handler(&journal, target.map(|found| found.bytes)) {
        problems.push(format!("{} does not have the handler", journal.target.display()));
    }
    if journal.restart_due {
        problems.push("containerd was not restarted since".to_owned());
    }
    Ok(Status {
        state: if problems.is_empty() {
            State::Installed
        } else {
            State::Incomplete
        },
        version: Some(journal.version),
        handler: Some(journal.handler),
        config: Some(journal.target),
        problems,
        running,
    })
}

/// Whether a file that others changed still has it.
fn has_handler(journal: &Journal, bytes: Option<Vec<u8>>) -> bool {
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.is_some_and(|text| {
        crate::config::Config::parse(&text)
            .is_ok_and(|config| crate::config::handlers_of(&config, &journal.shim).contains(&journal.handler))
    })
}
