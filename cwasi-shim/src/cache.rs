//! Compiled components on disk.
//!
//! Loading a compiled component runs its machine code with the rights of this process, so an entry is used only when
//! this user alone can have written it: the directory is this user's with mode 0700, an entry is a regular file of this
//! user that nobody else may write, and its digest covers both what it was compiled from and what was compiled. Entries
//! appear by rename, are never changed afterwards, and may be removed at any time.

mod room;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat, renameat};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use sha2::{Digest, Sha256};

use crate::code::Code;

/// Where root's runs keep what they compiled, unless they are told otherwise.
pub const ROOT_DIR: &str = "/var/cache/cwasi";

/// Most bytes that are kept: a new entry takes the place of those that were not used for longest.
const MAX_BYTES: i64 = 2 << 30;

/// Ends every entry, after the digest. Changes with the form of the entries.
const MAGIC: [u8; 8] = *b"cwasi\0\0\x01";
/// How an entry is opened. A FIFO in its place would block without O_NONBLOCK.
const OPEN_ENTRY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_CLOEXEC);
/// Whose bytes stand for keys that are compiled: a lock on them ends with the process that has it, and leaves nothing.
const LOCK: &str = ".lock";
/// Longest wait for somebody else's compilation, and how often it is looked at. One who was stopped must not stop others.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
const TURN_PAUSE: Duration = Duration::from_millis(5);
const DIGEST_BYTES: usize = 32;
const TRAILER_BYTES: usize = DIGEST_BYTES + MAGIC.len();

