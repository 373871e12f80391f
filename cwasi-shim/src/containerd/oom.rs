//! Whether the kernel has killed a process of a container because its memory limit was reached.

use std::fs;
use std::path::{Path, PathBuf};

use cwasi_client::cgroup;
use libcgroups::v1::ControllerType;
use libcgroups::v1::util::get_subsystem_mount_point;

/// What the count is called, in Linux since 4.13.
const KILLS: &str = "oom_kill ";

/// The file in which the kernel counts for a container. Read when its process has ended, before its cgroups are removed.
#[derive(Debug)]
pub(super) struct Kills(PathBuf);

impl Kills {
    /// The file for the container whose process is `pid`: of v1's controller where the host has it there, else of v2's. `None` where
    /// no controller counts.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let file = match v1_path(&text) {
            Some(path) => {
                let mount = get_subsystem_mount_point(&ControllerType::Memory).ok()?;
                mount.join(path).join("memory.oom_control")
            }
            None => cgroup::of(pid).ok()?.join("memory.events"),
        };
        file.exists().then_some(Self(file))
    }

    /// Whether it has killed one.
    pub(super) fn any(&self) -> bool {
        fs::read_to_string(&self.0).is_ok_and(|text| count(&text) > 0)
    }
}

/// The cgroup in v1's memory hierarchy, relative to its mount, in the text of a `/proc/PID/cgroup`.
fn v1_path(text: &str) -> Option<&Path> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_memory = controllers.split(',').any(|controller| controller == "memory");
        is_memory.then(|| Path::new(path.trim_start_matches('/')))
    })
}

fn count(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix(KILLS));
    count
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_hierarchy_is_found_by_its_controller() {
        let hybrid = "5:cpu,memory:/pod/a\n2:devices:/b\n1:name=memory:/c\n0::/d\n";
        assert_eq!(v1_path(hybrid), Some(Path::new("pod/a")));
        assert_eq!(v1_path("0::/kubepods/a\n"), None);
    }

    #[test]
    fn kills_are_counted_in_both_hierarchies() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        let v2 = "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n";
        assert_eq!((count(v1), count(v2), count("max 9\n")), (2, 1, 0));
    }
}
