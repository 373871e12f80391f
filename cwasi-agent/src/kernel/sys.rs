//! What aya has no way to ask bpf(2) for: links under their pins, and values of a size that only the kernel knows.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// Opens what is pinned at a path (`BPF_OBJ_GET`, Linux 4.4).
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    /// `struct { pathname; bpf_fd; file_flags; }` of `union bpf_attr`.
    #[repr(C)]
    struct ObjGet {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let pathname = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let attr = ObjGet {
        pathname: pathname.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: the attribute and the path it points to outlive the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &attr) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts another program in the place of the one that a link runs (`BPF_LINK_UPDATE`, Linux 5.7).
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    /// `struct { link_fd; new_prog_fd; flags; old_prog_fd; } link_update` of `union bpf_attr`.
    #[repr(C)]
    struct LinkUpdate {
        link_fd: i32,
        new_prog_fd: i32,
        flags: u32,
        old_prog_fd: u32,
    }
    let attr = LinkUpdate {
        link_fd: link.as_raw_fd(),
        new_prog_fd: program.as_raw_fd(),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: both descriptors are open for the call.
    unsafe { bpf(BPF_LINK_UPDATE, &attr) }.map(drop)
}

/// `struct { map_fd; key; value; flags; }` of `union bpf_attr`.
#[repr(C)]
struct Element {
    map_fd: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    /// That of this key, whose value is at that address.
    fn of(map: BorrowedFd<'_>, key: &u32, value: u64) -> Self {
        Self {
            map_fd: map.as_raw_fd().cast_unsigned(),
            _padding: 0,
            key: std::ptr::from_ref(key) as u64,
            value,
            flags: 0,
        }
    }
}

/// Reads the first value of an array whose values have `size` bytes (`BPF_MAP_LOOKUP_ELEM`, Linux 3.18).
pub(super) fn first_value(map: BorrowedFd<'_>, size: usize) -> io::Result<Vec<u8>> {
    let key = 0_u32;
    // The kernel writes values in words of 8 bytes.
    let mut value = vec![0_u64; size.div_ceil(8)];
    let attr = Element::of(map, &key, value.as_mut_ptr() as u64);
    // SAFETY: key and value are live, and have room for what the kernel reads and writes.
    unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &attr) }?;
    let bytes = value.iter().flat_map(|word| word.to_ne_bytes());
    Ok(bytes.take(size).collect())
}

/// Writes the first value of an array whose values have that size (`BPF_MAP_UPDATE_ELEM`, Linux 3.18).
pub(super) fn set_first_value(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let key = 0_u32;
    let attr = Element::of(map, &key, value.as_ptr() as u64);
    // SAFETY: key and value are live, and as long as the kernel reads.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attr) }.map(drop)
}

/// # Safety
/// `attr` is what the command takes, and what it points to is live.
unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads no more than the size given.
    match unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) } {
        result if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
