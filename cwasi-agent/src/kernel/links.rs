//! The sock_ops program on the functions' cgroups: one pinned link each.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, SockOps};

use super::error::PlaneError;
use super::object::SOCK_OPS;
use super::sys;

/// Attaches the program to a cgroup v2 directory. Links are always shared with other programs (Linux 5.7).
pub(super) fn attach(program: &mut SockOps, cgroup: &Path) -> Result<FdLink, PlaneError> {
    let directory = File::open(cgroup).map_err(PlaneError::syscall("open", cgroup.display()))?;
    let id = program
        .attach(directory, CgroupAttachMode::Single)
        .map_err(PlaneError::program(SOCK_OPS, "attach"))?;
    let link = program
        .take_link(id)
        .map_err(PlaneError::program(SOCK_OPS, "attach"))?;
    FdLink::try_from(link).map_err(|error| {
        PlaneError::syscall("bpf(BPF_LINK_CREATE)", cgroup.display())(io::Error::other(error))
    })
}

/// Attaches the program and pins the link, so that it outlives this process.
pub(super) fn attach_pinned(program: &mut SockOps, cgroup: &Path, pin: &Path) -> Result<(), PlaneError> {
    let link = attach(program, cgroup)?;
    // The pin keeps the link; the descriptor is not needed.
    link.pin(pin)
        .map(drop)
        .map_err(|error| PlaneError::syscall("bpf(BPF_OBJ_PIN)", pin.display())(io::Error::other(error)))
}

/// Puts this agent's program in the place of the one that a pinned link runs: no connection is missed in between.
/// `false` when the link's cgroup is gone.
pub(super) fn adopt(program: &SockOps, pin: &Path) -> Result<bool, PlaneError> {
    let link = sys::obj_get(pin).map_err(PlaneError::syscall("bpf(BPF_OBJ_GET)", pin.display()))?;
    let program = program.fd().map_err(PlaneError::program(SOCK_OPS, "attach"))?;
    match sys::link_update(link.as_fd(), program.as_fd()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(error) => Err(PlaneError::syscall("bpf(BPF_LINK_UPDATE)", pin.display())(error)),
    }
}
