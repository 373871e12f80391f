//! The CRDs of the Prometheus operator, whose schemas a package of npm ships as programs: `manifests/crds`.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use xtask::paths;

/// Files of the package that validates.
const FILES: [&str; 3] = ["package.json", "package-lock.json", "check.js"];

/// What is wrong with objects of the kinds PodMonitor and PrometheusRule, a line for each; a field that is unknown is no fault.
///
/// # Errors
/// Why it cannot be told here: there is no Node.js, or npm cannot install the package.
pub fn faults(objects: &[Value]) -> Result<Vec<String>, String> {
    let checker = checker()?;
    let child = Command::new("node")
        .arg(checker.join("check.js"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| format!("node: {error}"))?;
    let mut input = child.stdin.take().expect("piped");
    let text = Value::from(objects.to_vec()).to_string();
    input
        .write_all(text.as_bytes())
        .map_err(|error| format!("node: {error}"))?;
    drop(input);
    let output = child
        .wait_with_output()
        .map_err(|error| format!("node: {error}"))?;
    assert!(output.status.success(), "check.js: {}", output.status);
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().map(str::to_owned).collect())
}

/// The package with what it depends on, installed once in the cache of tools, as the lock file has it.
fn checker() -> Result<PathBuf, String> {
    let source = paths::root().join("manifests/crds");
    let lock = fs::read(source.join("package-lock.json")).map_err(|error| error.to_string())?;
    let cache = paths::cache_dir().map_err(|error| error.to_string())?.join("npm");
    let directory = cache.join(format!("crds-{}", &xtask::digest::sha256(&lock)[..16]));
    let put = |into: &PathBuf| {
        FILES
            .iter()
            .try_for_each(|name| fs::copy(source.join(name), into.join(name)).map(drop))
    };
    if directory.is_dir() {
        put(&directory).map_err(|error| error.to_string())?;
        return Ok(directory);
    }
    fs::create_dir_all(&cache).map_err(|error| error.to_string())?;
    let work = tempfile::tempdir_in(&cache).map_err(|error| error.to_string())?;
    let into = work.path().join("crds");
    fs::create_dir(&into)
        .and_then(|()| put(&into))
        .map_err(|error| error.to_string())?;
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(&into);
    let output = npm.output().map_err(|error| format!("npm: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "npm cannot install the CRDs' schemas: {}",
            said.lines().next().unwrap_or_default()
        ));
    }
    match fs::rename(&into, &directory) {
        // Another process was faster.
        Err(_) if directory.is_dir() => Ok(directory),
        renamed => renamed.map(|()| directory).map_err(|error| error.to_string()),
    }
}
