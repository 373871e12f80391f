//! Whether a container is a guest or a native program, and where its bytes are.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::bundle::Bundle;
use super::error::ShimError;
use super::image;

/// Where a program is looked for when the container has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `e_machine` of the programs of this node.
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// What a container runs.
#[derive(Debug)]
pub enum Workload {
    /// A component or module.
    Guest {
        /// Path in the image, or digest of the layer: for messages.
        name: String,
        /// Its bytes, from the start of the file.
        wasm: File,
    },
    /// A native program or script, such as the pause program of a sandbox.
    Native,
}

impl Workload {
    /// Finds out what the container `id` runs: the entrypoint in its root filesystem, else the Wasm layer of its image, for
    /// which containerd is asked at `address`.
    ///
    /// # Errors
    /// There is no entrypoint, it is for another platform, or the image cannot be read.
    pub fn find(bundle: &Bundle, id: &str, address: &Path, namespace: &str) -> Result<Self, ShimError> {
        let process = bundle.spec.process().as_ref().ok_or(ShimError::NoCommand)?;
        let program = process
            .args()
            .iter()
            .flatten()
            .next()
            .filter(|program| !program.is_empty())
            .ok_or(ShimError::NoCommand)?;
        let path = process
            .env()
            .iter()
            .flatten()
            .find_map(|variable| variable.strip_prefix("PATH="))
            .unwrap_or(DEFAULT_PATH);
        let rootfs = bundle.rootfs()?;
        for candidate in candidates(program, path, process.cwd()) {
            if let Some(file) = open_inside(&rootfs, &candidate)? {
                return classify(file, &candidate);
            }
        }
        let layer = image::wasm_layer(address, namespace, id)?;
        let layer = layer.ok_or_else(|| ShimError::no_entrypoint(program))?;
        Ok(Self::Guest {
            name: layer.digest,
            wasm: in_memory(&layer.bytes)?,
        })
    }
}

/// The paths at which a program may be, as execvp(3) looks for it.
fn candidates(program: &str, path: &str, cwd: &Path) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![cwd.join(program)];
    }
    // A .wasm file is commonly named without a directory, relative to the working directory.
    path.split(':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| Path::new(dir).join(program))
        .chain([cwd.join(program)])
        .collect()
}

/// Opens a regular file of the root filesystem; no link in it leads out of it. `None` when there is none.
fn open_inside(rootfs: &Path, path: &Path) -> Result<Option<File>, ShimError> {
    let failed = |call| {
        move |errno: Errno| ShimError::Io {
            call,
            path: rootfs.to_owned(),
            source: io::Error::from(errno),
        }
    };
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(rootfs, directory, nix::sys::stat::Mode::empty()).map_err(failed("open"))?;
    // A FIFO in the program's place would block the open. openat2 is in Linux 5.6.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(&root, path, how) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => return Ok(None),
        Err(errno) => return Err(failed("openat2")(errno)),
    };
    let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
    Ok(is_file.then_some(file))
}

/// Tells by its first bytes what a file is. What is neither ELF nor a script is a guest: the engine says what is wrong with it.
fn classify(mut file: File, path: &Path) -> Result<Workload, ShimError> {
    let failed = |call| {
        move |source| ShimError::Io {
            call,
            path: path.to_owned(),
            source,
        }
    };
    let mut start = Vec::new();
    (&mut file)
        .take(20)
        .read_to_end(&mut start)
        .map_err(failed("read"))?;
    file.seek(SeekFrom::Start(0)).map_err(failed("lseek"))?;
    if start.starts_with(b"#!") {
        return Ok(Workload::Native);
    }
    if start.starts_with(b"\x7fELF") {
        // EI_DATA says in which order e_machine is written.
        let bytes = [start.get(18), start.get(19)].map(|byte| byte.copied().unwrap_or_default());
        let machine = match start.get(5) {
            Some(2) => u16::from_be_bytes(bytes),
            _ => u16::from_le_bytes(bytes),
        };
        if machine != MACHINE {
            return Err(ShimError::Platform {
                path: path.display().to_string(),
                machine,
                expected: MACHINE,
            });
        }
        return Ok(Workload::Native);
    }
    Ok(Workload::Guest {
        name: path.display().to_string(),
        wasm: file,
    })
}

/// A file of `bytes` that no name leads to.
fn in_memory(bytes: &[u8]) -> Result<File, ShimError> {
    let failed = |call| {
        move |source| ShimError::Io {
            call,
            path: PathBuf::from("memfd:wasm"),
            source,
        }
    };
    let mut file = memfd_create(c"wasm", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(|errno| failed("memfd_create")(errno.into()))?;
    file.write_all(bytes).map_err(failed("write"))?;
    file.seek(SeekFrom::Start(0)).map_err(failed("lseek"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn programs_are_looked_for_as_execvp_does() {
        let found = |program| candidates(program, "/bin::/usr/bin", Path::new("/work"));
        assert_eq!(found("/app.wasm"), [Path::new("/app.wasm")]);
        assert_eq!(found("./app.wasm"), [Path::new("/work/./app.wasm")]);
        assert_eq!(
            found("app"),
            ["/bin/app", "/usr/bin/app", "/work/app"].map(PathBuf::from)
        );
    }

    #[test]
    fn no_link_leads_out_of_the_root_filesystem() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        fs::create_dir_all(rootfs.join("etc")).unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        fs::write(rootfs.join("etc/inside"), "inside").unwrap();
        symlink("../../secret", rootfs.join("up")).unwrap();
        symlink("/etc/inside", rootfs.join("absolute")).unwrap();
        symlink("loop", rootfs.join("loop")).unwrap();
        let read = |path: &str| {
            let file = open_inside(&rootfs, Path::new(path)).unwrap()?;
            Some(io::read_to_string(file).unwrap())
        };
        assert_eq!(read("/up"), None);
        assert_eq!(read("/../../secret"), None);
        assert_eq!(read("/loop"), None);
        assert_eq!(read("/etc"), None, "a directory is no program");
        assert_eq!(read(&format!("/{}", "x".repeat(300))), None);
        assert_eq!(read("/absolute").as_deref(), Some("inside"));
        assert_eq!(read("etc/inside").as_deref(), Some("inside"));
    }

    #[test]
    fn files_are_told_by_their_first_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let classified = |bytes: &[u8]| {
            let path = dir.path().join("file");
            fs::write(&path, bytes).unwrap();
            classify(File::open(&path).unwrap(), Path::new("/app"))
        };
        assert!(matches!(classified(b"#!/bin/sh\n"), Ok(Workload::Native)));
        assert!(matches!(
            classified(b"\0asm\x0d\0\x01\0"),
            Ok(Workload::Guest { .. })
        ));
        assert!(matches!(classified(b""), Ok(Workload::Guest { .. })));
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(18, 0);
        elf.extend(MACHINE.to_le_bytes());
        assert!(matches!(classified(&elf), Ok(Workload::Native)));
        elf[18..20].copy_from_slice(&243_u16.to_le_bytes());
        let error = classified(&elf).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("/app is a program for another platform (ELF machine 243); this node needs {MACHINE}")
        );
        let Ok(Workload::Guest { wasm, .. }) = classified(b"\0asm-rest") else {
            panic!("a guest");
        };
        assert_eq!(io::read_to_string(wasm).unwrap(), "\0asm-rest", "from its start");
    }
}
