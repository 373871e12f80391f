//! The kernel tests on kernels of Debian, under qemu.
//!
//! [`catalog`]: which kernels there are. [`image`]: a kernel out of its packages. [`initramfs`]: the tests and what they need,
//! in a [`cpio`] archive, started by `init.sh`. [`guest`]: qemu. [`results`]: what the guest reported. [`policy`]: what
//! docs/kernel-policy.md says that it should report. [`matrix`]: all of it, for several kernels.

pub mod catalog;
pub mod cpio;
pub mod guest;
pub mod image;
pub mod initramfs;
pub mod matrix;
pub mod policy;
pub mod results;
pub mod version;