/// Why the cache, or an entry of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// {0} is not a directory; name another one or remove it
    #[error("{0} is not a directory; name another one or remove it")]
    NotDirectory(PathBuf),
    /// {path} belongs to user {owner}, not to this user ({user}); name a directory of this user's
    #[error("{path} belongs to user {owner}, not to this user ({user}); name a directory of this user's")]
    Owner {
        /// The directory.
        path: PathBuf,
        /// User id that owns it.
        owner: u32,
        /// Effective user id of this process.
        user: u32,
    },
    /// {path} has mode {mode:o}, so that others could put code there; `chmod 700` it after a look at what is in it
    #[error(
        "{path} has mode {mode:o}, so that others could put code there; `chmod 700` it after a look at what is in it"
    )]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// {0} is on a file system that is mounted noexec, so that its files cannot be mapped as code; name another one
    #[error(
        "{0} is on a file system that is mounted noexec, so that its files cannot be mapped as code; name another one"
    )]
    NoExec(PathBuf),
    /// neither XDG_CACHE_HOME nor HOME says where this user's cache is
    #[error("neither XDG_CACHE_HOME nor HOME says where this user's cache is")]
    NoHome,
    /// entry {name} was not written by this cache: {why}
    #[error("entry {name} was not written by this cache: {why}")]
    Foreign {
        /// File name of the entry.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// {call} on {path} failed: {source}
    #[error("{call} on {path} failed: {source}")]
    Io {
        /// System call that failed.
        call: &'static str,
        /// What it was called on.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

/// What a compiled component depends on: the bytes of the component, the engine and its settings.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; DIGEST_BYTES]);

impl Key {
    /// Key of the component `wasm` compiled by an engine whose version and settings hash to `engine`.
    #[must_use]
    pub fn new(wasm: &[u8], engine: &[u8; DIGEST_BYTES]) -> Self {
        // Two digests of fixed length: no bytes can move from one part to the other.
        let content = Sha256::digest(wasm);
        Self(
            Sha256::new()
                .chain_update(content)
                .chain_update(engine)
                .finalize()
                .into(),
        )
    }

    fn file_name(&self) -> String {
        self.0
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .chain([room::SUFFIX.to_owned()])
            .collect()
    }

    /// The byte of the file of locks that stands for it.
    fn offset(&self) -> i64 {
        let digest = self.0.iter().take(size_of::<i64>());
        digest.fold(0, |sum: i64, byte| sum << 8 | i64::from(*byte)) & i64::MAX
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Key").field(&self.file_name()).finish()
    }
}

/// An entry that was found whole. Stays readable when its file is replaced or removed.
#[derive(Debug)]
pub struct Entry {
    file: File,
    name: String,
}

impl Entry {
    /// The machine code in it.
    #[must_use]
    pub fn into_code(self) -> Code {
        // Verified: only this user, by `Cache::store`, can have written it.
        Code::trusted(self.file)
    }
}

/// The right to compile a component, while nobody else does. Ends when it is dropped.
#[derive(Debug)]
pub struct Turn {
    _locked: Option<File>,
}

/// A directory of compiled components.
#[derive(Debug)]
pub struct Cache {
    // Everything is done relative to the directory that was checked, wherever its path leads later.
    dir: File,
    path: PathBuf,
    /// The directory through a read-only mount of its own, once it was asked for and if it can be had.
    read_only: OnceLock<Option<OwnedFd>>,
}

impl Cache {
    /// The directory for this user: `/var/cache/cwasi` for root, else `$XDG_CACHE_HOME/cwasi` or `~/.cache/cwasi`.
    ///
    /// # Errors
    /// [`CacheError::NoHome`] when the environment names none.
    pub fn default_dir() -> Result<PathBuf, CacheError> {
        if geteuid().is_root() {
            return Ok(PathBuf::from(ROOT_DIR));
        }
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .map(|base| base.join("cwasi"))
            .ok_or(CacheError::NoHome)
    }

    /// Opens the directory, making it with mode 0700 (and its missing parents) when it does not exist.
    ///
    /// # Errors
    /// [`CacheError::Owner`], [`CacheError::Mode`] or [`CacheError::NotDirectory`] for a directory that others could have
    /// written to; [`CacheError::NoExec`] for one whose files cannot be mapped as code; [`CacheError::Io`] when it cannot be
    /// made or opened.
    pub fn open(path: &Path) -> Result<Self, CacheError> {
        let failed = |call| {
            move |source| CacheError::Io {
                call,
                path: path.to_owned(),
                source,
            }
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed("mkdir"))?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("mkdir")(error)),
            _ => {}
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = match nix::fcntl::open(path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(CacheError::NotDirectory(path.to_owned())),
            Err(errno) => return Err(failed("open")(errno.into())),
        };
        let meta = dir.metadata().map_err(failed("fstat"))?;
        let mount = fstatvfs(&dir).map_err(|errno| failed("fstatvfs")(errno.into()))?;
        let (owner, user, mode) = (meta.uid(), geteuid().as_raw(), meta.mode() & 0o7777);
        if owner != user {
            return Err(CacheError::Owner {
                path: path.to_owned(),
                owner,
                user,
            });
        }
        if mode & 0o077 != 0 {
            return Err(CacheError::Mode {
                path: path.to_owned(),
                mode,
            });
        }
        if mount.flags().contains(FsFlags::ST_NOEXEC) {
            return Err(CacheError::NoExec(path.to_owned()));
        }
        Ok(Self {
            dir,
            path: path.to_owned(),
            read_only: OnceLock::new(),
        })
    }

    /// The entry of `key`, verified to its last byte, or `None`.
    ///
    /// # Errors
    /// [`CacheError::Foreign`] for a file that this cache did not write, or that changed since; [`CacheError::Io`].
    pub fn find(&self, key: &Key) -> Result<Option<Entry>, CacheError> {
        let name = key.file_name();
        let foreign = |why| CacheError::Foreign {
            name: name.clone(),
            why,
        };
        let mut file = match openat(&self.dir, name.as_str(), OPEN_ENTRY, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => return Err(foreign("it is a symbolic link")),
            Err(errno) => return Err(self.failed("openat", &name, errno.into())),
        };
        let meta = file
            .metadata()
            .map_err(|source| self.failed("fstat", &name, source))?;
        if !meta.is_file() {
            return Err(foreign("it is not a regular file"));
        }
        if meta.uid() != geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(foreign("others can write it"));
        }
        let object_bytes = meta
            .len()
            .checked_sub(TRAILER_BYTES as u64)
            .ok_or_else(|| foreign("it is too short"))?;
        let mut digest = Sha256::new().chain_update(key.0);
        let mut trailer = [0; TRAILER_BYTES];
        let read = |source| self.failed("read", &name, source);
        hash(&mut (&mut file).take(object_bytes), &mut digest).map_err(read)?;
        file.read_exact(&mut trailer).map_err(read)?;
        let (expected, magic) = trailer.split_at(DIGEST_BYTES);
        if magic != MAGIC {
            return Err(foreign("it has another form"));
        }
        if digest.finalize().as_slice() != expected {
            return Err(foreign("its content does not match its digest"));
        }
        room::touch(&file);
        Ok(Some(Entry { file, name }))
    }

    /// The file of `entry`, opened so that nobody can open it for writing through this descriptor, as a process that has it
    /// could do through `/proc/self/fd` as root: it lies on a mount that is read-only. `None` where there can be no such
    /// mount (before Linux 5.12, without CAP_SYS_ADMIN) or when the entry was replaced meanwhile.
    #[must_use]
    pub fn open_read_only(&self, entry: &Entry) -> Option<File> {
        let dir = self
            .read_only
            .get_or_init(|| read_only_mount(self.dir.as_fd()).ok())
            .as_ref()?;
        let file = openat(dir, entry.name.as_str(), OPEN_ENTRY, Mode::empty());
        let file = File::from(file.ok()?);
        let (found, verified) = (file.metadata().ok()?, entry.file.metadata().ok()?);
        ((found.dev(), found.ino()) == (verified.dev(), verified.ino())).then_some(file)
    }

    /// Puts what was compiled for `key` in place, whether or not there is an entry. Others see the whole entry or none.
    ///
    /// # Errors
    /// [`CacheError::Io`] when it cannot be written.
    pub fn store(&self, key: &Key, object: &[u8]) -> Result<(), CacheError> {
        let name = key.file_name();
        let digest = Sha256::new().chain_update(key.0).chain_update(object).finalize();
        let temporary = Temporary::create(self, &name)?;
        for part in [object, digest.as_slice(), MAGIC.as_slice()] {
            (&temporary.file)
                .write_all(part)
                .map_err(|source| self.failed("write", &name, source))?;
        }
        renameat(&self.dir, temporary.name.as_str(), &self.dir, name.as_str())
            .map_err(|errno| self.failed("renameat", &name, errno.into()))?;
        temporary.renamed();
        room::make(&self.dir, &self.path, &name, MAX_BYTES);
        Ok(())
    }

    /// Waits until no other user of this directory, in this process or another, compiles for `key`; who waited looks for the
    /// entry again. Where many start one program at once, one compiles it, and the others do not take the processors from it.
    ///
    /// What keeps others from being seen, or one that takes half a minute, ends the wait: two that compile the same cost
    /// time, and nothing else.
    #[must_use]
    pub fn turn(&self, key: &Key) -> Turn {
        self.turn_within(key, TURN_TIMEOUT)
    }

    fn turn_within(&self, key: &Key, timeout: Duration) -> Turn {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(&self.dir, LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let Ok(file) = file.map(File::from) else {
            return Turn { _locked: None };
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "small constants that libc has as int"
        )]
        let byte = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: key.offset(),
            l_len: 1,
            l_pid: 0,
        };
        let deadline = Instant::now() + timeout;
        // Locks of the open file, and not of the process: two threads exclude each other as well.
        while let Err(Errno::EAGAIN | Errno::EACCES) = fcntl(&file, FcntlArg::F_OFD_SETLK(&byte)) {
            if Instant::now() > deadline {
                return Turn { _locked: None };
            }
            thread::sleep(TURN_PAUSE);
        }
        Turn { _locked: Some(file) }
    }

    fn failed(&self, call: &'static str, name: &str, source: io::Error) -> CacheError {
        CacheError::Io {
            call,
            path: self.path.join(name),
            source,
        }
    }
}

