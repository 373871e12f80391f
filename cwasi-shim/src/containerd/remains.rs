//! What a shim that was killed left: containerd runs `delete` for each of its containers.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{env, fs};

use cwasi_client::announce::Announcements;

use super::container::delete_remains;
use super::embed;
use super::error::ShimError;
use super::function::{Function, agent_socket};
use super::leaf::{Leaf, key};

/// File of the bundle that says where the shim listened.
const ADDRESS_FILE: &str = "address";

/// Removes what is left of the container `id`: processes, cgroups, its registration, and the shim's socket. Goes on after an
/// error, and gives the first.
///
/// # Errors
/// [`ShimError`]; containerd logs it.
pub fn remove(bundle: &Path, namespace: &str, id: &str) -> Result<(), ShimError> {
    let container = remove_container(bundle, namespace, id);
    let functions = functions(bundle).map(|(dir, id)| remove_container(&dir, namespace, &id));
    let results = [container]
        .into_iter()
        .chain(functions)
        .chain([remove_socket(bundle)]);
    // All of it, before the first error counts.
    results.collect::<Vec<_>>().into_iter().collect()
}

/// Bundles and ids of the processes of functions that a sandbox has.
fn functions(sandbox: &Path) -> impl Iterator<Item = (PathBuf, String)> {
    let entries = fs::read_dir(sandbox.join(embed::DIRECTORY)).into_iter().flatten();
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)))
}

/// Removes processes, cgroups and the registration of a container.
fn remove_container(bundle: &Path, namespace: &str, id: &str) -> Result<(), ShimError> {
    let (socket, key) = (agent_socket(), key(bundle, namespace, id));
    let announced = Announcements::beside(&socket).get(&key);
    let announced = announced.ok().flatten().and_then(|spec| spec.cgroup);
    let leaf = Leaf::left_on_hybrid(bundle, namespace, id).ok();
    let mut results = vec![delete_remains(bundle, id)];
    if let Some(cgroup) = announced.or_else(|| Some(leaf.as_ref()?.path().to_owned())) {
        let ended = Function::new(socket, key, cgroup).end();
        results.push(ended.map_err(|error| ShimError::Process(error.to_string())));
    }
    if let Some(leaf) = leaf {
        results.push(leaf.remove().map_err(ShimError::from));
    }
    results.into_iter().collect()
}

/// The socket on which the shim of a bundle listens, or listened.
fn socket(bundle: &Path) -> Option<PathBuf> {
    let address = fs::read_to_string(bundle.join(ADDRESS_FILE)).ok()?;
    address.trim().strip_prefix("unix://").map(PathBuf::from)
}

/// Removes the socket of the shim, unless a shim listens on it: another one, or this one, which serves the rest of its pod.
fn remove_socket(bundle: &Path) -> Result<(), ShimError> {
    let Some(path) = socket(bundle) else {
        return Ok(());
    };
    match UnixStream::connect(&path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(&path).map_err(|source| ShimError::Io {
                call: "unlink",
                path,
                source,
            })
        }
        _ => Ok(()),
    }
}

/// The bundle that `delete` is about: the one that is named, else the working directory.
///
/// # Errors
/// [`ShimError::Io`] without a working directory.
pub(super) fn bundle(named: &str) -> Result<PathBuf, ShimError> {
    if named.is_empty() {
        env::current_dir().map_err(|source| ShimError::Io {
            call: "getcwd",
            path: ".".into(),
            source,
        })
    } else {
        Ok(named.into())
    }
}
