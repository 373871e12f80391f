//! The agent's state: which functions are registered, and that the data plane knows exactly these.
//!
//! Everything here is synchronous and takes the data plane and the node behind traits ([`Plane`], [`Host`]), so that tests can
//! drive any sequence of events. Reading (status, metrics, `explain`) is in `view` and `explain`.

mod candidate;
mod events;
mod explain;
mod fallbacks;
mod health;
mod host;
mod locality;
mod overview;
mod persist;
mod processes;
mod totals;
mod view;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use cwasi_client::protocol::{self, ApiError, Degradation, ErrorCode, Registered};
use cwasi_ebpf_common::maps::{Config, FunctionEntry, MAX_FUNCTIONS, MAX_LOCALITY, Sockets, TrafficKey};
use ipnet::{IpNet, Ipv6Net};
use tracing::{info, warn};

use crate::kernel::{PlaneError, pinned};
use crate::plane::Plane;

pub use candidate::{Candidate, directory, validate};
pub use fallbacks::{Advice, advice};
pub use health::{DEGRADATIONS, RECENT};
pub use host::{Host, Node, started};
pub use locality::{Localities, longest_match, mapped, mapped_addr, unmapped};
pub use overview::{
    Fallback, Listed, MAX_FUNCTIONS_SHOWN, MAX_PAIRS_SHOWN, Overview, Pair, Party, PathBytes, Shown,
};
pub use persist::{Loaded, SavedAgent, SavedFunction, SavedProcess, SavedProcesses, StateLocked, Store};
pub use totals::Totals;
pub use view::{KERNEL, NETWORK, PROCESS, Snapshot, version};

use events::EventLog;
use health::Recent;
use processes::Processes;

/// The largest id: the plane keeps the sums of functions that are gone under the number above.
const MAX_ID: u32 = u32::MAX - 1;

/// What the agent was told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the pins.
    pub bpffs: PathBuf,
    /// Bytes that may wait in one receiver's redirect queue.
    pub budget: u32,
    /// Prefixes of this node.
    pub local: Vec<IpNet>,
    /// Prefixes that may be of this node: Services.
    pub service: Vec<IpNet>,
    /// Where metrics are served.
    pub metrics_addr: Option<SocketAddr>,
}

/// What the start found of the kernel.
pub struct Kernel {
    /// The data plane, `None` where it could not be made.
    pub plane: Option<Box<dyn Plane>>,
    /// What was tried, and whether it works.
    pub probes: Vec<(&'static str, bool)>,
    /// What is wrong.
    pub degraded: Vec<Degradation>,
    /// Whether the self-test failed: a plane then keeps its maps but does not redirect.
    pub held_off: bool,
}

/// A process, named for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid in the agent's pid namespace, 0 when it is not visible there.
    pub pid: u32,
    /// When it was started, in clock ticks since boot; `None` when it is not visible, or dead.
    pub started: Option<u64>,
}

impl Process {
    /// A process that the agent does not see.
    pub const UNSEEN: Self = Self {
        pid: 0,
        started: None,
    };

    /// Whether it is known to be dead: its pid is nobody's, or another's by now.
    fn is_dead(self, host: &dyn Host) -> bool {
        let started = host.started(self.pid);
        let visible = self.pid != 0;
        visible && (started.is_none() || self.started.is_some_and(|before| started != Some(before)))
    }
}

/// A registered function.
struct Entry {
    saved: SavedFunction,
    /// Why the programs could not be attached to its cgroup.
    attach_error: Option<String>,
    /// What was last reported of it.
    reported: Totals,
}

impl SavedFunction {
    fn launcher(&self) -> Process {
        Process {
            pid: self.registered_by,
            started: self.started,
        }
    }
}

impl Entry {
    fn new(saved: SavedFunction) -> Self {
        Self {
            saved,
            attach_error: None,
            reported: Totals::default(),
        }
    }