/// A mount of `dir` alone that is read-only, nowhere in the tree of mounts, and gone with its descriptor.
fn read_only_mount(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH.cast_unsigned();
    // SAFETY: the path is a C string that outlives the call, which only reads it.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), c"".as_ptr(), flags) };
    let tree = RawFd::try_from(Errno::result(tree)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just opened it, and nothing else has it.
    let tree = unsafe { OwnedFd::from_raw_fd(tree) };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: path and attributes outlive the call, which only reads them, and the size is that of the attributes.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    Errno::result(set).map(|_| tree)
}

/// Feeds all of `from` to `digest` without keeping it in memory.
fn hash(from: &mut dyn Read, digest: &mut Sha256) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => digest.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A file of its own for one writer, removed unless it became an entry.
struct Temporary<'a> {
    cache: &'a Cache,
    name: String,
    file: File,
    keep: bool,
}

impl<'a> Temporary<'a> {
    fn create(cache: &'a Cache, entry: &str) -> Result<Self, CacheError> {
        static WRITERS: AtomicU64 = AtomicU64::new(0);
        // Process ids repeat across pid namespaces that share the directory; the clock makes the name unique.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
        let name = format!(".{entry}.{}.{now}.{writer}", process::id());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        // A guest's process of another user reads it, when it is handed the open file; nobody else gets into the directory.
        let mode = Mode::S_IRUSR | Mode::S_IRGRP | Mode::S_IROTH;
        let file = openat(&cache.dir, name.as_str(), flags, mode)
            .map_err(|errno| cache.failed("openat", &name, errno.into()))?;
        Ok(Self {
            cache,
            name,
            file: File::from(file),
            keep: false,
        })
    }

