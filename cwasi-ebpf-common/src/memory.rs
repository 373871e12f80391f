//! Whether there is memory for redirected bytes, pure functions of what the kernel keeps account of.
//!
//! A redirected message is charged to its receiver by the sender (`bpf_tcp_ingress`, net/ipv4/tcp_bpf.c), and more harshly than
//! TCP's segments are, which come from the network:
//! - Where the machine's limit for TCP refuses the charge (`__sk_mem_raise_allocated`, net/core/sock.c), the sender gets ENOMEM, which no
//!   program expects of a socket. TCP would make it wait, and always lets a little through.
//! - At the limit of the receiver's cgroup the charge reclaims, and then kills a process of the receiver's. When all of them are
//!   being killed it fails, with ENOMEM again. TCP's segments are charged beyond the limit, and its window closes.
//!
//! So messages are left to TCP before either limit is reached. Seen on Linux 6.18; the code is the same since before 5.10.

/// Pages below a limit that are kept free: a message has up to a half MiB, and every CPU may be about to charge one, and takes up
/// to a MiB of the machine's at once (`SK_MEMORY_PCPU_RESERVE`, Linux 6.0).
pub const RESERVE: i64 = 1024;
/// Unread bytes up to which a receiver keeps up. Those above its cgroup are not looked at then, and its own may be full as long as it
/// has pages of files to give up: what reads and writes files fills its cgroup with them, and must not have everything left to TCP.
pub const PROMPT: u32 = 64 << 10;
/// Levels of cgroups, from the receiver's upwards, that are looked at.
pub const DEPTH: u32 = 8;

/// TCP's memory on the whole machine, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What is allocated.
    pub allocated: i64,
    /// `tcp_mem[0]`: up to this every charge is granted.
    pub free: i64,
    /// `tcp_mem[1]`: above this TCP is under pressure, and some charges are refused.
    pub pressure: i64,
}

impl Memory {
    /// Whether a message could be refused its memory.
    #[must_use]
    #[inline(always)]
    pub const fn is_scarce(self) -> bool {
        self.allocated > self.free || self.allocated > self.pressure - RESERVE
    }
}

/// The memory of a cgroup, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is charged to it (`memory.current`).
    pub used: i64,
    /// Its limit (`memory.max`).
    pub most: i64,
}

impl Limit {
    /// Whether a message could reach the limit.
    #[must_use]
    #[inline(always)]
    pub const fn is_near(self) -> bool {
        self.used > self.most - RESERVE
    }
}

/// Whether pages of files, which are given up first, make room for a message in a cgroup that is near its limit.
#[must_use]
#[inline(always)]
pub const fn make_room(files: i64) -> bool {
    files >= RESERVE
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Memory = Memory {
        allocated: 0,
        free: 12_000,
        pressure: 16_000,
    };

    #[test]
    fn memory_is_scarce_above_what_is_free() {
        for (allocated, scarce) in [
            (-3, false),
            (0, false),
            (12_000, false),
            (12_001, true),
            (90_000, true),
        ] {
            assert_eq!(Memory { allocated, ..ROOMY }.is_scarce(), scarce, "{allocated}");
        }
    }

    #[test]
    fn a_reserve_is_kept_below_the_limit() {
        let tight = Memory {
            free: 16_000,
            ..ROOMY
        };
        for (allocated, scarce) in [(16_000 - RESERVE, false), (16_001 - RESERVE, true)] {
            assert_eq!(Memory { allocated, ..tight }.is_scarce(), scarce, "{allocated}");
        }
        let tiny = Memory {
            allocated: 0,
            free: 64,
            pressure: 64,
        };
        assert!(tiny.is_scarce(), "there is no room at all");
    }

    #[test]
    fn files_make_room_for_what_the_reserve_is_for() {
        for (files, room) in [(0, false), (RESERVE - 1, false), (RESERVE, true)] {
            assert_eq!(make_room(files), room, "{files}");
        }
    }

    #[test]
    fn a_cgroup_without_a_limit_is_never_near_it() {
        // PAGE_COUNTER_MAX.
        let most = i64::MAX / 4096;
        assert!(!Limit { used: 1 << 40, most }.is_near());
        for (used, near) in [
            (0, false),
            (4096 - RESERVE, false),
            (4097 - RESERVE, true),
            (5000, true),
        ] {
            assert_eq!(Limit { used, most: 4096 }.is_near(), near, "{used}");
        }
    }
}
