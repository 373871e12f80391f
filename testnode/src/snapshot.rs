//! What pods leave traces in: compared before and after, so that whatever stays is found, expected or not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::Result;
use crate::cgroups;
use crate::error::{IoContext, on};
use crate::namespaces;
use crate::node::Node;

/// Everything at one moment, each as a line for people.
pub(crate) fn of(node: &Node) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    processes(node, &mut found);
    let containers = node.containers();
    for path in node
        .cgroups()
        .of_pods()
        .iter()
        .chain(&cgroups::leaves(&containers))
    {
        found.insert(format!("cgroup {}", path.display()));
    }
    for path in node.agent().links() {
        found.insert(format!("pin {}", path.display()));
    }
    if node.agent().pid().is_some() {
        for function in node.agent().functions()? {
            found.insert(format!(
                "function {}/{}",
                function.spec.namespace, function.spec.name
            ));
        }
    }
    // What only the node's own namespaces show.
    found.extend(node.namespaces().run(|| {
        let mut inside = BTreeSet::new();
        mounts(&mut inside)?;
        links(&mut inside)?;
        let layout = node.layout();
        for directory in [
            Path::new("/run"),
            &layout.state(),
            &layout.ipam(),
            &node.agent().announced(),
        ] {
            files(directory, &containers, &mut inside);
        }
        Ok(inside)
    })?);
    found.retain(|thing| !is_of_the_node(thing));
    Ok(found)
}

fn processes(node: &Node, found: &mut BTreeSet<String>) {
    let own = [node.containerd_pid(), node.agent().pid()];
    let in_cgroups = node.cgroups().processes().into_iter().map(|pid| {
        let path = Path::new("/proc").join(pid.to_string());
        (pid, namespaces::name(&path))
    });
    for (pid, name) in node.namespaces().processes().into_iter().chain(in_cgroups) {
        if !own.contains(&Some(pid)) {
            found.insert(format!("process {pid} ({name})"));
        }
    }
}

fn mounts(found: &mut BTreeSet<String>) -> Result<()> {
    let points = |path: &str| -> Result<BTreeSet<String>> {
        let text = fs::read_to_string(path).action(on("read", path))?;
        let points = text.lines().filter_map(|line| line.split(' ').nth(4));
        Ok(points.map(str::to_owned).collect())
    };
    let inside = points("/proc/thread-self/mountinfo")?;
    // What others mount on the machine meanwhile is seen in here, too; what a node mounts is not seen there.
    let outside = points("/proc/self/mountinfo")?;
    for point in inside.difference(&outside) {
        found.insert(format!("mount {point}"));
    }
    Ok(())
}

fn links(found: &mut BTreeSet<String>) -> Result<()> {
    let path = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(path).action(on("read", path))?;
    for (name, _) in text.lines().filter_map(|line| line.split_once(':')) {
        found.insert(format!("link {}", name.trim()));
    }
    Ok(())
}

/// The files below a directory, sockets and pipes included, and the empty directories that are named after a container:
/// others are made once and stay.
fn files(directory: &Path, containers: &[String], found: &mut BTreeSet<String>) {
    for path in namespaces::files(directory) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_dir = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        if is_dir && !namespaces::files(&path).is_empty() {
            files(&path, containers, found);
        } else if !is_dir || containers.iter().any(|id| name.contains(id.as_str())) {
            found.insert(format!("file {}", path.display()));
        }
    }
}

/// What the first pod makes for all.
fn is_of_the_node(thing: &str) -> bool {
    let ipam = |name: &str| {
        name.contains("/ipam/") && (name.ends_with("/lock") || name.contains("/last_reserved_ip."))
    };
    thing == "link cni0" || ipam(thing)
}
