//! The JSON schemas of Kubernetes' API, in which unknown fields are forbidden.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use jsonschema::Validator;
use serde_json::Value;
use xtask::kubernetes;

/// The schemas of a release of Kubernetes, read as they are asked for.
pub struct Schemas {
    directory: PathBuf,
    definitions: Value,
    known: BTreeMap<String, Validator>,
}

/// Where schemas refer to each other, as paths of a server.
const DEFINITIONS: &str = "/api/_definitions.json#/$defs/";

fn read(path: &PathBuf) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    serde_json::from_str(&text.replace(DEFINITIONS, "#/$defs/")).expect("a schema is JSON")
}

impl Schemas {
    /// Those of a release.
    ///
    /// # Errors
    /// They cannot be had on this machine.
    pub fn of(release: &str) -> xtask::Result<Self> {
        let directory = kubernetes::schemas(release)?;
        Ok(Self {
            definitions: read(&directory.join("_definitions.json"))["$defs"].take(),
            directory,
            known: BTreeMap::new(),
        })
    }

    /// What is wrong with an object, a line for each fault; `None` for a kind that is not Kubernetes' own.
    ///
    /// # Panics
    /// A schema is none.
    pub fn faults(&mut self, object: &Value) -> Option<Vec<String>> {
        let version = object["apiVersion"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        let group = group.split('.').next().filter(|group| !group.is_empty());
        let name = [Some(kind), group, Some(version)].into_iter().flatten();
        let name = name.collect::<Vec<_>>().join("-").to_lowercase() + ".json";
        let path = self.directory.join(&name);
        if !path.is_file() {
            return None;
        }
        let definitions = &self.definitions;
        let validator = self.known.entry(name).or_insert_with(|| {
            let mut schema = read(&path);
            schema["$defs"] = definitions.clone();
            jsonschema::validator_for(&schema).expect("a schema of Kubernetes")
        });
        let faults = validator.iter_errors(object);
        Some(
            faults
                .map(|fault| format!("{}: {fault}", fault.instance_path()))
                .collect(),
        )
    }
}
