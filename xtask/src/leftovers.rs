//! Kernel objects that outlive the test that made them: network namespaces, cgroups and BPF pins.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What is there at one moment, as paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers(BTreeSet<PathBuf>);

impl Leftovers {
    /// Looks at named network namespaces, cgroups named after cwasi and the top of every bpffs.
    #[must_use]
    pub fn now() -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mut found = BTreeSet::from_iter(entries(Path::new("/run/netns")));
        for bpffs in mount_points(&mounts, "bpf") {
            found.extend(entries(&bpffs));
        }
        for kind in ["cgroup2", "cgroup"] {
            for cgroups in mount_points(&mounts, kind) {
                add_cgroups(&cgroups, &mut found);
            }
        }
        Self(found)
    }

    /// What is there now and was not at the `earlier` moment.
    pub fn since<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = &'a Path> {
        self.0.difference(&earlier.0).map(PathBuf::as_path)
    }
}

/// The mount points of a file system type in the text of /proc/mounts.
#[must_use]
pub fn mount_points(mounts: &str, kind: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let point = fields.next()?;
        (fields.next()? == kind).then(|| point.into())
    };
    mounts.lines().filter_map(point).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// Other cgroups come and go with the machine's own services.
fn add_cgroups(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for path in entries(directory).into_iter().filter(|path| path.is_dir()) {
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains("cwasi"))
        {
            found.insert(path);
        } else {
            add_cgroups(&path, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_type() {
        let mounts = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      bpf /sys/fs/bpf bpf rw 0 0\n";
        assert_eq!(
            mount_points(mounts, "cgroup2"),
            [Path::new("/sys/fs/cgroup/unified")]
        );
        assert_eq!(mount_points(mounts, "bpf"), [Path::new("/sys/fs/bpf")]);
        assert!(mount_points(mounts, "tmpfs").is_empty());
    }

    #[test]
    fn only_new_objects_are_left_over() {
        let moment = |paths: &[&str]| Leftovers(paths.iter().map(PathBuf::from).collect());
        let (before, after) = (moment(&["/a", "/b"]), moment(&["/b", "/c"]));
        assert_eq!(Vec::from_iter(after.since(&before)), [Path::new("/c")]);
    }
}
