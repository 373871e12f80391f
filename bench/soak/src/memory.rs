//! What an agent and its maps hold.

use std::fs;
use std::path::Path;

use cwasi_bench::agent::Agent;
use cwasi_bench::error::{IoContext, on};
use serde::Serialize;

use crate::Result;

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident memory of the agent's process.
    pub agent: u64,
    /// What the kernel charges for the maps that the agent has open.
    pub maps: u64,
}

impl Memory {
    /// Memory now; 0 for an agent that does not run.
    pub(super) fn of(agent: &Agent) -> Result<Self> {
        let Some(pid) = agent.pid() else {
            return Ok(Self::default());
        };
        let proc = Path::new("/proc").join(pid.to_string());
        let status = proc.join("status");
        let text = fs::read_to_string(&status).action(on("read", status))?;
        // In units of 1024 bytes.
        let agent = value(&text, "VmRSS:").unwrap_or_default() << 10;
        let fdinfo = proc.join("fdinfo");
        let entries = fs::read_dir(&fdinfo).action(on("read", fdinfo))?;
        // A descriptor may be closed meanwhile; a map that is open twice has one id.
        let maps: std::collections::BTreeMap<u64, u64> = entries
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .filter_map(|text| Some((value(&text, "map_id:")?, value(&text, "memlock:")?)))
            .collect();
        Ok(Self {
            agent,
            maps: maps.values().sum(),
        })
    }
}

/// The number behind a name in a file of /proc.
fn value(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_names() {
        let text = "Name:\tx\nVmRSS:\t    1234 kB\nmemlock:\t4096\n";
        assert_eq!(value(text, "VmRSS:"), Some(1234));
        assert_eq!(value(text, "memlock:"), Some(4096));
        assert_eq!(value(text, "map_id:"), None);
    }
}
