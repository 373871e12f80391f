//! The rights of this process beyond those of its user.

use std::fs;
use std::io;

/// A capability of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its name, as in capabilities(7).
    pub name: &'static str,
    /// What the agent needs it for.
    pub purpose: &'static str,
    /// Its bit (`include/uapi/linux/capability.h`).
    bit: u32,
}

/// What the agent does not work without (Linux 5.8; before, `CAP_SYS_ADMIN` stands for two of them).
pub const NEEDED: [Capability; 3] = [
    Capability {
        name: "CAP_BPF",
        purpose: "makes maps and loads programs",
        bit: 39,
    },
    Capability {
        name: "CAP_NET_ADMIN",
        purpose: "loads programs of sockets, and attaches them to cgroups",
        bit: 12,
    },
    Capability {
        name: "CAP_PERFMON",
        purpose: "lets programs read kernel memory",
        bit: 38,
    },
];

/// Includes `CAP_BPF` and `CAP_PERFMON`; enters network namespaces, mounts bpffs.
pub const SYS_ADMIN: Capability = Capability {
    name: "CAP_SYS_ADMIN",
    purpose: "enters the network namespaces of functions whose launchers tell no addresses, mounts bpffs",
    bit: 21,
};

/// Maps count against `RLIMIT_MEMLOCK` before 5.11.
pub const SYS_RESOURCE: Capability = Capability {
    name: "CAP_SYS_RESOURCE",
    purpose: "raises RLIMIT_MEMLOCK, which maps count against before 5.11",
    bit: 24,
};

/// What this process may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    effective: u64,
    bounding: u64,
    no_new_privs: bool,
}

impl Held {
    /// By this process now; nothing where /proc cannot be read.
    #[must_use]
    pub fn now() -> Self {
        Self::read(&fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    /// In the text of /proc/PID/status.
    fn read(status: &str) -> Self {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let mask = |name| field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok());
        Self {
            effective: mask("CapEff:").unwrap_or(0),
            bounding: mask("CapBnd:").unwrap_or(0),
            no_new_privs: field("NoNewPrivs:") == Some("1"),
        }
    }

    /// Whether the capability, or one that includes it, is held.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        let implied = NEEDED[0].bit == capability.bit || NEEDED[2].bit == capability.bit;
        self.effective & (1 << capability.bit) != 0 || (implied && self.effective & (1 << SYS_ADMIN.bit) != 0)
    }

    /// Those of [`NEEDED`] that are not held.
    pub fn missing(self) -> impl Iterator<Item = Capability> {
        NEEDED
            .into_iter()
            .filter(move |capability| !self.has(*capability))
    }

    /// What to do about one that is missing.
    #[must_use]
    pub fn remedy(self, capability: Capability) -> &'static str {
        if self.no_new_privs && self.bounding & (1 << capability.bit) != 0 {
            "allow the container allowPrivilegeEscalation: with no_new_privs a user that is not root gets no capability of the \
             program's file; or run as root"
        } else {
            "give it to the container (securityContext.capabilities.add) or to the unit (AmbientCapabilities=), or run as root"
        }
    }
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits for each set.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes what the calling thread is permitted effective: the capabilities of the program's file are only permitted, so that it can
/// also be executed where some of them may not be had, and say so.
///
/// # Errors
/// The kernel knows no capabilities of this form (Linux 2.6.26).
pub fn raise() -> io::Result<()> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut words = [Word::default(); 2];
    // SAFETY: capget(2) writes the version that it knows into the header, and two words of this layout.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for word in &mut words {
        word.effective = word.permitted;
    }
    // SAFETY: capset(2) reads a header and two words of this layout.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(status: &str) -> Vec<&'static str> {
        Held::read(status)
            .missing()
            .map(|capability| capability.name)
            .collect()
    }

    #[test]
    fn what_is_held_is_read() {
        assert_eq!(missing(""), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert!(missing("CapEff:\t000001ffffffffff\n").is_empty());
        assert!(missing("Name:\tx\nCapInh:\t0\nCapEff:\t000000c000001000\n").is_empty());
        assert_eq!(missing("CapEff:\t0000008000001000\n"), ["CAP_PERFMON"]);
        assert_eq!(
            missing("CapEff:\t0000000000200000\n"),
            ["CAP_NET_ADMIN"],
            "CAP_SYS_ADMIN"
        );
    }

    #[test]
    fn what_no_new_privs_takes_is_told() {
        let remedy = |status: &str| Held::read(status).remedy(NEEDED[0]);
        assert!(remedy("CapBnd:\t000000c000001000\nNoNewPrivs:\t1\n").contains("allowPrivilegeEscalation"));
        assert!(remedy("CapBnd:\t000000c000001000\nNoNewPrivs:\t0\n").contains("capabilities.add"));
        assert!(remedy("CapBnd:\t0000000000000000\nNoNewPrivs:\t1\n").contains("capabilities.add"));
    }

    #[test]
    fn everything_permitted_becomes_effective() {
        raise().unwrap();
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|line| line.trim().to_owned()).unwrap()
        };
        assert_eq!(line("CapEff:"), line("CapPrm:"));
    }
}