    /// `namespace/name`.
    fn title(&self) -> String {
        format!("{}/{}", self.saved.spec.namespace, self.saved.spec.name)
    }
}

/// The agent.
pub struct Agent {
    plane: Option<Box<dyn Plane>>,
    /// The plane was taken out of the kernel for good.
    unloaded: bool,
    /// The self-test failed: the plane must not redirect, whatever the operator's switch says.
    held_off: bool,
    probes: Vec<(&'static str, bool)>,
    kernel_degraded: Vec<Degradation>,
    settings: Settings,
    host: Box<dyn Host>,
    store: Store,
    boot: String,
    functions: BTreeMap<u32, Entry>,
    processes: Processes,
    localities: Localities,
    /// The kernel's prefixes may differ from [`Agent::localities`]: a change failed.
    stale_localities: bool,
    next_id: u32,
    /// Ids that the kernel's maps still speak of.
    avoid: HashSet<u32>,
    /// See [`SavedAgent::switch`].
    switch: Option<bool>,
    /// Why the state directory is behind.
    unsaved: Option<String>,
    /// Why the kernel's maps could not be read the last time.
    unread: Option<String>,
    reported: Totals,
    /// Events that the kernel lost, as last reported.
    lost_events: u64,
    recent: Recent,
    events: EventLog,
}

impl Agent {
    /// Takes over what an agent before left in the state directory and in the plane, as far as it still exists.
    ///
    /// [`Agent::lacks_kernel`] tells whether to look at the kernel again, for [`Agent::adopt`].
    #[must_use]
    pub fn new(kernel: Kernel, settings: Settings, host: Box<dyn Host>, store: Store) -> Self {
        let loaded = store.load();
        for warning in &loaded.warnings {
            warn!("state: {warning}");
        }
        let boot = host.boot();
        let mut agent = Self {
            plane: None,
            unloaded: false,
            held_off: false,
            probes: Vec::new(),
            kernel_degraded: Vec::new(),
            localities: Localities::new(&settings.local, &settings.service),
            settings,
            processes: Processes::restore(loaded.processes, &boot),
            boot,
            host,
            store,
            functions: BTreeMap::new(),
            stale_localities: false,
            next_id: loaded.agent.next_id,
            avoid: HashSet::new(),
            switch: loaded.agent.switch,
            unsaved: None,
            unread: None,
            reported: Totals::default(),
            lost_events: 0,
            recent: Recent::default(),
            events: EventLog::default(),
        };
        agent.restore_functions(loaded.functions);
        agent.adopt(kernel);
        if agent.next_id == 0 {
            agent.next_id = agent.avoid.iter().max().map_or(1, |id| id.saturating_add(1));
        }
        agent.save(|agent, store| store.put_agent(&agent.saved()));
        agent
    }

    /// Whether another look at the kernel may help: its tests failed, or the data plane could not be made.
    #[must_use]
    pub const fn lacks_kernel(&self) -> bool {
        (self.plane.is_none() || self.held_off) && !self.unloaded
    }

    /// Whether there is a data plane, held off or not.
    #[must_use]
    pub const fn has_plane(&self) -> bool {
        self.plane.is_some()
    }

    /// Lets go of the data plane, for one that is opened anew: all that is pinned stays.
    pub fn close_plane(&mut self) {
        self.plane = None;
    }

    /// Goes on with what a look at the kernel found, and takes over what is left there.
    pub fn adopt(&mut self, kernel: Kernel) {
        self.held_off = kernel.plane.is_some() && kernel.held_off;
        self.plane = kernel.plane;
        self.probes = kernel.probes;
        self.kernel_degraded = kernel.degraded;
        // Before any cgroup is attached: a kernel that failed the self-test must not redirect for a moment.
        self.restore_switch();
        self.restore_plane();
        self.avoid = self.ids_in_use();
        // What happened before is no news of now.
        let totals = self.read().totals;
        self.recent = Recent::since(&totals);
    }

