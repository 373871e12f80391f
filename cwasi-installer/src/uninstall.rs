//! `uninstall`: the node as it was before.

use std::path::PathBuf;

use crate::apply::apply;
use crate::install::{Done, remove_all};
use crate::journal::cut;
use crate::node::Node;
use crate::target::Target;
use crate::{Error, Result};

/// How it is taken away.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Also while functions run.
    pub force: bool,
    /// The shim's directory of compiled guests, removed with it.
    pub cache: Option<PathBuf>,
    /// What the agent leaves once it is unloaded.
    pub agent: AgentDirectories,
}

/// Directories of an agent that is gone from the node for good.
#[derive(Clone, Debug, Default)]
pub struct AgentDirectories {
    /// Its socket and its state: removed with all that is in it.
    pub run: Option<PathBuf>,
    /// Its pins: removed when there are none.
    pub bpffs: Option<PathBuf>,
}

/// Takes away what [`install`](crate::install::install) brought, also when that did not come to its end.
///
/// # Errors
/// [`Error::Running`], [`Error::Refused`]: nothing was changed. [`Error::RolledBack`]: containerd does not start without the handler, and
/// has it again. Anything else: another run goes on from there.
pub fn uninstall(node: &Node, options: &Options) -> Result<Done> {
    let mut done = uninstall_runtime(node, options)?;
    if let Some(run) = &options.agent.run {
        node.host.remove_tree(run)?;
    }
    if let Some(bpffs) = &options.agent.bpffs
        && !node.host.remove_empty(bpffs)?
    {
        done.message += &format!(
            "; {} has pins: `cwasi-agent unload` takes them out",
            bpffs.display()
        );
    }
    Ok(done)
}

fn uninstall_runtime(node: &Node, options: &Options) -> Result<Done> {
    let (_lock, journal) = node.begin()?;
    let running = node.running();
    if !running.is_empty() && !options.force {
        return Err(Error::Running(running));
    }
    let Some(mut journal) = journal else {
        return without_journal(node, options);
    };
    let target = journal.target.clone();
    let current = node.host.read(&target)?;
    let base = journal.base(node, current.as_ref())?;
    let is_configured = current.as_ref().map(|found| &found.bytes) != base.bytes.as_ref();
    let mut restarted = false;
    if is_configured || journal.restart_due {
        if !journal.restart_due {
            journal.restart_due = true;
            journal.write(node)?;
        }
        restarted = apply(node, &target, current.as_ref(), base.bytes.as_deref(), None)?;
    }
    let kept = remove_all(node, &journal)?;
    remove_cache(node, options)?;
    let mut message = format!("the runtime handler is removed: {}", target.display());
    if base.edited {
        message += "; the file was changed by others since, so that only the handler was cut out";
    }
    for directory in kept {
        message += &format!("; {} is not empty and stays", directory.display());
    }
    if is_configured && !restarted {
        message += "; containerd forgets it with a restart";
    }
    Ok(Done {
        action: "uninstall",
        changed: true,
        restarted,
        config: Some(target),
        message,
    })
}

/// Without a journal a handler that names the shim is still known as ours.
fn without_journal(node: &Node, options: &Options) -> Result<Done> {
    let nothing = Done {
        action: "uninstall",
        changed: false,
        restarted: false,
        config: None,
        message: "nothing is installed".to_owned(),
    };
    // A configuration that cannot have a handler has none.
    let Ok(target) = Target::choose(node) else {
        return Ok(nothing);
    };
    let Some(current) = node.host.read(&target.path)? else {
        return Ok(nothing);
    };
    let Some(left) = cut(&target.path, &current, &node.shim(), target.is_drop_in())? else {
        return Ok(nothing);
    };
    let restarted = apply(node, &target.path, Some(&current), left.as_deref(), None)?;
    node.host.remove(&node.shim())?;
    remove_cache(node, options)?;
    Ok(Done {
        changed: true,
        restarted,
        message: format!(
            "what was written down at the installation is lost; the runtime handler and the shim are removed: {}",
            target.path.display()
        ),
        config: Some(target.path),
        ..nothing
    })
}

fn remove_cache(node: &Node, options: &Options) -> Result<()> {
    options
        .cache
        .as_deref()
        .map_or(Ok(()), |cache| node.host.remove_tree(cache))
}
