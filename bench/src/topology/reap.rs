//! What runs that were killed left behind.

use std::path::Path;

use super::{Netns, named, owner};
use crate::Result;

/// Removes the namespaces of runs whose process is gone, and returns their names.
///
/// # Errors
/// One of them cannot be removed.
pub fn reap() -> Result<Vec<String>> {
    let alive = |pid: u32| Path::new("/proc").join(pid.to_string()).exists();
    let dead: Vec<String> = named()
        .into_iter()
        .filter(|name| owner(name).is_some_and(|pid| !alive(pid)))
        .collect();
    for name in &dead {
        Netns::remove(name)?;
    }
    Ok(dead)
}

#[cfg(test)]
mod tests {
    use crate::tool;

    #[test]
    fn only_the_dead_are_reaped() {
        let Some(live) = super::super::tests::topology(&["live"]) else {
            return;
        };
        // No process has this id: it is above the kernel's limit for pids.
        let dead = format!("cwasi-node-0-{}", 1 << 23);
        tool::run(tool::command("ip").args(["netns", "add", &dead]), "").unwrap();
        assert!(super::reap().unwrap().contains(&dead));
        assert!(!super::named().contains(&dead));
        assert!(super::named().iter().any(|name| name == live.node().name()));
    }
}
