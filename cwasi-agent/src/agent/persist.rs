//! What outlives the agent beside the pins: a file for each registered function, one for the agent itself, and one for what
//! processes told of connections inside of them.
//!
//! Every file is replaced as a whole (written aside, synced, renamed), so that a crash leaves the old or the new one.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cwasi_client::process_report::ProcessTotals;
use cwasi_client::protocol::FunctionSpec;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A registered function as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFunction {
    /// Id on this node, from 1.
    pub id: u32,
    /// Boot of the node in which it was registered.
    pub boot: String,
    /// What its launcher said, and what the agent found.
    pub spec: FunctionSpec,
    /// Directory of its cgroup.
    pub cgroup: PathBuf,
    /// Id of its cgroup.
    pub cgroup_id: u64,
    /// Process that registered it, 0 when it was not visible.
    pub registered_by: u32,
    /// Start time of that process in clock ticks, absent when it was not visible, or dead by then.
    pub started: Option<u64>,
}

/// What is kept of the agent itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedAgent {
    /// Ids below this one were given away.
    pub next_id: u32,
    /// The operator's switch, where the pinned configuration does not tell: the agent itself holds redirection off, or has
    /// no data plane.
    #[serde(default)]
    pub switch: Option<bool>,
}

/// Sums over connections inside of processes, as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedProcesses {
    /// Boot of the node that they are of.
    pub boot: String,
    /// Of processes whose cgroup is gone.
    pub ended: ProcessTotals,
    /// The others.
    pub processes: Vec<SavedProcess>,
}

/// Sums over connections inside of the processes of one cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedProcess {
    /// Directory of the cgroup.
    pub cgroup: PathBuf,
    /// Its id.
    pub cgroup_id: u64,
    /// The process that reported last, 0 when it was not visible.
    pub pid: u32,
    /// Its start time in clock ticks, absent when it was not visible.
    pub started: Option<u64>,
    /// What it reported.
    pub last: ProcessTotals,
    /// What the processes before it reported.
    pub before: ProcessTotals,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The agent's own file.
    pub agent: SavedAgent,
    /// The functions, by id.
    pub functions: Vec<SavedFunction>,
    /// Sums over connections inside of processes.
    pub processes: SavedProcesses,
    /// Files that could not be used, with the reason and where they are now.
    pub warnings: Vec<String>,
}

/// Another agent keeps its state in the directory.
#[derive(Debug, thiserror::Error)]
#[error("another agent keeps its state in {0}; give this one its own --state-dir")]
pub struct StateLocked(pub PathBuf);

/// The state directory.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

const AGENT: &str = "agent.json";
const PROCESSES: &str = "processes.json";
const FUNCTIONS: &str = "functions";