    fn restore_functions(&mut self, saved: Vec<SavedFunction>) {
        let mut cgroups = HashSet::new();
        for function in saved {
            let alive = function.boot == self.boot
                && self.host.cgroup_id(&function.cgroup) == Some(function.cgroup_id)
                && cgroups.insert(function.cgroup_id);
            if alive {
                for address in &function.spec.addresses {
                    self.localities.hold(*address);
                }
                self.functions.insert(function.id, Entry::new(function));
            } else {
                info!(id = function.id, cgroup = %function.cgroup.display(), "dropped: its cgroup is gone");
                self.save(|_, store| store.remove(function.id));
            }
        }
    }

    /// Makes the data plane know the registered functions and prefixes, and no others.
    fn restore_plane(&mut self) {
        let Some(plane) = &mut self.plane else { return };
        let registered = self.functions.values().map(|entry| entry.saved.cgroup_id);
        let cgroups: HashSet<u64> = registered.collect();
        match plane.attached() {
            Ok(attached) => {
                for (cgroup_id, _) in attached
                    .into_iter()
                    .filter(|(cgroup_id, _)| !cgroups.contains(cgroup_id))
                {
                    if let Err(error) = plane.detach(cgroup_id) {
                        warn!(cgroup_id, "detach of a cgroup that is not registered: {error}");
                    }
                }
            }
            Err(error) => warn!("registered cgroups of the agent before: {error}"),
        }
        self.reconcile_localities();
        self.attach_missing(true);
    }

    /// Brings the operator's switch into the plane, or keeps it for later where redirection is held off.
    fn restore_switch(&mut self) {
        if let Err(error) = self.try_restore_switch() {
            warn!("configuration: {error}");
            if self.held_off {
                // A plane that must not redirect, and cannot be told so, is not used.
                self.plane = None;
            }
        }
    }

    fn try_restore_switch(&mut self) -> Result<(), PlaneError> {
        let Some(plane) = &mut self.plane else {
            return Ok(());
        };
        let mut config = plane.config()?;
        let wanted = self.switch.unwrap_or(config.enabled != 0);
        if self.held_off {
            // Kept before it is overwritten: a crash in between must not lose what the operator wants.
            self.keep_switch(Some(wanted));
        }
        config.enabled = u32::from(wanted && !self.held_off);
        if let Some(plane) = &mut self.plane {
            plane.set_config(&config)?;
        }
        if !self.held_off {
            self.keep_switch(None);
        }
        Ok(())
    }

    fn keep_switch(&mut self, switch: Option<bool>) {
        if self.switch != switch {
            self.switch = switch;
            self.save(|agent, store| store.put_agent(&agent.saved()));
        }
    }

    fn ids_in_use(&self) -> HashSet<u32> {
        let mut ids: HashSet<u32> = self.functions.keys().copied().collect();
        if let Some(plane) = &self.plane {
            let traffic = plane.traffic().unwrap_or_default();
            ids.extend(
                traffic
                    .iter()
                    .flat_map(|(TrafficKey { src, dst }, _)| [*src, *dst]),
            );
            let flows = plane.flows().unwrap_or_default();
            ids.extend(flows.iter().flat_map(|flow| [flow.function, flow.peer_function]));
        }
        ids.retain(|id| (1..=MAX_ID).contains(id));
        ids
    }

    fn new_id(&mut self) -> u32 {
        loop {
            if !(1..=MAX_ID).contains(&self.next_id) {
                self.next_id = 1;
                self.avoid = self.ids_in_use();
            }
            let id = self.next_id;
            self.next_id += 1;
            if !self.avoid.contains(&id) {
                return id;
            }
        }
    }

