//! What a soak has done, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cwasi_bench::report;
use cwasi_client::protocol::{MapUsage, Status};
use indicatif::HumanBytes;
use serde::Serialize;

use super::memory::Memory;

/// What is counted while it runs.
#[derive(Debug, Default)]
pub(super) struct Tally {
    lanes: BTreeMap<&'static str, Compared>,
    faults: BTreeMap<&'static str, u64>,
    pub(super) not_begun: u64,
    pub(super) unknown: u64,
    pub(super) ended_by_fault: u64,
    pub(super) broken: Vec<Broken>,
}

/// What was compared in a lane.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Compared {
    /// Sessions that ended well.
    pub sessions: u64,
    /// Their bytes, each of which was compared.
    pub bytes: u64,
}

/// A session that did not end well though no fault had hit it, or whose bytes were wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Broken {
    /// Its lane.
    pub lane: &'static str,
    /// Whether bytes were wrong.
    pub wrong: bool,
    /// What its ends said.
    pub why: String,
}

impl Tally {
    pub(super) fn right(&mut self, lane: &'static str, bytes: u64) {
        let compared = self.lanes.entry(lane).or_default();
        compared.sessions += 1;
        compared.bytes += bytes;
    }

    pub(super) fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lanes.values().map(|lane| lane.bytes).sum()
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults.values().sum()
    }

    pub(super) fn wrong(&self) -> usize {
        self.broken.iter().filter(|broken| broken.wrong).count()
    }
}

/// What came of a soak.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// What faults, sizes and moments were drawn from.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// Bytes compared, in sessions that ended well.
    pub bytes: u64,
    /// Connections whose bytes were wrong.
    pub wrong: usize,
    /// What was compared, by lane.
    pub lanes: BTreeMap<&'static str, Compared>,
    /// Changes of the path of one direction of a connection, to the kernel path.
    pub to_kernel: u64,
    /// And back to TCP.
    pub to_network: u64,
    /// Faults by kind; everything outlived them but the connections of functions that were killed.
    pub faults: BTreeMap<&'static str, u64>,
    /// Connections that ended because one of their functions was killed.
    pub ended_by_fault: u64,
    /// Functions that could not begin because no agent answered, or containerd was away, and began later.
    pub not_begun: u64,
    /// Streams between pods that ended without a complaint, and whose code containerd does not know because it was away.
    pub unknown: u64,
    /// Connections that broke though nothing had broken them, and those with wrong bytes.
    pub broken: Vec<Broken>,
    /// What the agent did not forget, and what pods left; empty when all is well.
    pub left: String,
    /// Memory before the first connection and after the last.
    pub memory: [Memory; 2],
    /// Entries of the maps, before and after.
    pub maps: BTreeMap<String, [u64; 2]>,
}

impl Results {
    pub(super) fn new(
        seed: u64,
        length: Duration,
        tally: Tally,
        before: (Memory, Status),
        after: (Memory, Status),
        left: String,
    ) -> Self {
        let traffic = [before.1.traffic, after.1.traffic];
        let entries = |maps: Vec<MapUsage>| maps.into_iter().map(|map| (map.name, map.entries));
        let mut maps: BTreeMap<String, [u64; 2]> = entries(before.1.maps)
            .map(|(name, entries)| (name, [entries, 0]))
            .collect();
        for (name, entries) in entries(after.1.maps) {
            maps.entry(name).or_default()[1] = entries;
        }
        Self {
            seed,
            seconds: length.as_secs_f64(),
            bytes: tally.bytes(),
            wrong: tally.wrong(),
            lanes: tally.lanes,
            to_kernel: traffic[1].to_redirect.saturating_sub(traffic[0].to_redirect),
            to_network: traffic[1].to_tcp.saturating_sub(traffic[0].to_tcp),
            faults: tally.faults,
            ended_by_fault: tally.ended_by_fault,
            not_begun: tally.not_begun,
            unknown: tally.unknown,
            broken: tally.broken,
            left,
            memory: [before.0, after.0],
            maps,
        }
    }
}

impl fmt::Display for Results {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lanes = self.lanes.iter().map(|(name, lane)| {
            let gigabytes = report::number(lane.bytes as f64 / 1e9);
            [(*name).to_owned(), lane.sessions.to_string(), gigabytes]
        });
        let lanes = report::table(["path", "connections", "10⁹ bytes compared"], 1, lanes);
        writeln!(formatter, "{lanes}\n")?;
        let faults = self.faults.iter();
        let faults = faults.map(|(name, count)| [(*name).to_owned(), count.to_string()]);
        let faults = report::table(["fault", "times"], 1, faults);
        writeln!(formatter, "{faults}\n")?;
        writeln!(
            formatter,
            "{} bytes compared in {:.0} s, {} connections with wrong bytes, {} broken; seed {}",
            self.bytes,
            self.seconds,
            self.wrong,
            self.broken.len(),
            self.seed
        )?;
        writeln!(
            formatter,
            "{} changes to the kernel path, {} back to TCP; {} connections ended with a killed function, {} waited for an agent or containerd, the end of {} is unknown to containerd",
            self.to_kernel, self.to_network, self.ended_by_fault, self.not_begun, self.unknown
        )?;
        let [before, after] = self.memory;
        write!(
            formatter,
            "agent {} before, {} after; maps {} before, {} after",
            HumanBytes(before.agent),
            HumanBytes(after.agent),
            HumanBytes(before.maps),
            HumanBytes(after.maps)
        )?;
        for (name, [before, after]) in &self.maps {
            write!(formatter, "\nmap {name}: {before} entries before, {after} after")?;
        }
        for broken in &self.broken {
            write!(formatter, "\nbroken: {}: {}", broken.lane, broken.why)?;
        }
        if !self.left.is_empty() {
            write!(formatter, "\nleft behind: {}", self.left)?;
        }
        Ok(())
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
