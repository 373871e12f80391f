//! Functions that their launchers announced: registered where no request has done so, and forgotten with their cgroup.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use cwasi_client::announce::{AnnounceError, Announcements, Version};
use cwasi_client::cgroup;
use cwasi_client::protocol::{ApiError, FunctionSpec};
use tracing::{info, warn};

use crate::agent::{Candidate, Process, directory};
use crate::api::{Shared, lock};

/// How often everything is read although nothing seems to have changed: what was refused is tried again then.
const AGAIN: Duration = Duration::from_secs(30);

/// What is announced beside the agent's socket.
#[derive(Debug)]
pub struct Announced {
    announcements: Announcements,
    functions: Vec<(String, FunctionSpec)>,
    version: Option<Version>,
    read: Option<Instant>,
    /// Problems that were told, and are still there.
    told: BTreeSet<String>,
}

impl Announced {
    /// Nothing is read before the first look.
    #[must_use]
    pub fn new(announcements: Announcements) -> Self {
        Self {
            announcements,
            functions: Vec::new(),
            version: None,
            read: None,
            told: BTreeSet::new(),
        }
    }

    /// Registers what is announced and no function yet, where that changed since the last look, and removes announcements whose
    /// cgroup is gone. Looks at the file system and enters network namespaces: call it on a thread that may wait, every few
    /// seconds. What is wrong with an announcement is logged once, not at each look.
    pub fn look(&mut self, agent: &Shared) {
        for problem in self.examine(agent) {
            warn!("announcement: {problem}");
        }
    }

    /// See [`Announced::look`]. Returns what is wrong and was not told before.
    fn examine(&mut self, agent: &Shared) -> Vec<String> {
        let broken = match self.read_changes() {
            Ok(None) => {
                self.remove_finished();
                return Vec::new();
            }
            Ok(Some(broken)) => broken,
            Err(error) => {
                self.functions.clear();
                self.read = None;
                vec![error]
            }
        };
        let mut problems: BTreeSet<_> = broken.iter().map(ToString::to_string).collect();
        problems.extend(self.remove_finished().iter().map(ToString::to_string));
        for (key, spec) in &self.functions {
            if let Err(refusal) = self.register(key, spec, agent)
                && !is_over(spec)
            {
                problems.insert(format!("{key}: {refusal}"));
            }
        }
        let new = problems.difference(&self.told).cloned().collect();
        self.told = problems;
        new
    }

    /// Reads everything, unless nothing has changed. Returns what cannot be used.
    fn read_changes(&mut self) -> Result<Option<Vec<AnnounceError>>, AnnounceError> {
        // Before the files: what changes while they are read is read at the next look.
        let version = self.announcements.version()?;
        if version == self.version && self.read.is_some_and(|at| at.elapsed() < AGAIN) {
            return Ok(None);
        }
        let listing = self.announcements.list()?;
        (self.version, self.read) = (version, Some(Instant::now()));
        self.functions = listing.functions;
        Ok(Some(listing.broken))
    }

    /// Removes the announcements whose cgroup is gone. Returns why some cannot be removed; these are tried again.
    fn remove_finished(&mut self) -> Vec<AnnounceError> {
        let mut problems = Vec::new();
        let announcements = &self.announcements;
        self.functions.retain(|(key, spec)| {
            let removed = is_over(spec)
                && remove_finished(announcements, key, spec).unwrap_or_else(|error| {
                    problems.push(error);
                    false
                });
            !removed
        });
        problems
    }

    fn register(&self, key: &str, spec: &FunctionSpec, agent: &Shared) -> Result<(), ApiError> {
        let is_function = |cgroup: &Path| lock(agent).is_function(cgroup);
        if spec.cgroup.as_deref().is_some_and(is_function) {
            return Ok(());
        }
        let candidate = Candidate::resolve(spec.clone(), Process::UNSEEN.pid)?;
        let mut agent = lock(agent);
        // A launcher takes its announcement back before it unregisters: one that is still there, under the lock that
        // unregistering needs, has not been unregistered.
        let announced = self.announcements.get(key).ok().flatten();
        if announced.as_ref() != Some(spec) || agent.is_function(&candidate.cgroup) {
            return Ok(());
        }
        agent.register(candidate, Process::UNSEEN).map(drop)
    }
}

/// Removes the announcement of a function that has ended, unless the key is another's by now. Returns whether it is gone.
fn remove_finished(
    announcements: &Announcements,
    key: &str,
    spec: &FunctionSpec,
) -> Result<bool, AnnounceError> {
    match announcements.get(key)? {
        // A launcher makes the cgroup before it announces the function: without one, this is not a new announcement.
        Some(now) if now == *spec && is_over(spec) => {
            announcements.remove(key)?;
            info!(key, "announcement removed: its cgroup is gone");
            Ok(true)
        }
        now => Ok(now.is_none()),
    }
}

