//! One change of the configuration: written, looked at by containerd, loaded by it; or taken back.

use std::path::Path;

use crate::config::Handler;
use crate::containerd::{restart, validate};
use crate::host::{Attributes, Found};
use crate::node::Node;
use crate::{Error, Result};

/// Mode of a configuration that was not there before.
const MODE: u32 = 0o644;

/// Replaces `old`, the content of the file now, by `new` (`None`: no such file), and restarts containerd. The handler is the one that
/// containerd must then have. Says whether containerd was restarted.
///
/// # Errors
/// [`Error::RolledBack`]: containerd refuses the new content, or does not start with it, and has the old one again.
/// [`Error::NotRolledBack`]: that failed, too.
pub fn apply(
    node: &Node,
    path: &Path,
    old: Option<&Found>,
    new: Option<&[u8]>,
    handler: Option<&Handler>,
) -> Result<bool> {
    if old.map(|old| old.bytes.as_slice()) != new {
        put(node, path, new, old)?;
    }
    let mut restarted = false;
    let done = validate(node, handler).and_then(|()| {
        restarted = true;
        restart(node)
    });
    let Err(cause) = done else { return done };
    tracing::warn!("{cause}; rolling back");
    let mut back = put(node, path, old.map(|old| old.bytes.as_slice()), old);
    if back.is_ok() && restarted {
        back = restart(node).map(|_| ());
    }
    let cause = Box::new(cause);
    Err(match back {
        Ok(()) => Error::RolledBack { cause },
        Err(failure) => Error::NotRolledBack {
            cause,
            failure: Box::new(failure),
            path: path.to_owned(),
        },
    })
}

fn put(node: &Node, path: &Path, bytes: Option<&[u8]>, like: Option<&Found>) -> Result<()> {
    let attributes = like.map_or(Attributes::Mode(MODE), |found| Attributes::Of(&found.metadata));
    match bytes {
        Some(bytes) => node.host.write(path, bytes, attributes),
        None => node.host.remove(path),
    }
}
