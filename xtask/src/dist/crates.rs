//! The crates that are linked into the programs, as cargo resolves them.

use super::{PROGRAMS, Program};
use crate::error::FileContext;
use crate::toolchain::Toolchain;
use crate::{Error, Result, paths, process};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of the eBPF object.
const BPF: &str = "bpfel-unknown-none";

/// The name of the eBPF object, which the agent embeds.
pub(super) const OBJECT: &str = "cwasi.bpf.o";

/// A crate of a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) name: String,
    pub(super) version: String,
}

/// What is known of a crate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Crate {
    /// An SPDX expression, empty where its manifest names a file instead.
    pub(super) licence: String,
    pub(super) repository: String,
    /// Features that are turned on, by the program that it is linked into.
    pub(super) features: BTreeMap<&'static str, Vec<String>>,
    pub(super) depends_on: BTreeSet<Id>,
    /// SHA-256 of what the registry has, in hexadecimal; `None` for crates of this repository.
    pub(super) checksum: Option<String>,
    /// Where its source is.
    directory: PathBuf,
}

/// All crates, and those that the programs themselves are of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crates {
    pub(super) all: BTreeMap<Id, Crate>,
    /// By the name of the program, or of the eBPF object.
    pub(super) roots: BTreeMap<&'static str, Id>,
}

impl Crates {
    /// Asks cargo. Crates that are only needed to build, macros among them, are left out.
    ///
    /// # Errors
    /// Cargo fails, or says what is not understood.
    pub fn find() -> Result<Self> {
        let host = Toolchain::find()?.host;
        let mut crates = Self::default();
        for program in PROGRAMS {
            let Program { name, package, .. } = program;
            let mut tree = cargo("tree", "");
            tree.args(["--target", &host, "-p", package]);
            tree.args(program.feature_flags());
            crates.add(name, &tree_of(&mut tree)?)?;
        }
        let mut tree = cargo("tree", "cwasi-ebpf");
        crates.add(OBJECT, &tree_of(tree.args(["--target", BPF]))?)?;
        for (workspace, target) in [("", host.as_str()), ("cwasi-ebpf", BPF)] {
            let mut metadata = cargo("metadata", workspace);
            metadata.args(["--format-version", "1", "--filter-platform", target]);
            if workspace.is_empty() {
                metadata.args(PROGRAMS.iter().flat_map(Program::feature_flags));
            }
            crates.place(&process::stdout(&mut metadata)?)?;
            let lock = paths::root().join(workspace).join("Cargo.lock");
            crates.check(&fs::read_to_string(&lock).file("read", &lock)?);
        }
        Ok(crates)
    }

    /// Adds what `cargo tree` says of a program: lines of depth, crate, licence, repository and features, with tabs between
    /// them, and a mark at the end, which keeps empty features.
    fn add(&mut self, program: &'static str, tree: &str) -> Result<()> {
        let unexpected = |line: &str| Error::Output {
            program: "cargo tree".into(),
            detail: format!("{line:?}"),
        };
        let mut path: Vec<Id> = Vec::new();
        for line in tree.lines() {
            // A crate whose dependencies were told before.
            let line = line.strip_suffix(" (*)").unwrap_or(line);
            let line = line.strip_suffix("\t;").unwrap_or(line);
            let fields: Vec<&str> = line.split('\t').collect();
            let [depth, package, licence, repository, features] = fields[..] else {
                return Err(unexpected(line));
            };
            let (Ok(depth), Some(id)) = (depth.parse::<usize>(), id(package)) else {
                return Err(unexpected(line));
            };
            path.truncate(depth);
            match path.last().and_then(|parent| self.all.get_mut(parent)) {
                Some(parent) => drop(parent.depends_on.insert(id.clone())),
                None => drop(self.roots.insert(program, id.clone())),
            }
            path.push(id.clone());
            let known = self.all.entry(id).or_default();
            // Old manifests have a slash where SPDX has OR.
            known.licence = licence.replace(" / ", " OR ").replace('/', " OR ");
            repository.clone_into(&mut known.repository);
            let features = features.split(',').filter(|feature| !feature.is_empty());
            known
                .features
                .insert(program, features.map(str::to_owned).collect());
        }
        Ok(())
    }

    /// Finds the crates' sources in the text of `cargo metadata`.
    fn place(&mut self, metadata: &str) -> Result<()> {
        let metadata: Value = serde_json::from_str(metadata).map_err(|error| Error::Output {
            program: "cargo metadata".into(),
            detail: error.to_string(),
        })?;
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
            let id = Id {
                name: text("name"),
                version: text("version"),
            };
            if let (Some(found), Some(directory)) =
                (self.all.get_mut(&id), Path::new(&text("manifest_path")).parent())
            {
                directory.clone_into(&mut found.directory);
            }
        }
        Ok(())
    }

    /// Takes checksums from the text of a Cargo.lock.
    fn check(&mut self, lock: &str) {
        for package in lock.split("[[package]]") {
            let field = |name: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim_start_matches(" = ").trim_matches('"').to_owned())
            };
            let (Some(name), Some(version)) = (field("name"), field("version")) else {
                continue;
            };
            if let Some(found) = self.all.get_mut(&Id { name, version }) {
                found.checksum = field("checksum");
            }
        }
    }
}

