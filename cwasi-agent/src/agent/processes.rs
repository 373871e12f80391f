//! Connections inside of processes, as the processes themselves tell of them: the path `process`.
//!
//! What is kept goes by the cgroup and not by the registration, so that a process that is registered anew is not counted twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use cwasi_client::process_report::{
    FunctionRef, MAX_CONNECTIONS, ProcessConnection, ProcessEnd, ProcessReport, ProcessTotals,
};
use cwasi_client::protocol::{ApiError, ErrorCode, Flow, Traffic};
use cwasi_client::spec::{MAX_NAME, check_name};
use cwasi_ebpf_common::maps::{MAX_FUNCTIONS, MAX_SOCKETS};

use super::candidate::invalid;
use super::view::{PROCESS, age_seconds};
use super::{Agent, Entry, Process, SavedProcess, SavedProcesses, directory, error};

/// Most connections that are listed of all processes: with both ends, as many as the kernel's flows.
pub(super) const MAX_LISTED: usize = MAX_SOCKETS as usize / 2;

/// What all processes told.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// Sums of the processes whose cgroup is gone.
    ended: ProcessTotals,
    /// By cgroup id.
    told: BTreeMap<u64, Told>,
    /// [`Processes::ended`] has changed since it was saved.
    unsaved: bool,
}

/// What the processes of one cgroup told.
#[derive(Debug)]
struct Told {
    cgroup: PathBuf,
    /// The process that told it last.
    by: Process,
    /// Sums of the processes before that one.
    before: ProcessTotals,
    /// Its own.
    last: ProcessTotals,
    open: u64,
    connections: Vec<ProcessConnection>,
}

impl Told {
    fn new(cgroup: PathBuf, by: Process) -> Self {
        Self {
            cgroup,
            by,
            before: ProcessTotals::default(),
            last: ProcessTotals::default(),
            open: 0,
            connections: Vec::new(),
        }
    }

    fn total(&self) -> ProcessTotals {
        sum(self.before, self.last)
    }

    fn close(&mut self) {
        self.open = 0;
        self.connections = Vec::new();
    }

    /// Takes over a report, of which at most `room` connections are listed.
    fn take(&mut self, report: ProcessReport, by: Process, room: usize) {
        // A process that died since it spoke has no start time any more.
        let is_same = by.pid == self.by.pid && (by.started.is_none() || by.started == self.by.started);
        if !is_same {
            self.before = self.total();
            self.last = ProcessTotals::default();
            self.by = by;
        }
        let (last, now) = (&mut self.last, report.totals);
        last.connections = last.connections.max(now.connections);
        last.messages = last.messages.max(now.messages);
        last.bytes = last.bytes.max(now.bytes);
        self.open = report.open.max(report.connections.len() as u64);
        self.connections = report.connections;
        self.connections.truncate(room);
        self.connections.shrink_to_fit();
    }
}

impl Processes {
    /// What an agent before left, in the same boot of the node.
    pub(super) fn restore(saved: SavedProcesses, boot: &str) -> Self {
        if saved.boot != boot {
            return Self::default();
        }
        let told = |saved: SavedProcess| {
            let by = Process {
                pid: saved.pid,
                started: saved.started,
            };
            let told = Told {
                before: saved.before,
                last: saved.last,
                ..Told::new(saved.cgroup, by)
            };
            (saved.cgroup_id, told)
        };
        Self {
            ended: saved.ended,
            told: saved.processes.into_iter().map(told).collect(),
            unsaved: false,
        }
    }

    pub(super) fn saved(&self, boot: &str) -> SavedProcesses {
        let processes = self.told.iter().map(|(cgroup_id, told)| SavedProcess {
            cgroup: told.cgroup.clone(),
            cgroup_id: *cgroup_id,
            pid: told.by.pid,
            started: told.by.started,
            before: told.before,
            last: told.last,
        });
        SavedProcesses {
            boot: boot.to_owned(),
            ended: self.ended,
            processes: processes.collect(),
        }
    }

    /// Sums over all processes. They only grow.
    pub(super) fn total(&self) -> ProcessTotals {
        self.told.values().map(Told::total).fold(self.ended, sum)
    }

    /// Sums over the processes of a cgroup.
    pub(super) fn total_of(&self, cgroup_id: u64) -> ProcessTotals {
        self.told.get(&cgroup_id).map(Told::total).unwrap_or_default()
    }

    /// Number of open connections.
    pub(super) fn open(&self) -> u64 {
        self.told
            .values()
            .fold(0, |sum, told| sum.saturating_add(told.open))
    }

    /// Both ends of the listed connections of a function's process.
    pub(super) fn flows(&self, entry: &Entry, now_ns: u64) -> Vec<Flow> {
        let title = |end: &ProcessEnd| format!("{}/{}", entry.saved.spec.namespace, end.function);
        let flow = |end: &ProcessEnd, peer: &ProcessEnd, connections, established_ns| Flow {
            cookie: 0,
            src: title(end),
            dst: Some(title(peer)),
            local: end.address,
            remote: peer.address,
            path: PROCESS.to_owned(),
            reason: None,
            sent: Traffic {
                process_messages: end.messages,
                process_bytes: end.bytes,
                process_connections: connections,
                ..Traffic::default()
            },
            age_seconds: age_seconds(established_ns, now_ns),
        };
        let told = self.told.get(&entry.saved.cgroup_id);
        let connections = told.iter().flat_map(|told| &told.connections);
        let ends = connections.flat_map(|connection| {
            let ProcessConnection {
                client,
                server,
                established_ns,
            } = connection;
            [
                flow(client, server, 1, *established_ns),
                flow(server, client, 0, *established_ns),
            ]
        });
        ends.collect()
    }