    /// Makes a cgroup's processes a function. A cgroup that is registered already keeps its id.
    ///
    /// # Errors
    /// The cgroup is gone, a limit is reached, or the kernel refuses an address. Nothing is changed then. A kernel that
    /// refuses the cgroup is no error: the function is registered, its connections stay on TCP, and the answer says why.
    pub fn register(&mut self, candidate: Candidate, by: Process) -> Result<Registered, ApiError> {
        let Candidate { spec, cgroup } = candidate;
        let Some(cgroup_id) = self.host.cgroup_id(&cgroup) else {
            return Err(error(
                ErrorCode::Invalid,
                format!("the cgroup {} is gone", cgroup.display()),
            ));
        };
        let known = self
            .functions
            .values()
            .find(|entry| entry.saved.cgroup_id == cgroup_id);
        let known = known.map(|entry| (entry.saved.id, entry.saved.spec.addresses.clone()));
        if known.is_none() && self.functions.len() >= MAX_FUNCTIONS as usize {
            let message = format!("{MAX_FUNCTIONS} functions are registered, no more fit");
            return Err(error(ErrorCode::Exhausted, message));
        }
        if self.localities.desired().len() + spec.addresses.len() > MAX_LOCALITY as usize {
            let message = format!("{MAX_LOCALITY} addresses and prefixes are known, no more fit");
            return Err(error(ErrorCode::Exhausted, message));
        }
        self.hold_addresses(&spec.addresses)?;
        let (id, old_addresses) = match known {
            Some((id, addresses)) => (id, addresses),
            None => (self.new_id(), Vec::new()),
        };
        self.release_addresses(&old_addresses);
        let saved = SavedFunction {
            id,
            boot: self.boot.clone(),
            spec,
            cgroup,
            cgroup_id,
            registered_by: by.pid,
            started: by.started,
        };
        let reported = self
            .functions
            .remove(&id)
            .map(|entry| entry.reported)
            .unwrap_or_default();
        self.save(|agent, store| store.put_agent(&agent.saved()).and_then(|()| store.put(&saved)));
        let mut entry = Entry {
            reported,
            ..Entry::new(saved)
        };
        if let Some(plane) = &mut self.plane {
            entry.attach_error = attach(plane.as_mut(), &entry.saved).err();
        }
        info!(id, function = entry.title(), pid = by.pid, "registered");
        let (accelerated, reason) = self.acceleration(&entry);
        self.functions.insert(id, entry);
        Ok(Registered {
            id,
            accelerated,
            reason,
        })
    }

    /// Forgets a function. Its open connections go on as they are.
    ///
    /// # Errors
    /// There is no such function, or the kernel's maps cannot be changed.
    pub fn unregister(&mut self, id: u32) -> Result<(), ApiError> {
        let Some(entry) = self.functions.get(&id) else {
            return Err(error(ErrorCode::NotFound, format!("no function has the id {id}")));
        };
        if let Some(plane) = &mut self.plane {
            plane
                .detach(entry.saved.cgroup_id)
                .map_err(|error| internal(&error))?;
        }
        if let Some(entry) = self.functions.remove(&id) {
            self.release_addresses(&entry.saved.spec.addresses);
            self.processes.close(entry.saved.cgroup_id);
            info!(id, function = entry.title(), "unregistered");
        }
        self.save(|_, store| store.remove(id));
        Ok(())
    }

    /// Forgets the function of a cgroup's [`directory`], also of one that is gone. That there is none is no error.
    ///
    /// # Errors
    /// The kernel's maps cannot be changed.
    pub fn unregister_cgroup(&mut self, cgroup: &Path) -> Result<(), ApiError> {
        let cgroup_id = self.host.cgroup_id(cgroup);
        let saved = self.functions.values().map(|entry| &entry.saved);
        // A directory that was made anew is another cgroup, under the same path.
        let ids: Vec<u32> = saved
            .filter(|saved| saved.cgroup == cgroup || Some(saved.cgroup_id) == cgroup_id)
            .map(|saved| saved.id)
            .collect();
        ids.into_iter().try_for_each(|id| self.unregister(id))
    }

