//! A node: containerd with its network, its runtimes and its agent, beside whatever else the machine runs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, thread};

use nix::sys::signal::Signal;

use crate::agent::Agent;
use crate::cgroups::{self, Cgroups};
use crate::containerd::{self, Containerd, Layout, Process, Runtime};
use crate::cri::Cri;
use crate::error::{IoContext, on};
use crate::namespaces::Namespaces;
use crate::reap::{self, PARENT, PREFIX};
use crate::{Error, Result, native, snapshot, wait};

/// A node. Dropping it kills everything that runs on it and removes every trace.
#[derive(Debug)]
pub struct Node {
    name: String,
    layout: Layout,
    containerd: Containerd,
    runtimes: Vec<Runtime>,
    cri: Cri,
    agent: Agent,
    cgroups: Cgroups,
    namespaces: Namespaces,
    process: Mutex<Option<Process>>,
    /// What containerd's environment has beside what it needs.
    environment: Mutex<Vec<(String, String)>>,
    /// Ids of containers, pods' sandboxes included, that were ever made.
    containers: Mutex<Vec<String>>,
    /// What was there before the first pod.
    before: Mutex<BTreeSet<String>>,
    uids: AtomicU32,
}

impl Node {
    /// Starts a node with these runtimes, without an agent, and imports its pause image.
    ///
    /// # Errors
    /// Something is missing on this machine, or containerd does not start.
    pub fn start(containerd: Containerd, runtimes: Vec<Runtime>) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        reap::reap()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", process::id());
        let layout = Layout {
            dir: Path::new(PARENT).join(&name),
        };
        let cgroups = Cgroups::named(&name)?;
        fs::create_dir(&layout.dir).action(on("create", &layout.dir))?;
        // From here on a failure leaves what the next node's start removes.
        for directory in [
            layout.root(),
            layout.state(),
            layout.cni(),
            layout.ipam(),
            layout.pod_logs(),
        ] {
            fs::create_dir(&directory).action(on("create", directory))?;
        }
        cgroups.create()?;
        let node = Self {
            agent: Agent::absent(&name, layout.agent(), cgroups.procs())?,
            cri: Cri::new(&layout.socket())?,
            // In memory: what containerd waits for on a disk is none of a test's business.
            namespaces: Namespaces::new(&[&layout.root()])?,
            name,
            layout,
            containerd,
            runtimes,
            cgroups,
            process: Mutex::new(None),
            environment: Mutex::default(),
            containers: Mutex::new(Vec::new()),
            before: Mutex::new(BTreeSet::new()),
            uids: AtomicU32::new(1),
        };
        node.configure()?;
        node.start_containerd()?;
        node.import(&native::PAUSE.image()?)?;
        *lock(&node.before) = snapshot::of(&node)?;
        Ok(node)
    }

    fn configure(&self) -> Result<()> {
        let text = containerd::containerd(&self.containerd, &self.layout, &self.runtimes);
        let path = self.layout.config();
        fs::write(&path, text).action(on("write", path))?;
        let path = self.layout.cni().join("10-cwasi.conflist");
        fs::write(&path, containerd::cni(&self.layout)).action(on("write", path))
    }

    /// Where containerd finds shims and runtimes: those of the runtimes, its own, the machine's.
    fn path(&self) -> Result<OsString> {
        let shims = self
            .runtimes
            .iter()
            .filter_map(|runtime| runtime.directory.clone());
        let machine = [
            "/usr/local/sbin",
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
        ];
        let all = shims
            .chain([self.containerd.bin.clone()])
            .chain(machine.map(PathBuf::from));
        env::join_paths(all).map_err(|error| Error::Output {
            program: "the runtimes".to_owned(),
            detail: error.to_string(),
        })
    }

    /// Starts containerd, and waits until it takes pods.
    ///
    /// # Errors
    /// It ends, or is not ready in time.
    pub fn start_containerd(&self) -> Result<()> {
        let mut command = Command::new(self.containerd.bin.join("containerd"));
        command
            .arg("--config")
            .arg(self.layout.config())
            .env("PATH", self.path()?)
            // Shims inherit these.
            .env("CWASI_SOCKET", self.agent.socket())
            .env("CWASI_CACHE_DIR", self.layout.cache())
            .envs(lock(&self.environment).clone());
        let process = Process::spawn(
            &command,
            &self.namespaces,
            &self.cgroups.procs(),
            &self.layout.log(),
        )?;
        *lock(&self.process) = Some(process);
        wait::until(format!("{} is ready", self.containerd), || {
            if let Some(process) = lock(&self.process).as_mut() {
                process.check()?;
            }
            // Not before its socket is there.
            Ok(self.cri.is_ready().unwrap_or(false).then_some(()))
        })
    }

    /// Starts containerd anew with these variables in its environment, which shims that start from now on inherit.
    ///
    /// # Errors
    /// It does not end, or does not start.
    pub fn restart_containerd_with(&self, variables: &[(&str, &str)]) -> Result<()> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        *lock(&self.environment) = variables.iter().map(owned).collect();
        self.stop_containerd(Signal::SIGTERM)?;
        self.start_containerd()
    }

    /// Ends containerd alone, as an upgrade does; pods and their shims go on.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop_containerd(&self, signal: Signal) -> Result<()> {
        let process = lock(&self.process).take();
        process.map_or(Ok(()), |process| process.end(signal))
    }

    /// Its name, which its cgroups and bpffs directory have too.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its containerd.
    #[must_use]
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// containerd's CRI.
    #[must_use]
    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    /// Its agent, which runs when it was started.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Starts the agent, and waits until it serves.
    ///
    /// # Errors
    /// [`Error::Missing`] when `cwasi-agent` is not built; it ends instead.
    pub fn start_agent(&self) -> Result<()> {
        self.agent.start(&self.namespaces)
    }

    /// The namespaces that everything of it runs in.
    #[must_use]
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// A directory of this node that nothing else uses, for a test's own files.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.layout.dir.join("test").join(name);
        fs::create_dir_all(&directory).action(on("create", &directory))?;
        Ok(directory)
    }

    /// containerd's configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.layout.config()
    }

    /// The directory of modules that shims of this node compiled.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.layout.cache()
    }

    /// What containerd and the shims have logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.layout.log()).map_or_else(|error| error.to_string(), |bytes| wait::text(&bytes))
    }

    /// What containers' cgroups are below, as runtimes are told.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        self.cgroups.parent()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn runtimes(&self) -> &[Runtime] {
        &self.runtimes
    }

    pub(crate) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    pub(crate) fn containerd_pid(&self) -> Option<i32> {
        lock(&self.process).as_ref().map(Process::pid)
    }

    /// Remembers a container, whose traces are then looked for.
    pub(crate) fn know(&self, id: &str) {
        lock(&self.containers).push(id.to_owned());
    }

    pub(crate) fn containers(&self) -> Vec<String> {
        lock(&self.containers).clone()
    }

    pub(crate) fn container_cgroups(&self, id: &str) -> Vec<PathBuf> {
        let mut found = cgroups::leaves(&[id.to_owned()]);
        found.extend(self.cgroups.of_container(id));
        found
    }

    pub(crate) fn next_uid(&self) -> String {
        let number = self.uids.fetch_add(1, Ordering::Relaxed);
        format!("00000000-0000-0000-0000-{number:012}")
    }

    /// What is there now and was not before the first pod.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let now = snapshot::of(self)?;
        Ok(now.difference(&lock(&self.before)).cloned().collect())
    }

    /// Removes all pods, and fails when something of them, or of containers that ended before, stays longer than
    /// [`wait::CLOSING`].
    ///
    /// # Errors
    /// [`Error::Leftovers`]; a pod cannot be removed.
    pub fn settle(&self) -> Result<()> {
        for pod in self.cri.pods()? {
            self.cri.stop_pod(&pod)?;
            self.cri.remove_pod(&pod)?;
        }
        let mut left = Vec::new();
        let settled = wait::within(wait::CLOSING, "nothing is left", || {
            left = self.leftovers()?;
            Ok(left.is_empty().then_some(()))
        });
        match settled {
            Err(Error::Timeout { .. }) => Err(Error::Leftovers(left)),
            other => other,
        }
    }

    /// What containerd, the shims and the agent logged last.
    pub(crate) fn last_words(&self) -> String {
        let mut said = format!("{} said:\n{}", self.containerd, tail(&self.log()));
        let agent = self.agent.log();
        if !agent.is_empty() {
            said += &format!("\nthe agent said:\n{}", tail(&agent));
        }
        said
    }

    fn tear_down(&self) -> Result<()> {
        let agent = self.agent.remove();
        drop(lock(&self.process).take());
        reap::kill_all(&self.cgroups, Some(&self.namespaces))?;
        cgroups::remove_leaves(&self.containers())?;
        self.cgroups.remove()?;
        fs::remove_dir_all(&self.layout.dir).action(on("remove", &self.layout.dir))?;
        agent
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.last_words());
        }
        if let Err(error) = self.tear_down() {
            eprintln!("{} is left behind: {error}", self.name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked elsewhere still wants its node torn down.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of a log, as much as a person reads.
fn tail(log: &str) -> String {
    const LINES: usize = 200;
    const NOISE: [&str; 4] = [
        "msg=\"loading plugin",
        "Start cri plugin",
        "msg=\"ImageCreate",
        "msg=\"ImageUpdate",
    ];
    let lines = log.lines().filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines
        .filter(|line| !NOISE.iter().any(|noise| line.contains(noise)))
        .collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