    /// Pairs of functions of a process that have listed connections: their number, and what each of the two sent on them. The
    /// lesser name is first.
    pub(super) fn pairs(&self, cgroup_id: u64) -> HashMap<(&str, &str), (u64, [u64; 2])> {
        let told = self.told.get(&cgroup_id);
        let mut pairs: HashMap<_, (u64, [u64; 2])> = HashMap::new();
        for ProcessConnection { client, server, .. } in told.iter().flat_map(|told| &told.connections) {
            let (a, b) = if client.function <= server.function {
                (client, server)
            } else {
                (server, client)
            };
            let (open, sent) = pairs
                .entry((a.function.as_str(), b.function.as_str()))
                .or_default();
            *open += 1;
            sent[0] = sent[0].saturating_add(a.bytes);
            sent[1] = sent[1].saturating_add(b.bytes);
        }
        pairs
    }

    /// Takes over a report of the process `by` in a registered cgroup; `registered` gives the ids of all of these.
    pub(super) fn take(
        &mut self,
        cgroup_id: u64,
        cgroup: &Path,
        report: ProcessReport,
        by: Process,
        registered: impl FnOnce() -> HashSet<u64>,
    ) {
        if !self.told.contains_key(&cgroup_id) && self.told.len() >= MAX_FUNCTIONS as usize {
            let registered = registered();
            self.end(|cgroup_id, _| registered.contains(&cgroup_id));
        }
        // What this one listed before makes room.
        self.close(cgroup_id);
        let room = MAX_LISTED.saturating_sub(self.listed());
        let told = self.told.entry(cgroup_id);
        told.or_insert_with(|| Told::new(cgroup.to_owned(), by))
            .take(report, by, room);
    }

    /// Number of the listed connections.
    pub(super) fn listed(&self) -> usize {
        self.told.values().map(|told| told.connections.len()).sum()
    }

    /// Forgets the connections of a cgroup whose function is registered no more.
    pub(super) fn close(&mut self, cgroup_id: u64) {
        if let Some(told) = self.told.get_mut(&cgroup_id) {
            told.close();
        }
    }

    /// Keeps only the sums of those that are not to be kept.
    fn end(&mut self, keep: impl Fn(u64, &Told) -> bool) {
        let before = self.told.len();
        let ended = &mut self.ended;
        self.told.retain(|cgroup_id, told| {
            let kept = keep(*cgroup_id, told);
            if !kept {
                *ended = sum(*ended, told.total());
            }
            kept
        });
        self.unsaved |= self.told.len() < before;
    }
}

fn sum(a: ProcessTotals, b: ProcessTotals) -> ProcessTotals {
    ProcessTotals {
        connections: a.connections.saturating_add(b.connections),
        messages: a.messages.saturating_add(b.messages),
        bytes: a.bytes.saturating_add(b.bytes),
    }
}

/// Checks what can be checked of a report. Numbers are taken as they are.
fn validate(report: &ProcessReport) -> Result<(), ApiError> {
    let listed = report.connections.len();
    if listed > MAX_CONNECTIONS {
        let message = format!("{listed} connections are listed, at most {MAX_CONNECTIONS} fit");
        return Err(error(ErrorCode::Invalid, message));
    }
    let mut ends = report
        .connections
        .iter()
        .flat_map(|connection| [&connection.client, &connection.server]);
    ends.try_for_each(|end| check_name("function", &end.function, MAX_NAME))
        .map_err(|error| invalid(error.to_string()))
}

impl Agent {
    /// Takes over what the process `by` tells of the connections inside of a function's process.
    ///
    /// # Errors
    /// There is no such function, or the report cannot be used. Nothing is changed then.
    pub fn report_process(
        &mut self,
        of: &FunctionRef,
        report: ProcessReport,
        by: Process,
    ) -> Result<(), ApiError> {
        validate(&report)?;
        let saved = match of {
            FunctionRef::Id(id) => self.functions.get(id).map(|entry| &entry.saved),
            FunctionRef::Cgroup(cgroup) => {
                let cgroup_id = self.host.cgroup_id(&directory(cgroup)?);
                let mut saved = self.functions.values().map(|entry| &entry.saved);
                saved.find(|saved| Some(saved.cgroup_id) == cgroup_id)
            }
        };
        let Some(saved) = saved else {
            let message = "the process's function is not registered".to_owned();
            return Err(error(ErrorCode::NotFound, message));
        };
        let (cgroup_id, cgroup) = (saved.cgroup_id, saved.cgroup.as_path());
        let registered = || {
            self.functions
                .values()
                .map(|entry| entry.saved.cgroup_id)
                .collect()
        };
        self.processes.take(cgroup_id, cgroup, report, by, registered);
        Ok(())
    }

    /// Drops what is said of processes that are gone, and saves the sums of those whose cgroup is.
    pub(super) fn sweep_processes(&mut self) {
        let host = &self.host;
        self.processes
            .end(|cgroup_id, told| host.cgroup_id(&told.cgroup) == Some(cgroup_id));
        for told in self.processes.told.values_mut() {
            if told.by.is_dead(host.as_ref()) {
                told.close();
            }
        }
        if self.processes.unsaved {
            self.save_processes();
        }
    }

    /// Saves the sums over processes. To be done when the agent ends: what a living process told is not saved before.
    pub fn save_processes(&mut self) {
        self.processes.unsaved = false;
        self.save(|agent, store| store.put_processes(&agent.processes.saved(&agent.boot)));
    }
}