    /// Whether the cgroup at the directory is a function's.
    #[must_use]
    pub fn is_function(&self, cgroup: &Path) -> bool {
        let cgroup_id = self.host.cgroup_id(cgroup);
        let mut known = self.functions.values().map(|entry| entry.saved.cgroup_id);
        known.any(|id| Some(id) == cgroup_id)
    }

    fn hold_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), ApiError> {
        for (index, address) in addresses.iter().enumerate() {
            let changed = self.localities.hold(*address);
            if let Err(error) = changed.map_or(Ok(()), |prefix| self.apply_locality(prefix)) {
                self.release_addresses(&addresses[..=index]);
                return Err(internal(&error));
            }
        }
        Ok(())
    }

    fn release_addresses(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            let changed = self.localities.release(*address);
            if let Err(error) = changed.map_or(Ok(()), |prefix| self.apply_locality(prefix)) {
                warn!("address {address}: {error}");
                self.stale_localities = true;
            }
        }
    }

    fn apply_locality(&mut self, prefix: Ipv6Net) -> Result<(), PlaneError> {
        let locality = self.localities.get(prefix);
        self.plane
            .as_mut()
            .map_or(Ok(()), |plane| plane.set_locality(prefix, locality))
    }

    /// Makes the kernel's prefixes the desired ones; new ones first, so that no known destination is missing meanwhile.
    fn reconcile_localities(&mut self) {
        let Some(plane) = &mut self.plane else { return };
        let desired = self.localities.desired();
        let result = plane.localities().and_then(|found| {
            let found: BTreeMap<_, _> = found.into_iter().collect();
            for (prefix, locality) in &desired {
                if found.get(prefix) != Some(locality) {
                    plane.set_locality(*prefix, Some(*locality))?;
                }
            }
            for (prefix, _) in found {
                if !desired.contains_key(&prefix) {
                    plane.set_locality(prefix, None)?;
                }
            }
            Ok(())
        });
        self.stale_localities = result.is_err();
        if let Err(error) = result {
            warn!("prefixes of this node: {error}");
        }
    }

    /// Attaches the programs where that failed before or was undone by hand, or to `all`.
    fn attach_missing(&mut self, all: bool) {
        let Some(plane) = &mut self.plane else { return };
        for entry in self.functions.values_mut() {
            if all || entry.attach_error.is_some() || !plane.is_attached(entry.saved.cgroup_id) {
                entry.attach_error = attach(plane.as_mut(), &entry.saved).err();
            }
        }
    }

    /// Looks after functions: drops those whose cgroup is gone, or empty and of a dead launcher, and tries again what
    /// failed before. Call it every few seconds.
    pub fn sweep_functions(&mut self) {
        let mut gone = Vec::new();
        for entry in self.functions.values() {
            let saved = &entry.saved;
            if self.host.cgroup_id(&saved.cgroup) != Some(saved.cgroup_id) {
                gone.push((saved.id, false));
            } else if saved.launcher().is_dead(self.host.as_ref()) && self.host.is_empty_leaf(&saved.cgroup) {
                gone.push((saved.id, true));
            }
        }
        for (id, leaf) in gone {
            let cgroup = self.functions[&id].saved.cgroup.clone();
            info!(id, cgroup = %cgroup.display(), "dropped: its cgroup is gone, or empty and its launcher dead");
            if let Err(error) = self.unregister(id) {
                warn!(id, "{error}");
            } else if leaf && let Err(error) = self.host.remove_cgroup(&cgroup) {
                warn!(id, "{error}");
            }
        }
        self.sweep_processes();
        self.attach_missing(false);
        if self.stale_localities {
            self.reconcile_localities();
        }
        if self.unsaved.is_some() {
            self.save_all();
        }
    }

    /// Removes what closed sockets left in the kernel's maps. Call it now and then; it walks every open connection.
    pub fn sweep_plane(&mut self) {
        let swept = self.plane.as_mut().map_or(Ok(0), |plane| plane.sweep());
        match swept {
            Ok(0) => {}
            Ok(removed) => info!(removed, "entries of sockets that are gone"),
            Err(error) => self.unread = Some(error.to_string()),
        }
        let totals = self.read().totals;
        self.recent.note(&totals, Instant::now());
    }

    /// The operator's switch.
    ///
    /// # Errors
    /// The configuration cannot be written.
    pub fn set_enabled(&mut self, enabled: bool) -> Result<(), ApiError> {
        info!(enabled, "switched");
        if let Some(plane) = self.plane.as_mut().filter(|_| !self.held_off) {
            let switched = plane.config().and_then(|config| {
                plane.set_config(&Config {
                    enabled: u32::from(enabled),
                    ..config
                })
            });
            return switched.map_err(|error| internal(&error));
        }
        self.keep_switch(Some(enabled));
        // Pins that this agent could not adopt may still redirect.
        if self.plane.is_none() && !enabled {
            let _ = pinned::set_enabled(&self.settings.bpffs, false);
        }
        Ok(())
    }

    /// Takes programs and pins out of the kernel. The agent is to end after this.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn unload(&mut self) -> Result<(), ApiError> {
        info!("unload");
        self.unloaded = true;
        let done = match self.plane.take() {
            Some(plane) => plane.unload(),
            None => pinned::unload(&self.settings.bpffs).map(drop),
        };
        done.map_err(|error| internal(&error))
    }

    /// Takes events from the kernel. Call it several times a second.
    pub fn drain_events(&mut self) {
        let taken = self
            .plane
            .as_mut()
            .map_or(Ok(Vec::new()), |plane| plane.events(events::BATCH));
        match taken {
            Ok(taken) => {
                for event in taken {
                    let event = self.event(&event);
                    tracing::debug!(?event);
                    self.events.push(event);
                }
            }
            Err(error) => self.unread = Some(error.to_string()),
        }
    }

    fn saved(&self) -> SavedAgent {
        SavedAgent {
            next_id: self.next_id,
            switch: self.switch,
        }
    }

    fn save(&mut self, change: impl FnOnce(&Self, &Store) -> std::io::Result<()>) {
        if let Err(error) = change(self, &self.store) {
            let message = format!("{}: {error}", self.store.dir().display());
            if self.unsaved.is_none() {
                warn!("state: {message}");
            }
            self.unsaved = Some(message);
        }
    }

    fn save_all(&mut self) {
        self.unsaved = None;
        self.save(|agent, store| {
            let functions: Vec<_> = agent
                .functions
                .values()
                .map(|entry| entry.saved.clone())
                .collect();
            store.put_all(&agent.saved(), &functions)?;
            store.put_processes(&agent.processes.saved(&agent.boot))
        });
    }
}

fn attach(plane: &mut dyn Plane, saved: &SavedFunction) -> Result<(), String> {
    let sockets = match saved.spec.sockets {
        protocol::Sockets::NonBlocking => Sockets::NonBlocking,
        protocol::Sockets::All => Sockets::All,
    };
    let function = FunctionEntry {
        id: saved.id,
        sockets: sockets as u32,
    };
    match plane.attach(&saved.cgroup, function) {
        Ok(_) => Ok(()),
        Err(error) => {
            warn!(id = saved.id, cgroup = %saved.cgroup.display(), "attach: {error}");
            Err(format!("{error}; {}", error.remedy()))
        }
    }
}

fn error(code: ErrorCode, message: String) -> ApiError {
    ApiError { code, message }
}

fn internal(cause: &PlaneError) -> ApiError {
    warn!("{cause}");
    error(ErrorCode::Internal, format!("{cause}; {}", cause.remedy()))
}

#[cfg(test)]
mod tests;
