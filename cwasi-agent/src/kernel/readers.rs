//! Whether the running kernel tells how the reader of a socket waits for bytes.
//!
//! The programs look before they begin to redirect to a function that its launcher does not vouch for
//! ([`cwasi_ebpf_common::reader`]). Where they cannot tell, its bytes go by TCP.

use super::btf::Btf;
use super::error::PlaneError;
use super::layout;

/// Name of the probe, and of the reason in `status`.
pub const READERS: &str = "readers";
/// What to do when it is not told.
pub const REMEDY: &str = "use a kernel that docs/kernel-policy.md lists; until then only functions that are registered with \
                          `sockets: all` are redirected to";

/// Whether the kernel's BTF has all that it takes.
///
/// # Errors
/// The BTF cannot be read, or lacks a field.
pub fn told() -> Result<(), PlaneError> {
    layout::wait_offsets(&Btf::of_kernel()?).map(drop)
}