impl Store {
    /// The state directory `dir`, made with its parents when something is first written.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps other agents out of the directory for as long as the result lives; `None` where it cannot be made.
    ///
    /// # Errors
    /// Another agent is in it.
    pub fn lock(&self) -> Result<Option<Flock<File>>, StateLocked> {
        let _ = make_dir(&self.dir);
        let Ok(dir) = File::open(&self.dir) else {
            return Ok(None);
        };
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Err(StateLocked(self.dir.clone())),
            Err(_) => Ok(None),
        }
    }

    fn functions(&self) -> PathBuf {
        self.dir.join(FUNCTIONS)
    }

    fn function(&self, id: u32) -> PathBuf {
        self.functions().join(format!("{id}.json"))
    }

    /// Reads everything. What cannot be read is moved aside (`*.corrupt`), told in [`Loaded::warnings`], and left out.
    #[must_use]
    pub fn load(&self) -> Loaded {
        let mut loaded = Loaded::default();
        if let Some(agent) = read(&self.dir.join(AGENT), |_: &SavedAgent| true, &mut loaded.warnings) {
            loaded.agent = agent;
        }
        let processes = self.dir.join(PROCESSES);
        if let Some(processes) = read(&processes, |_: &SavedProcesses| true, &mut loaded.warnings) {
            loaded.processes = processes;
        }
        let entries = match fs::read_dir(self.functions()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return loaded,
            Err(error) => {
                loaded
                    .warnings
                    .push(format!("{}: {error}", self.functions().display()));
                return loaded;
            }
        };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            if is_json(&path) {
                let named = |function: &SavedFunction| function.id > 0 && path == self.function(function.id);
                loaded.functions.extend(read(&path, named, &mut loaded.warnings));
            }
        }
        loaded.functions.sort_by_key(|function| function.id);
        loaded
    }

    /// Keeps a function, in the place of what was kept under its id.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn put(&self, function: &SavedFunction) -> io::Result<()> {
        write(&self.function(function.id), function)
    }

    /// Forgets a function; one that is not kept is no error.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn remove(&self, id: u32) -> io::Result<()> {
        match fs::remove_file(self.function(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Keeps what is kept of the agent itself.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn put_agent(&self, agent: &SavedAgent) -> io::Result<()> {
        write(&self.dir.join(AGENT), agent)
    }

    /// Keeps the sums over connections inside of processes.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn put_processes(&self, processes: &SavedProcesses) -> io::Result<()> {
        write(&self.dir.join(PROCESSES), processes)
    }

    /// Keeps exactly these functions, and the agent.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn put_all(&self, agent: &SavedAgent, functions: &[SavedFunction]) -> io::Result<()> {
        self.put_agent(agent)?;
        let mut kept = HashSet::new();
        for function in functions {
            self.put(function)?;
            kept.insert(self.function(function.id));
        }
        let entries = match fs::read_dir(self.functions()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if !kept.contains(&path) && is_json(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn read<T: DeserializeOwned>(
    path: &Path,
    fits: impl FnOnce(&T) -> bool,
    warnings: &mut Vec<String>,
) -> Option<T> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warnings.push(format!("{}: {error}", path.display()));
            return None;
        }
    };
    let problem = match serde_json::from_slice(&text) {
        Ok(value) if fits(&value) => return Some(value),
        Ok(_) => "it does not belong to its name".to_owned(),
        Err(error) => error.to_string(),
    };
    let aside = path.with_extension("json.corrupt");
    let moved = match fs::rename(path, &aside) {
        Ok(()) => format!("moved to {}", aside.display()),
        Err(error) => format!("left there, it cannot be moved: {error}"),
    };
    warnings.push(format!("{} is corrupt ({problem}): {moved}", path.display()));
    None
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_dir(parent)?;
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    let aside = path.with_extension("json.new");
    let mut file = File::create(&aside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    // The rename itself must be on the disk before it is relied on.
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn function(id: u32) -> SavedFunction {
        SavedFunction {
            id,
            boot: "b".to_owned(),
            spec: FunctionSpec {
                name: format!("f{id}"),
                ..FunctionSpec::default()
            },
            cgroup: PathBuf::from("/sys/fs/cgroup/x"),
            cgroup_id: u64::from(id) + 1000,
            registered_by: 1,
            started: Some(5),
        }
    }

    #[test]
    fn what_is_put_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("a/b"));
        assert!(store.load().functions.is_empty());
        assert!(store.load().warnings.is_empty());
        store.put(&function(2)).unwrap();
        store.put(&function(10)).unwrap();
        store
            .put(&SavedFunction {
                registered_by: 9,
                ..function(2)
            })
            .unwrap();
        store
            .put_agent(&SavedAgent {
                next_id: 11,
                switch: Some(false),
            })
            .unwrap();
        let loaded = store.load();
        assert_eq!(
            loaded.agent,
            SavedAgent {
                next_id: 11,
                switch: Some(false)
            }
        );
        assert_eq!(
            loaded.functions,
            [
                SavedFunction {
                    registered_by: 9,
                    ..function(2)
                },
                function(10)
            ]
        );
        store.remove(2).unwrap();
        store.remove(2).unwrap();
        store.put_all(&SavedAgent::default(), &[function(3)]).unwrap();
        assert_eq!(store.load().functions, [function(3)]);
    }

    #[test]
    fn a_file_under_another_name_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        store.put(&function(2)).unwrap();
        fs::rename(store.function(2), store.function(3)).unwrap();
        let loaded = store.load();
        assert!(loaded.functions.is_empty());
        assert_eq!(loaded.warnings.len(), 1);
    }

    #[test]
    fn one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("state"));
        let held = store.lock().unwrap();
        assert!(held.is_some());
        assert!(store.lock().is_err());
        drop(held);
        assert!(store.lock().unwrap().is_some());
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Store::new(&file.join("state")).lock().unwrap().is_none());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state"), "a file in the way").unwrap();
        let store = Store::new(&dir.path().join("state"));
        assert!(store.put(&function(1)).is_err());
        assert_eq!(store.load().warnings.len(), 3, "told, not fatal");
    }

    proptest! {
        #[test]
        fn garbage_is_moved_aside(garbage in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..300) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::new(dir.path());
            store.put(&function(1)).unwrap();
            store.put(&function(2)).unwrap();
            let whole = fs::read(store.function(2)).unwrap();
            let torn = &whole[..cut.min(whole.len() - 2)];
            fs::write(store.function(2), torn).unwrap();
            fs::write(store.function(3), &garbage).unwrap();
            let loaded = store.load();
            prop_assert_eq!(loaded.functions, [function(1)]);
            prop_assert_eq!(loaded.warnings.len(), 2);
            prop_assert_eq!(fs::read(store.functions().join("3.json.corrupt")).unwrap(), garbage);
            prop_assert!(store.load().warnings.is_empty());
        }
    }
}
