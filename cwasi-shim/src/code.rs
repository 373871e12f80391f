//! Machine code in an open file, which one process may prepare and another may run.
//!
//! A guest's process may belong to another user and to another mount namespace than the process that compiled for it.
//! It gets an open file, which it can map but, since nobody can write it, not change for the others who map it.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};

/// Where the kernel shows a process its own open files.
const OPEN_FILES: &str = "/proc/self/fd";

/// Why machine code cannot be kept in memory.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// machine code in the cache cannot be read: {0}
    #[error("machine code in the cache cannot be read: {0}")]
    Read(io::Error),
    /// {call} for {bytes} bytes in memory failed: {errno}
    #[error("{call} for {bytes} bytes in memory failed: {errno}")]
    Memory {
        /// Call that failed.
        call: &'static str,
        /// Size of what is kept.
        bytes: usize,
        /// Its error.
        errno: Errno,
    },
}

/// Machine code that an [`Engine`](crate::engine::Engine) of this build made: an entry of the cache that was verified, or
/// memory that is sealed.
#[derive(Debug)]
pub struct Code {
    file: File,
}

impl Code {
    /// The open file, to be handed to another process.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }

    /// The code in a file that another process handed over.
    ///
    /// # Safety
    /// `file` must come from [`Code::into_file`] of an engine of the same build: it is native code, which will run.
    #[must_use]
    pub unsafe fn from_file(file: File) -> Self {
        Self { file }
    }

    /// Code of which the caller knows that it is whole and the engine's own.
    pub(crate) const fn trusted(file: File) -> Self {
        Self { file }
    }

    /// Keeps `object` in memory that can no longer change.
    pub(crate) fn in_memory(object: &[u8]) -> Result<Self, CodeError> {
        let file = sealed(c"cwasi-code", object)?;
        Ok(Self { file })
    }

    /// The same code in memory of its own.
    pub(crate) fn copied(&self) -> Result<Self, CodeError> {
        Self::in_memory(&self.read().map_err(CodeError::Read)?)
    }

    /// A second handle on the same file.
    pub(crate) fn try_clone(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// A path that opens this very file, or `None` where there is no /proc. What a container's image puts in the place of
    /// /proc is not the kernel's, and never opened.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        if statfs(OPEN_FILES).ok()?.filesystem_type() != PROC_SUPER_MAGIC {
            return None;
        }
        let path = PathBuf::from(format!("{OPEN_FILES}/{}", self.file.as_raw_fd()));
        let (found, own) = (fs::metadata(&path).ok()?, self.file.metadata().ok()?);
        let readable = File::open(&path).is_ok();
        ((found.dev(), found.ino()) == (own.dev(), own.ino()) && readable).then_some(path)
    }

    /// The whole file.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        // Not at the file's own offset, which is shared with whoever has a handle.
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl AsFd for Code {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A file of `content` that is only in memory and can no longer change (Linux 3.17). `name` is seen in /proc.
pub(crate) fn sealed(name: &CStr, content: &[u8]) -> Result<File, CodeError> {
    let failed = |call| {
        move |errno| CodeError::Memory {
            call,
            bytes: content.len(),
            errno,
        }
    };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(name, flags).map_err(failed("memfd_create"))?);
    file.write_all(content)
        .map_err(|error| failed("write")(errno(&error)))?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(failed("fcntl"))?;
    Ok(file)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_in_memory_cannot_change() {
        let code = Code::in_memory(b"object").unwrap();
        assert_eq!(code.read().unwrap(), b"object");
        assert_eq!(code.read().unwrap(), b"object", "as often as one likes");
        let mut file = code.into_file();
        let refused =
            |result: io::Result<()>| result.unwrap_err().raw_os_error() == Some(Errno::EPERM as i32);
        assert!(refused(file.write_all(b"x")));
        assert!(refused(file.set_len(0)));
        assert!(refused(file.set_len(100)));
    }

    #[test]
    fn path_leads_to_the_file_itself() {
        let code = Code::in_memory(b"object").unwrap();
        assert_eq!(fs::read(code.path().unwrap()).unwrap(), b"object");
    }
}
