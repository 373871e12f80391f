//! `install`: the shim on the node, and the handler in containerd's configuration.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::apply::apply;
use crate::config::Handler;
use crate::error::IoContext;
use crate::host::{Attributes, sha256};
use crate::journal::{Journal, cut};
use crate::node::Node;
use crate::target::Target;
use crate::{Error, Result, SHIM};

/// What is to be installed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the handler.
    pub handler: String,
    /// Files of this program's own root, and where they go on the node.
    pub files: Vec<Copy>,
}

/// One file to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// In this program's own root.
    pub from: PathBuf,
    /// On the node.
    pub to: PathBuf,
    /// Its mode there.
    pub mode: u32,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// `install` or `uninstall`.
    pub action: &'static str,
    /// Whether anything was not as asked for.
    pub changed: bool,
    /// Whether containerd was restarted.
    pub restarted: bool,
    /// The configuration file that has, or had, the handler.
    pub config: Option<PathBuf>,
    /// One line for people.
    pub message: String,
}

impl Plan {
    /// The shim, programs beside it, and with the kubelet's directory the agent's seccomp profile.
    #[must_use]
    pub fn new(
        node: &Node,
        handler: &str,
        payload: &Path,
        with: &[String],
        kubelet_root: Option<&Path>,
    ) -> Self {
        let programs = std::iter::once(SHIM).chain(with.iter().map(String::as_str));
        let mut files: Vec<Copy> = programs
            .map(|program| Copy {
                from: payload.join("bin").join(program),
                to: node.bin().join(program),
                mode: 0o755,
            })
            .collect();
        files.extend(kubelet_root.map(|root| Copy {
            from: payload.join("seccomp/agent.json"),
            to: root.join("seccomp/cwasi/agent.json"),
            mode: 0o644,
        }));
        Self {
            handler: handler.to_owned(),
            files,
        }
    }
}

/// Brings the node into the state of the plan, whatever state it is in. A containerd that has it all already is not restarted.
///
/// # Errors
/// [`Error::Refused`]: nothing was changed. [`Error::RolledBack`]: nothing is changed any more; on a node that had nothing before, nothing
/// is left. Anything else: another run goes on from there.
pub fn install(node: &Node, plan: &Plan) -> Result<Done> {
    let handler = Handler {
        name: plan.handler.clone(),
        shim: node.shim(),
    };
    let payload = read_payload(&plan.files)?;
    let (_lock, before) = node.begin()?;
    let target = Target::choose(node)?;
    if let Some(other) = before.as_ref().filter(|before| before.target != target.path) {
        return Err(Error::refused(
            &other.target,
            format!(
                "it has the handler, which now belongs into {}; uninstall first",
                target.path.display()
            ),
        ));
    }
    let current = node.host.read(&target.path)?;
    let base = match &before {
        Some(before) => before.base(node, current.as_ref())?.bytes,
        // Its journal is lost, or nothing was installed.
        None => match &current {
            Some(found) => cut(&target.path, found, &handler.shim, target.is_drop_in())?
                .unwrap_or_else(|| Some(found.bytes.clone())),
            None => None,
        },
    };
    let new = target.with(base.as_deref(), &handler)?;
    let is_configured = current.as_ref().is_some_and(|current| current.bytes == new);
    let mut stale = Vec::new();
    for (copy, bytes) in plan.files.iter().zip(&payload) {
        let found = node.host.read(&copy.to)?;
        if found.is_none_or(|found| found.bytes != *bytes) {
            stale.push((copy, bytes));
        }
    }
    let mut journal = Journal::new(&handler, &target.path);
    journal.written = sha256(&new);
    journal.restart_due = !is_configured || before.as_ref().is_some_and(|before| before.restart_due);
    if is_configured && stale.is_empty() && !journal.restart_due && before.is_some() {
        return Ok(done(false, false, &target, "is installed already"));
    }
    journal.back_up(node, base.as_deref())?;
    remember_files(&mut journal, node, plan, before.as_ref());
    journal.write(node)?;
    let result = put_files(node, &journal, &stale).and_then(|()| match journal.restart_due {
        true => apply(node, &target.path, current.as_ref(), Some(&new), Some(&handler)),
        false => Ok(false),
    });
    match result {
        Ok(restarted) => {
            journal.restart_due &= !restarted;
            // What an earlier run meant to bring, and nobody asks for any more.
            let is_asked_for = |file: &PathBuf| plan.files.iter().any(|copy| copy.to == *file);
            journal
                .files
                .retain(|file| is_asked_for(file) || node.host.exists(file));
            journal.write(node)?;
            Journal::remove_backups(node, Some(&journal))?;
            let message = if journal.restart_due {
                "is installed; containerd has it after a restart"
            } else {
                "is installed"
            };
            Ok(done(true, restarted, &target, message))
        }
        Err(error @ Error::RolledBack { .. }) => {
            let undone = match &before {
                Some(before) => before.write(node),
                None => remove_all(node, &journal).map(|_| ()),
            };
            undone.map(|()| Err(error))?
        }
        Err(error) => Err(error),
    }
}

fn done(changed: bool, restarted: bool, target: &Target, what: &str) -> Done {
    Done {
        action: "install",
        changed,
        restarted,
        config: Some(target.path.clone()),
        message: format!("the runtime handler {what}: {}", target.path.display()),
    }
}

/// Before anything is changed: a payload that is not whole changes nothing.
fn read_payload(files: &[Copy]) -> Result<Vec<Vec<u8>>> {
    let read = |copy: &Copy| match fs::read(&copy.from) {
        Ok(bytes) if bytes.is_empty() => Err(Error::refused(&copy.from, "the file to install is empty")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::refused(
            &copy.from,
            "there is no such file to install; see --payload",
        )),
        other => other.on("read", copy.from.display()),
    };
    files.iter().map(read).collect()
}

/// What will be there afterwards, beside what an earlier run put there.
fn remember_files(journal: &mut Journal, node: &Node, plan: &Plan, before: Option<&Journal>) {
    if let Some(before) = before {
        journal.files.clone_from(&before.files);
        journal.directories.clone_from(&before.directories);
    }
    for file in plan
        .files
        .iter()
        .map(|copy| &copy.to)
        .chain([&journal.target.clone()])
    {
        if *file != journal.target && !journal.files.contains(file) {
            journal.files.push(file.clone());
        }
        let missing = file.parent().map(|parent| node.host.missing_directories(parent));
        for directory in missing.unwrap_or_default() {
            if !journal.directories.contains(&directory) {
                journal.directories.push(directory);
            }
        }
    }
}

fn put_files(node: &Node, journal: &Journal, files: &[(&Copy, &Vec<u8>)]) -> Result<()> {
    for directory in &journal.directories {
        node.host.make_directory(directory)?;
    }
    for (copy, bytes) in files {
        tracing::info!("writing {}", copy.to.display());
        node.host.write(&copy.to, bytes, Attributes::Mode(copy.mode))?;
    }
    Ok(())
}

/// Removes the files and the directories that were made for them, then the journal; gives the directories that others use.
pub(crate) fn remove_all(node: &Node, journal: &Journal) -> Result<Vec<PathBuf>> {
    for file in &journal.files {
        node.host.remove(file)?;
    }
    let mut kept = Vec::new();
    for directory in journal.directories.iter().rev() {
        if !node.host.remove_empty(directory)? {
            kept.push(directory.clone());
        }
    }
    Journal::remove(node)?;
    Ok(kept)
}