impl Crate {
    /// The texts of its licences and notices, by the names of their files.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn texts(&self) -> Result<BTreeMap<String, String>> {
        const BEGINNINGS: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];
        let mut texts = BTreeMap::new();
        let entries = fs::read_dir(&self.directory).file("read", &self.directory)?;
        for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let upper = name.to_uppercase();
            if BEGINNINGS.iter().any(|beginning| upper.starts_with(beginning)) {
                let bytes = fs::read(entry.path()).file("read", entry.path())?;
                texts.insert(name, String::from_utf8_lossy(&bytes).trim().replace("\r\n", "\n"));
            }
        }
        Ok(texts)
    }
}

fn cargo(subcommand: &str, workspace: &str) -> Command {
    let mut command = Command::new("cargo");
    command
        .args([subcommand, "--locked"])
        .current_dir(paths::root().join(workspace));
    command
}

fn tree_of(command: &mut Command) -> Result<String> {
    let linked = ["--edges", "normal,no-proc-macro", "--prefix", "depth"];
    process::stdout(command.args(linked).args(["--format", "\t{p}\t{l}\t{r}\t{f}\t;"]))
}

/// The crate in `NAME vVERSION` and what cargo adds of its source.
fn id(package: &str) -> Option<Id> {
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some(Id {
        name: name.to_owned(),
        version: version.to_owned(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::dist) fn crates() -> Crates {
        let mut crates = Crates::default();
        let agent = "0\tcwasi-agent v0.1.0 (/r/cwasi-agent)\tMIT\thttps://r.test/c\t\n\
                     1\tbytes v1.12.1\tMIT/Apache-2.0\thttps://r.test/b\tdefault,std\n\
                     1\thttp v1.5.0\tMIT\t\tstd\n\
                     2\tbytes v1.12.1\tMIT/Apache-2.0\thttps://r.test/b\tdefault,std (*)";
        crates.add("cwasi-agent", agent).unwrap();
        crates
            .add(
                OBJECT,
                "0\tcwasi-ebpf v0.1.0 (/r)\tMIT\t\t\n1\tbytes v1.12.1\tMIT/Apache-2.0\t\t",
            )
            .unwrap();
        crates
    }

    fn of(name: &str, version: &str) -> Id {
        Id {
            name: name.to_owned(),
            version: version.to_owned(),
        }
    }

    #[test]
    fn trees_are_read() {
        let crates = crates();
        assert_eq!(crates.roots["cwasi-agent"], of("cwasi-agent", "0.1.0"));
        assert_eq!(crates.all.len(), 4);
        let bytes = &crates.all[&of("bytes", "1.12.1")];
        assert_eq!(bytes.licence, "MIT OR Apache-2.0");
        assert_eq!(bytes.features["cwasi-agent"], ["default", "std"]);
        assert_eq!(bytes.features[OBJECT], [] as [&str; 0]);
        let depends_on = |name, version| crates.all[&of(name, version)].depends_on.clone();
        assert_eq!(depends_on("http", "1.5.0"), [of("bytes", "1.12.1")].into());
        assert_eq!(
            depends_on("cwasi-agent", "0.1.0"),
            [of("bytes", "1.12.1"), of("http", "1.5.0")].into()
        );
        assert!(Crates::default().add("x", "no tree").is_err());
    }

    #[test]
    fn checksums_are_taken_from_the_lock_file() {
        let mut crates = crates();
        crates
            .check("version = 4\n\n[[package]]\nname = \"bytes\"\nversion = \"1.12.1\"\nchecksum = \"ab\"\n");
        assert_eq!(crates.all[&of("bytes", "1.12.1")].checksum.as_deref(), Some("ab"));
        assert_eq!(crates.all[&of("http", "1.5.0")].checksum, None);
    }

    #[test]
    fn the_programs_crates_are_all_known() {
        let crates = match Crates::find() {
            // The crates of the eBPF object are only there once it was built.
            Err(Error::Failed { .. }) => return eprintln!("skipped: cargo cannot fetch crates"),
            found => found.unwrap(),
        };
        for name in PROGRAMS.map(|program| program.name) {
            assert!(crates.all[&crates.roots[name]].depends_on.len() > 5, "{name}");
        }
        let aya = crates.all.keys().find(|id| id.name == "aya").unwrap();
        assert_eq!(
            crates.all[aya].features.keys().collect::<Vec<_>>(),
            [&"cwasi-agent"]
        );
        assert!(crates.all.keys().any(|id| id.name == "aya-ebpf"));
        for (id, found) in &crates.all {
            let texts = found.texts().unwrap_or_else(|error| panic!("{id:?}: {error}"));
            assert!(!found.licence.is_empty() || !texts.is_empty(), "{id:?}");
            let ours = id.name.starts_with("cwasi-");
            assert_eq!(found.checksum.is_none(), ours, "{id:?}");
        }
    }
}