/// Whether the function has ended: its cgroup, where the agent would see it, is gone.
fn is_over(spec: &FunctionSpec) -> bool {
    let Some(path) = &spec.cgroup else { return false };
    let gone = matches!(cgroup::id(path), Err(error) if error.is_gone());
    gone && cgroup::unified_root().is_ok_and(|root| directory(path).is_ok_and(|path| path.starts_with(root)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, symlink};
    use std::sync::{Arc, Mutex};

    use cwasi_client::cgroup::Leaf;
    use cwasi_ebpf_common::maps::Config;
    use tempfile::TempDir;

    use super::*;
    use crate::agent::{Agent, Kernel, Node, Settings, Store};
    use crate::testing::Fake;

    /// An agent with a plane made of memory, the node's cgroups, and announcements of its own.
    struct Bench {
        agent: Shared,
        announced: Announced,
        announcements: Announcements,
        fake: Fake,
        dir: TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let announcements = Announcements::beside(&dir.path().join("agent.sock"));
            let fake = Fake::default();
            Self {
                agent: Self::start(&fake, &dir),
                announced: Announced::new(announcements.clone()),
                announcements,
                fake,
                dir,
            }
        }

        fn start(fake: &Fake, dir: &TempDir) -> Shared {
            let kernel = Kernel {
                plane: Some(fake.plane()),
                probes: Vec::new(),
                degraded: Vec::new(),
                held_off: false,
            };
            let settings = Settings {
                bpffs: dir.path().join("bpffs"),
                budget: Config::DEFAULT_BUDGET,
                local: Vec::new(),
                service: Vec::new(),
                metrics_addr: None,
            };
            let store = Store::new(&dir.path().join("state"));
            Arc::new(Mutex::new(Agent::new(
                kernel,
                settings,
                Box::new(Node::new()),
                store,
            )))
        }

        fn restart(&mut self) {
            self.agent = Self::start(&self.fake, &self.dir);
            self.announced = Announced::new(self.announcements.clone());
        }

        /// A function in the leaf, which the fake kernel knows too.
        fn spec(&self, name: &str, leaf: &Leaf) -> FunctionSpec {
            let cgroup = fs::canonicalize(leaf.path()).unwrap();
            self.fake.world().cgroups.insert(cgroup.clone(), (leaf.id(), 1));
            FunctionSpec {
                name: name.to_owned(),
                namespace: "default".to_owned(),
                cgroup: Some(cgroup),
                addresses: vec!["10.1.0.2".parse().unwrap()],
                ..FunctionSpec::default()
            }
        }

        fn look(&mut self) -> Vec<String> {
            self.announced.examine(&self.agent)
        }

        /// A look that reads everything.
        fn look_again(&mut self) -> Vec<String> {
            self.announced.read = None;
            self.look()
        }

        /// Names of the functions, by id.
        fn names(&self) -> Vec<(u32, String)> {
            let functions = lock(&self.agent).functions();
            functions
                .into_iter()
                .map(|function| (function.id, function.spec.name))
                .collect()
        }

        fn files(&self) -> usize {
            fs::read_dir(self.announcements.dir()).unwrap().count()
        }
    }

    fn leaf(name: &str) -> Option<Leaf> {
        Leaf::create(name)
            .inspect_err(|error| eprintln!("skipped: {error}"))
            .ok()
    }

    #[test]
    fn what_is_announced_is_registered_once() {
        let (mut bench, Some(a), Some(b)) = (Bench::new(), leaf("announced-a"), leaf("announced-b")) else {
            return;
        };
        assert_eq!(bench.look(), [] as [&str; 0]);
        let spec = bench.spec("a", &a);
        bench.announcements.put("ns--a", &spec).unwrap();
        assert_eq!(bench.look(), [] as [&str; 0]);
        let functions = lock(&bench.agent).functions();
        assert_eq!(functions.len(), 1);
        assert_eq!(
            (functions[0].spec.clone(), functions[0].registered_by),
            (spec.clone(), 0)
        );
        assert_eq!(bench.fake.world().attached[&a.id()].id, 1);
        // Another description, and another key for the same cgroup, change nothing of a function.
        let other = FunctionSpec {
            name: "other".to_owned(),
            ..spec
        };
        bench.announcements.put("ns--a", &other).unwrap();
        bench.announcements.put("ns--twin", &other).unwrap();
        bench.announcements.put("ns--b", &bench.spec("b", &b)).unwrap();
        for _ in 0..2 {
            assert_eq!(bench.look_again(), [] as [&str; 0]);
            assert_eq!(bench.names(), [(1, "a".to_owned()), (2, "b".to_owned())]);
        }
        bench.restart();
        assert_eq!(bench.look(), [] as [&str; 0]);
        assert_eq!(bench.names(), [(1, "a".to_owned()), (2, "b".to_owned())]);
        // An agent that has lost its state.
        fs::remove_dir_all(bench.dir.path().join("state")).unwrap();
        bench.restart();
        assert!(bench.names().is_empty());
        assert_eq!(bench.look(), [] as [&str; 0]);
        assert_eq!(bench.names().len(), 2);
    }

    #[test]
    fn what_was_unregistered_does_not_come_back() {
        let (mut bench, Some(leaf)) = (Bench::new(), leaf("announced-ends")) else {
            return;
        };
        let spec = bench.spec("a", &leaf);
        bench.announcements.put("a", &spec).unwrap();
        bench.look();
        bench.announcements.remove("a").unwrap();
        lock(&bench.agent).unregister_cgroup(leaf.path()).unwrap();
        // As if the file had been read before it was removed.
        bench.announced.register("a", &spec, &bench.agent).unwrap();
        assert!(bench.names().is_empty());
        assert_eq!(bench.look_again(), [] as [&str; 0]);
        assert!(bench.names().is_empty());
    }

    #[test]
    fn announcements_go_with_their_cgroup() {
        let (mut bench, Some(a), Some(b)) = (Bench::new(), leaf("announced-goes"), leaf("announced-stays"))
        else {
            return;
        };
        bench.announcements.put("goes", &bench.spec("goes", &a)).unwrap();
        bench
            .announcements
            .put("stays", &bench.spec("stays", &b))
            .unwrap();
        // Where the agent does not see cgroups at all, none is known to be gone.
        let elsewhere = FunctionSpec {
            cgroup: Some("/no/cgroups/here".into()),
            ..bench.spec("elsewhere", &b)
        };
        bench.announcements.put("elsewhere", &elsewhere).unwrap();
        assert_eq!(bench.look().len(), 1);
        a.close().unwrap();
        assert_eq!(bench.look(), [] as [&str; 0]);
        assert_eq!(bench.announcements.get("goes").unwrap(), None);
        lock(&bench.agent).sweep_functions();
        assert_eq!(bench.names(), [(2, "stays".to_owned())]);
        // The key is another's by now, and that was not read yet.
        let before = bench.spec("before", &b);
        let gone = FunctionSpec {
            cgroup: before
                .cgroup
                .as_ref()
                .map(|path| path.with_file_name("announced-was")),
            ..before
        };
        assert!(is_over(&gone));
        assert!(!remove_finished(&bench.announcements, "stays", &gone).unwrap());
        assert!(remove_finished(&bench.announcements, "goes", &gone).unwrap());
        assert_eq!(bench.files(), 2);
        b.close().unwrap();
        // A new agent, which has never seen the function.
        fs::remove_dir_all(bench.dir.path().join("state")).unwrap();
        bench.restart();
        assert_eq!(bench.look().len(), 1);
        assert_eq!(bench.files(), 1, "elsewhere");
        assert!(bench.names().is_empty());
    }

    #[test]
    fn what_is_refused_is_told_once_and_tried_again() {
        let (mut bench, Some(a), Some(b)) = (Bench::new(), leaf("announced-bad"), leaf("announced-good"))
        else {
            return;
        };
        let netns = bench.dir.path().join("netns");
        let spec = FunctionSpec {
            netns: Some(netns.clone()),
            addresses: Vec::new(),
            ..bench.spec("bad", &a)
        };
        bench.announcements.put("bad", &spec).unwrap();
        bench.announcements.put("good", &bench.spec("good", &b)).unwrap();
        let broken = bench.announcements.dir().join("torn.json");
        fs::write(&broken, "{").unwrap();
        let problems = bench.look();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].contains("torn.json is no announcement"),
            "{problems:?}"
        );
        assert!(
            problems[1].starts_with("bad: ") && problems[1].contains("netns"),
            "{problems:?}"
        );
        assert_eq!(bench.names(), [(1, "good".to_owned())]);
        for _ in 0..2 {
            assert_eq!(bench.look(), [] as [&str; 0]);
            assert_eq!(bench.look_again(), [] as [&str; 0]);
        }
        fs::remove_file(&broken).unwrap();
        symlink("/proc/self/ns/net", &netns).unwrap();
        assert_eq!(bench.look_again(), [] as [&str; 0]);
        assert_eq!(bench.names(), [(1, "good".to_owned()), (2, "bad".to_owned())]);
        fs::write(&broken, "{").unwrap();
        assert_eq!(bench.look_again().len(), 1, "it is news again");
    }

    #[test]
    fn directories_of_others_are_not_trusted() {
        let (mut bench, Some(leaf)) = (Bench::new(), leaf("announced-foreign")) else {
            return;
        };
        bench.announcements.put("a", &bench.spec("a", &leaf)).unwrap();
        let dir = bench.announcements.dir().to_owned();
        if let Err(error) = chown(&dir, Some(65534), None) {
            return eprintln!("skipped: chown: {error}");
        }
        let problems = bench.look();
        assert!(
            problems.len() == 1 && problems[0].contains("65534"),
            "{problems:?}"
        );
        assert_eq!(bench.look(), [] as [&str; 0]);
        assert!(bench.names().is_empty());
        chown(&dir, Some(nix::unistd::geteuid().as_raw()), None).unwrap();
        assert_eq!(bench.look(), [] as [&str; 0]);
        assert_eq!(bench.names(), [(1, "a".to_owned())]);
    }
}