    fn renamed(mut self) {
        self.keep = true;
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.keep {
            // The write has failed already, and that is what is reported.
            let _ = unlinkat(&self.cache.dir, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use proptest::prelude::*;

    use super::*;

    const ENGINE: [u8; 32] = [7; 32];

    struct Setup {
        dir: tempfile::TempDir,
        cache: Cache,
        key: Key,
    }

    impl Setup {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(&dir.path().join("cache")).unwrap();
            Self {
                dir,
                cache,
                key: Key::new(b"wasm", &ENGINE),
            }
        }

        fn entry(&self) -> PathBuf {
            self.dir.path().join("cache").join(self.key.file_name())
        }

        fn refusal(&self) -> &'static str {
            match self.cache.find(&self.key) {
                Err(CacheError::Foreign { why, .. }) => why,
                other => panic!("{other:?}"),
            }
        }
    }

    fn content(entry: Entry) -> Vec<u8> {
        entry.into_code().read().unwrap()
    }

    #[test]
    fn what_is_stored_is_found() {
        let setup = Setup::new();
        assert!(setup.cache.find(&setup.key).unwrap().is_none());
        setup.cache.store(&setup.key, b"object").unwrap();
        let entry = setup.cache.find(&setup.key).unwrap().unwrap();
        assert!(content(entry).starts_with(b"object"));
        assert!(
            setup.cache.find(&Key::new(b"wasm", &[8; 32])).unwrap().is_none(),
            "another engine"
        );
        assert!(
            setup.cache.find(&Key::new(b"wasn", &ENGINE)).unwrap().is_none(),
            "another component"
        );
        let names: Vec<_> = fs::read_dir(setup.dir.path().join("cache")).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file is left: {names:?}");
    }

    #[test]
    fn a_found_entry_outlives_its_replacement() {
        let setup = Setup::new();
        setup.cache.store(&setup.key, b"first").unwrap();
        let entry = setup.cache.find(&setup.key).unwrap().unwrap();
        setup.cache.store(&setup.key, b"second").unwrap();
        assert!(content(entry).starts_with(b"first"));
    }

    #[test]
    fn one_at_a_time_compiles_a_component() {
        let setup = Setup::new();
        let soon = Duration::from_millis(20);
        let is_taken = |key: &Key| setup.cache.turn_within(key, soon)._locked.is_none();
        let turn = setup.cache.turn(&setup.key);
        assert!(is_taken(&setup.key));
        assert!(
            !is_taken(&Key::new(b"another", &ENGINE)),
            "another component is not waited for"
        );
        thread::scope(|scope| {
            let next = scope.spawn(|| setup.cache.turn(&setup.key));
            thread::sleep(soon);
            assert!(!next.is_finished());
            drop(turn);
            assert!(next.join().unwrap()._locked.is_some());
        });
        assert!(!is_taken(&setup.key));
    }

    #[test]
    fn nobody_can_write_through_a_read_only_descriptor() {
        let setup = Setup::new();
        setup.cache.store(&setup.key, b"object").unwrap();
        let entry = setup.cache.find(&setup.key).unwrap().unwrap();
        let Some(file) = setup.cache.open_read_only(&entry) else {
            eprintln!("skipped: read-only mounts need Linux 5.12 and CAP_SYS_ADMIN");
            return;
        };
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        // The plain one is what a root of a container could write.
        fs::set_permissions(setup.entry(), fs::Permissions::from_mode(0o600)).unwrap();
        let plain = format!("/proc/self/fd/{}", entry.file.as_raw_fd());
        fs::OpenOptions::new().write(true).open(plain).unwrap();
        let refused = fs::OpenOptions::new().write(true).open(&again).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::EROFS as i32));
        drop(setup.cache);
        let refused = fs::OpenOptions::new().write(true).open(&again).unwrap_err();
        assert_eq!(
            refused.raw_os_error(),
            Some(Errno::EROFS as i32),
            "the mount stays with the file"
        );
        assert!(fs::read(again).unwrap().starts_with(b"object"));
    }

    #[test]
    fn a_replaced_entry_is_not_taken_for_the_verified_one() {
        let setup = Setup::new();
        setup.cache.store(&setup.key, b"first").unwrap();
        let entry = setup.cache.find(&setup.key).unwrap().unwrap();
        setup.cache.store(&setup.key, b"second").unwrap();
        assert!(setup.cache.open_read_only(&entry).is_none());
    }

    #[test]
    fn entries_of_others_are_refused() {
        let setup = Setup::new();
        let put = |content: &[u8]| fs::write(setup.entry(), content).unwrap();
        put(b"");
        assert_eq!(setup.refusal(), "it is too short");
        put(&[0; 100]);
        assert_eq!(setup.refusal(), "it has another form");
        fs::remove_file(setup.entry()).unwrap();
        fs::create_dir(setup.entry()).unwrap();
        assert_eq!(setup.refusal(), "it is not a regular file");
        fs::remove_dir(setup.entry()).unwrap();
        nix::unistd::mkfifo(&setup.entry(), Mode::S_IRWXU).unwrap();
        assert_eq!(setup.refusal(), "it is not a regular file");
        fs::remove_file(setup.entry()).unwrap();
        setup.cache.store(&setup.key, b"object").unwrap();
        fs::set_permissions(setup.entry(), fs::Permissions::from_mode(0o620)).unwrap();
        assert_eq!(setup.refusal(), "others can write it");
        let moved = setup.dir.path().join("moved");
        fs::rename(setup.entry(), &moved).unwrap();
        symlink(&moved, setup.entry()).unwrap();
        assert_eq!(setup.refusal(), "it is a symbolic link");
    }

    #[test]
    fn an_entry_of_another_key_is_refused() {
        let setup = Setup::new();
        let other = Key::new(b"other", &ENGINE);
        setup.cache.store(&other, b"object").unwrap();
        fs::rename(setup.entry().with_file_name(other.file_name()), setup.entry()).unwrap();
        assert_eq!(setup.refusal(), "its content does not match its digest");
    }

    #[test]
    fn directories_that_others_can_write_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o755, 0o770, 0o701, 0o777] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(Cache::open(dir.path()), Err(CacheError::Mode { mode: found, .. }) if found == mode)
            );
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Cache::open(dir.path()).unwrap();

        let link = dir.path().join("link");
        symlink(dir.path(), &link).unwrap();
        assert!(matches!(Cache::open(&link), Err(CacheError::NotDirectory(_))));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Cache::open(&file), Err(CacheError::NotDirectory(_))));
        assert!(matches!(
            Cache::open(&file.join("below")),
            Err(CacheError::Io { call: "mkdir", .. })
        ));
    }

    #[test]
    fn directories_without_executable_mappings_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        // The mount is seen by this thread only, and gone with it.
        let opened = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(none, &path, Some("tmpfs"), MsFlags::MS_NOEXEC, Some("mode=700"))?;
            Ok::<_, Errno>(Cache::open(&path).unwrap_err())
        });
        match opened.join().unwrap() {
            Ok(error) => assert!(matches!(error, CacheError::NoExec(_)), "{error}"),
            Err(errno) => eprintln!("skipped: mounts: {errno}"),
        }
    }

    #[test]
    fn directories_of_other_users_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        if let Err(error) = chown(dir.path(), Some(65534), None) {
            eprintln!("skipped: chown: {error}");
            return;
        }
        assert!(matches!(
            Cache::open(dir.path()),
            Err(CacheError::Owner { owner: 65534, .. })
        ));
    }

    #[test]
    fn a_new_directory_is_only_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        Cache::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_changed_byte_is_noticed(
            object in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, bit in 0u8..8
        ) {
            let setup = Setup::new();
            setup.cache.store(&setup.key, &object).unwrap();
            prop_assert!(setup.cache.find(&setup.key).unwrap().is_some());
            let mut bytes = fs::read(setup.entry()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            fs::write(setup.entry(), &bytes).unwrap();
            prop_assert!(!setup.refusal().is_empty());
            fs::write(setup.entry(), &bytes[..at]).unwrap();
            prop_assert!(!setup.refusal().is_empty());
        }

        #[test]
        fn keys_differ_when_anything_differs(a: Vec<u8>, b: Vec<u8>, engine_a: [u8; 32], engine_b: [u8; 32]) {
            let same = a == b && engine_a == engine_b;
            prop_assert_eq!(Key::new(&a, &engine_a) == Key::new(&b, &engine_b), same);
            prop_assert_eq!(Key::new(&a, &engine_a), Key::new(&a, &engine_a));
        }
    }
}
