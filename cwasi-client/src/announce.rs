//! Announcements: what launchers leave for an agent that comes later.
//!
//! A launcher keeps a file for each of its functions in a directory beside the agent's socket. An agent registers the
//! functions that it finds there, so that those which began without an agent are accelerated for new connections. The order
//! keeps a function from being lost, or from coming back:
//!
//! 1. make the cgroup, [`Announcements::put`], then ask the agent to register;
//! 2. [`Announcements::remove`], then ask the agent to unregister ([`crate::client::Client::unregister_cgroup`]), then remove
//!    the cgroup.
//!
//! A file whose launcher died is removed by the agent once the cgroup is gone.
//!
//! An agent trusts a file as it trusts a request of root: the directory must belong to this user, or to whom the directory of the
//! socket belongs, and nobody else may write it. So an agent that is not root reads what root announces: its launchers give the
//! files to whom the directory belongs. It is meant for a file system that a reboot empties, as `/run` is.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fchown, geteuid, unlinkat};

use crate::protocol::{FunctionSpec, MAX_REQUEST_BYTES};

/// Name of the directory beside the agent's socket.
pub const DIRECTORY: &str = "announced";

/// Longest key, in bytes: a file name has 255, and some of them are ours.
pub const MAX_KEY_BYTES: usize = 200;

/// Ends the name of every announcement, after its key.
const SUFFIX: &str = ".json";

/// Why an announcement, or all of them, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// {0:?} cannot be the key of an announcement: 1 to 200 letters, digits, '-', '_' and '.', the first a letter or digit
    #[error(
        "{0:?} cannot be the key of an announcement: 1 to {MAX_KEY_BYTES} letters, digits, '-', '_' and '.', \
         the first a letter or digit"
    )]
    Key(String),
    /// a function cannot be announced without {0}
    #[error("a function cannot be announced without {0}")]
    Incomplete(&'static str),
    /// the announcement cannot be written: {0}
    #[error("the announcement cannot be written: {0}")]
    Unwritable(serde_json::Error),
    /// the announcement is {0} bytes long, the agent reads at most 65536
    #[error("the announcement is {0} bytes long, the agent reads at most {MAX_REQUEST_BYTES}")]
    TooLong(usize),
    /// {0} is not a directory; remove it
    #[error("{0} is not a directory; remove it")]
    NotDirectory(PathBuf),
    /// {path} belongs to user {owner}, not to this user ({user}); remove it after a look at what is in it
    #[error(
        "{path} belongs to user {owner}, not to this user ({user}); remove it after a look at what is in it"
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// User id that owns it.
        owner: u32,
        /// Effective user id of this process.
        user: u32,
    },
    /// {path} has mode {mode:o}, so that others could announce functions; `chmod 700` it after a look at what is in it
    #[error(
        "{path} has mode {mode:o}, so that others could announce functions; `chmod 700` it after a look at what is in it"
    )]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// {path} is no announcement: {why}
    #[error("{path} is no announcement: {why}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
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

/// The announcements beside one agent's socket.
#[derive(Clone, Debug)]
pub struct Announcements {
    dir: PathBuf,
}

/// Everything that is announced.
#[derive(Debug, Default)]
pub struct Listing {
    /// Keys and functions, by key.
    pub functions: Vec<(String, FunctionSpec)>,
    /// What lies in the directory and cannot be used, by path. It is left there.
    pub broken: Vec<AnnounceError>,
}

/// A state of the directory: another one after any change of what is announced, but for changes within the same few
/// milliseconds (the granularity of the file system's clock).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    inode: u64,
    modified: (i64, i64),
}

impl Announcements {
    /// Those of the agent that listens, or will listen, on `socket`. Looks at nothing yet.
    #[must_use]
    pub fn beside(socket: &Path) -> Self {
        Self {
            dir: socket.with_file_name(DIRECTORY),
        }
    }

    /// Their directory; it exists after the first [`Announcements::put`].
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Announces a function, in the place of what was announced under `key`. Others see the whole file or none. A key is one
    /// launcher's at a time; for containers of containerd, `NAMESPACE--ID` is unique, as neither has two hyphens in a row.
    ///
    /// The agent sees no process behind an announcement, so `spec` must name the cgroup, and the network namespace or the
    /// addresses.
    ///
    /// # Errors
    /// Key or function cannot be announced; the directory is not this user's alone, or cannot be written.
    pub fn put(&self, key: &str, spec: &FunctionSpec) -> Result<(), AnnounceError> {
        let name = file_name(key)?;
        if let Some(what) = missing(spec) {
            return Err(AnnounceError::Incomplete(what));
        }
        let text = serde_json::to_vec(spec).map_err(AnnounceError::Unwritable)?;
        if text.len() > MAX_REQUEST_BYTES {
            return Err(AnnounceError::TooLong(text.len()));
        }
        let dir = self.make()?;
        let aside = aside_name(key);
        let written = self.write(&dir, &aside, &text).and_then(|()| {
            renameat(&dir, aside.as_str(), &dir, name.as_str()).map_err(self.failed("renameat", &name))
        });
        if written.is_err() {
            // What is reported is why it could not be written.
            let _ = unlinkat(&dir, aside.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    fn write(&self, dir: &File, name: &str, text: &[u8]) -> Result<(), AnnounceError> {
        // A FIFO in its place would block the open.
        let flags = OFlag::O_WRONLY
            | OFlag::O_CREAT
            | OFlag::O_TRUNC
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_CLOEXEC;
        let file =
            openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(self.failed("openat", name))?;
        let owner = dir.metadata().map_err(self.failed("fstat", ""))?.uid();
        give(&file, owner).map_err(self.failed("fchown", name))?;
        File::from(file)
            .write_all(text)
            .map_err(self.failed("write", name))
    }

    /// Takes an announcement back, with what a launcher that died in [`Announcements::put`] left of it. One that is not there
    /// is no error.
    ///
    /// # Errors
    /// The key is none; the directory is not this user's alone, or cannot be written.
    pub fn remove(&self, key: &str) -> Result<(), AnnounceError> {
        let name = file_name(key)?;
        let Some(dir) = self.open()? else { return Ok(()) };
        for name in [name, aside_name(key)] {
            match unlinkat(&dir, name.as_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(self.failed("unlinkat", &name)(errno)),
            }
        }
        Ok(())
    }

    /// What is announced under `key`.
    ///
    /// # Errors
    /// The key is none, the file is no announcement, or the directory is not this user's alone.
    pub fn get(&self, key: &str) -> Result<Option<FunctionSpec>, AnnounceError> {
        let name = file_name(key)?;
        match self.open()? {
            Some(dir) => self.read(&dir, &name),
            None => Ok(None),
        }
    }

    /// Everything that is announced; nothing when the directory does not exist.
    ///
    /// # Errors
    /// The directory is not this user's alone, or cannot be read. Single files that cannot be used are in
    /// [`Listing::broken`].
    pub fn list(&self) -> Result<Listing, AnnounceError> {
        let mut listing = Listing::default();
        let Some(dir) = self.open()? else {
            return Ok(listing);
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(self.failed("readdir", ""))? {
            let entry = entry.map_err(self.failed("readdir", ""))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        // What begins with a dot is being written.
        for name in names.into_iter().filter(|name| !name.starts_with('.')) {
            let Some(key) = key_of(&name) else {
                let why = format!("its name is not KEY{SUFFIX}");
                listing.broken.push(self.broken(&name, why));
                continue;
            };
            match self.read(&dir, &name) {
                Ok(Some(spec)) => listing.functions.push((key.to_owned(), spec)),
                Ok(None) => {}
                Err(error) => listing.broken.push(error),
            }
        }
        Ok(listing)
    }

    /// The state of the directory, `None` when it does not exist.
    ///
    /// # Errors
    /// The directory is not this user's alone.
    pub fn version(&self) -> Result<Option<Version>, AnnounceError> {
        let Some(dir) = self.open()? else {
            return Ok(None);
        };
        let meta = dir.metadata().map_err(self.failed("fstat", ""))?;
        Ok(Some(Version {
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }))
    }

    /// The directory, made with its parents when it does not exist.
    fn make(&self) -> Result<File, AnnounceError> {
        if let Some(parent) = self.dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(self.failed("mkdir", ".."))?;
        }
        let made = match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(self.failed("mkdir", "")(error));
            }
            made => made.is_ok(),
        };
        let removed = || self.failed("open", "")(Errno::ENOENT);
        let dir = self.open()?.ok_or_else(removed)?;
        if made {
            give(&dir, self.parents_owner()?).map_err(self.failed("fchown", ""))?;
        }
        Ok(dir)
    }

    /// Who owns the socket's directory: root, or the user of an agent that is not root.
    fn parents_owner(&self) -> Result<u32, AnnounceError> {
        let parent = self.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        let meta = fs::metadata(parent.unwrap_or(Path::new("."))).map_err(self.failed("stat", ".."))?;
        Ok(meta.uid())
    }

    /// The directory, if it exists. Everything is done relative to what was checked here, wherever its path leads later.
    fn open(&self) -> Result<Option<File>, AnnounceError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = match nix::fcntl::open(&self.dir, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(AnnounceError::NotDirectory(self.dir.clone())),
            Err(errno) => return Err(self.failed("open", "")(errno)),
        };
        let meta = dir.metadata().map_err(self.failed("fstat", ""))?;
        let (owner, user, mode) = (meta.uid(), geteuid().as_raw(), meta.mode() & 0o7777);
        let path = self.dir.clone();
        if owner != user && owner != self.parents_owner()? {
            return Err(AnnounceError::Owner { path, owner, user });
        }
        if mode & 0o022 != 0 {
            return Err(AnnounceError::Mode { path, mode });
        }
        Ok(Some(dir))
    }

    fn read(&self, dir: &File, name: &str) -> Result<Option<FunctionSpec>, AnnounceError> {
        // A FIFO in its place would block the open.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(dir, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => return Err(self.broken(name, "it is a symbolic link".to_owned())),
            Err(errno) => return Err(self.failed("openat", name)(errno)),
        };
        let meta = file.metadata().map_err(self.failed("fstat", name))?;
        if !meta.is_file() {
            return Err(self.broken(name, "it is not a regular file".to_owned()));
        }
        let mut text = Vec::new();
        file.take(MAX_REQUEST_BYTES as u64 + 1)
            .read_to_end(&mut text)
            .map_err(self.failed("read", name))?;
        if text.len() > MAX_REQUEST_BYTES {
            return Err(self.broken(name, format!("it is longer than {MAX_REQUEST_BYTES} bytes")));
        }
        let spec = serde_json::from_slice(&text).map_err(|error| self.broken(name, error.to_string()))?;
        match missing(&spec) {
            None => Ok(Some(spec)),
            Some(what) => Err(self.broken(name, format!("it lacks {what}"))),
        }
    }

    fn broken(&self, name: &str, why: String) -> AnnounceError {
        AnnounceError::Broken {
            path: self.dir.join(name),
            why,
        }
    }

    /// The error of a call on the file `name`, or on the directory itself when that is empty.
    fn failed<E: Into<io::Error>>(&self, call: &'static str, name: &str) -> impl FnOnce(E) -> AnnounceError {
        let path = if name.is_empty() {
            self.dir.clone()
        } else {
            self.dir.join(name)
        };
        move |source| AnnounceError::Io {
            call,
            path,
            source: source.into(),
        }
    }
}

/// Gives what root made to another user. Nobody else can.
fn give(file: impl AsFd, user: u32) -> nix::Result<()> {
    if geteuid().is_root() && user != 0 {
        fchown(file, Some(user.into()), None)?;
    }
    Ok(())
}

fn is_key(key: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=MAX_KEY_BYTES).contains(&key.len())
        && key.bytes().all(fits)
        && key.starts_with(|first: char| first.is_ascii_alphanumeric())
}

fn file_name(key: &str) -> Result<String, AnnounceError> {
    if is_key(key) {
        Ok(format!("{key}{SUFFIX}"))
    } else {
        Err(AnnounceError::Key(key.chars().take(80).collect()))
    }
}

/// Where an announcement is written before it takes its place: one name for each key, so that a launcher that dies there
/// leaves at most one file, which [`Announcements::remove`] knows.
fn aside_name(key: &str) -> String {
    format!(".{key}{SUFFIX}")
}

fn key_of(name: &str) -> Option<&str> {
    name.strip_suffix(SUFFIX).filter(|key| is_key(key))
}

/// What an announcement needs and `spec` does not have.
fn missing(spec: &FunctionSpec) -> Option<&'static str> {
    if !spec.cgroup.as_ref().is_some_and(|path| path.is_absolute()) {
        Some("the absolute path of its cgroup")
    } else if spec.netns.as_ref().is_some_and(|path| !path.is_absolute()) {
        Some("the absolute path of its network namespace")
    } else if spec.netns.is_none() && spec.addresses.is_empty() {
        Some("its network namespace or its addresses")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use proptest::prelude::*;

    use super::*;

    fn spec(name: &str) -> FunctionSpec {
        FunctionSpec {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            cgroup: Some("/sys/fs/cgroup/x".into()),
            netns: Some("/run/netns/x".into()),
            ..FunctionSpec::default()
        }
    }

    fn announcements() -> (tempfile::TempDir, Announcements) {
        let dir = tempfile::tempdir().unwrap();
        let announcements = Announcements::beside(&dir.path().join("run/agent.sock"));
        assert_eq!(announcements.dir(), dir.path().join("run/announced"));
        (dir, announcements)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_put_is_listed_until_it_is_removed() {
        let (_dir, announcements) = announcements();
        assert_eq!(announcements.version().unwrap(), None);
        assert!(announcements.list().unwrap().functions.is_empty());
        assert_eq!(announcements.get("k8s.io--b").unwrap(), None);
        announcements.remove("k8s.io--b").unwrap();
        announcements.put("k8s.io--b", &spec("b")).unwrap();
        announcements.put("a", &spec("a")).unwrap();
        let before = announcements.version().unwrap().unwrap();
        // Longer than the tick of the file system's clock.
        std::thread::sleep(std::time::Duration::from_millis(20));
        announcements.put("a", &spec("a2")).unwrap();
        assert_ne!(announcements.version().unwrap(), Some(before));
        let listing = announcements.list().unwrap();
        let expected = [("a".to_owned(), spec("a2")), ("k8s.io--b".to_owned(), spec("b"))];
        assert_eq!(listing.functions, expected);
        assert!(listing.broken.is_empty());
        assert_eq!(announcements.get("k8s.io--b").unwrap(), Some(spec("b")));
        announcements.remove("a").unwrap();
        announcements.remove("a").unwrap();
        announcements.remove("k8s.io--b").unwrap();
        assert_eq!(fs::read_dir(announcements.dir()).unwrap().count(), 0);
    }

    #[test]
    fn directory_and_files_are_only_their_owners() {
        let (_dir, announcements) = announcements();
        announcements.put("a", &spec("a")).unwrap();
        assert_eq!(mode(announcements.dir()), 0o700);
        assert_eq!(mode(&announcements.dir().join("a.json")), 0o600);
    }

    #[test]
    fn roots_announcements_are_for_whom_the_sockets_directory_belongs_to() {
        let (dir, announcements) = announcements();
        let parent = dir.path().join("run");
        fs::create_dir(&parent).unwrap();
        if let Err(error) = chown(&parent, Some(65532), None) {
            return eprintln!("skipped: chown: {error}");
        }
        announcements.put("a", &spec("a")).unwrap();
        announcements.put("a", &spec("a")).unwrap();
        for path in [announcements.dir(), &announcements.dir().join("a.json")] {
            assert_eq!(fs::metadata(path).unwrap().uid(), 65532, "{}", path.display());
        }
        assert_eq!(announcements.get("a").unwrap(), Some(spec("a")));
        chown(announcements.dir(), Some(65534), None).unwrap();
        assert!(matches!(
            announcements.get("a"),
            Err(AnnounceError::Owner { owner: 65534, .. })
        ));
    }

    #[test]
    fn functions_that_no_agent_could_register_are_not_announced() {
        let (_dir, announcements) = announcements();
        let refused = |change: fn(&mut FunctionSpec)| {
            let mut spec = spec("a");
            change(&mut spec);
            announcements.put("a", &spec).unwrap_err().to_string()
        };
        assert!(refused(|spec| spec.cgroup = None).contains("cgroup"));
        assert!(refused(|spec| spec.cgroup = Some("cwasi/x".into())).contains("cgroup"));
        assert!(refused(|spec| spec.netns = Some("pod1".into())).contains("network namespace"));
        assert!(refused(|spec| spec.netns = None).contains("or its addresses"));
        assert!(refused(|spec| spec.name = "x".repeat(MAX_REQUEST_BYTES)).contains("bytes long"));
        assert!(!announcements.dir().exists());
        let addressed = FunctionSpec {
            netns: None,
            addresses: vec!["10.1.0.2".parse().unwrap()],
            ..spec("a")
        };
        announcements.put("a", &addressed).unwrap();
        assert_eq!(announcements.get("a").unwrap(), Some(addressed));
    }

    #[test]
    fn broken_files_hide_no_others() {
        let (dir, announcements) = announcements();
        announcements.put("good", &spec("good")).unwrap();
        let at = |name: &str| announcements.dir().join(name);
        let whole = fs::read(at("good.json")).unwrap();
        fs::write(at("torn.json"), &whole[..whole.len() / 2]).unwrap();
        fs::write(at("empty.json"), "").unwrap();
        fs::write(
            at("newer.json"),
            r#"{"name":"a","cgroup":"/x","netns":"/y","colour":1}"#,
        )
        .unwrap();
        fs::write(at("less.json"), r#"{"name":"a","netns":"/y"}"#).unwrap();
        fs::write(at("long.json"), vec![b' '; MAX_REQUEST_BYTES + 1]).unwrap();
        fs::write(at("no announcement"), &whole).unwrap();
        fs::write(at("a b.json"), &whole).unwrap();
        fs::write(at(".unfinished.json"), &whole[..3]).unwrap();
        fs::create_dir(at("dir.json")).unwrap();
        nix::unistd::mkfifo(&at("fifo.json"), Mode::S_IRWXU).unwrap();
        symlink(at("good.json"), at("link.json")).unwrap();
        let listing = announcements.list().unwrap();
        assert_eq!(listing.functions, [("good".to_owned(), spec("good"))]);
        let broken: Vec<_> = listing.broken.iter().map(ToString::to_string).collect();
        assert_eq!(broken.len(), 10, "{broken:#?}");
        for line in &broken {
            assert!(line.starts_with(dir.path().to_str().unwrap()), "{line}");
            assert!(line.contains("is no announcement: "), "{line}");
        }
        assert!(matches!(
            announcements.get("torn"),
            Err(AnnounceError::Broken { .. })
        ));
        announcements.remove("torn").unwrap();
        announcements.remove("unfinished").unwrap();
        announcements.put("empty", &spec("empty")).unwrap();
        let listing = announcements.list().unwrap();
        assert_eq!((listing.functions.len(), listing.broken.len()), (2, 8));
        assert!(!at(".unfinished.json").exists());
    }

    #[test]
    fn a_failed_put_leaves_nothing() {
        let (_dir, announcements) = announcements();
        announcements.put("other", &spec("other")).unwrap();
        fs::create_dir(announcements.dir().join("a.json")).unwrap();
        let error = announcements.put("a", &spec("a")).unwrap_err();
        assert!(
            matches!(error, AnnounceError::Io { call: "renameat", .. }),
            "{error}"
        );
        assert_eq!(fs::read_dir(announcements.dir()).unwrap().count(), 2);
    }

    /// Everything that can be asked of the directory, each as its error.
    fn refusals(announcements: &Announcements) -> [AnnounceError; 5] {
        [
            announcements.put("a", &spec("a")).unwrap_err(),
            announcements.remove("a").unwrap_err(),
            announcements.get("a").unwrap_err(),
            announcements.list().unwrap_err(),
            announcements.version().unwrap_err(),
        ]
    }

    #[test]
    fn directories_that_others_can_write_are_refused() {
        let (dir, announcements) = announcements();
        announcements.put("a", &spec("a")).unwrap();
        for bad in [0o770, 0o707, 0o1777] {
            fs::set_permissions(announcements.dir(), fs::Permissions::from_mode(bad)).unwrap();
            for error in refusals(&announcements) {
                assert!(
                    matches!(error, AnnounceError::Mode { mode, .. } if mode == bad),
                    "{error}"
                );
            }
        }
        fs::set_permissions(announcements.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(announcements.list().unwrap().functions.len(), 1);

        let moved = dir.path().join("moved");
        fs::rename(announcements.dir(), &moved).unwrap();
        symlink(&moved, announcements.dir()).unwrap();
        for error in refusals(&announcements) {
            assert!(matches!(error, AnnounceError::NotDirectory(_)), "{error}");
        }
        fs::remove_file(announcements.dir()).unwrap();
        fs::write(announcements.dir(), "in the way").unwrap();
        for error in refusals(&announcements) {
            assert!(matches!(error, AnnounceError::NotDirectory(_)), "{error}");
        }
    }

    #[test]
    fn directories_of_other_users_are_refused() {
        let (_dir, announcements) = announcements();
        announcements.put("a", &spec("a")).unwrap();
        if let Err(error) = chown(announcements.dir(), Some(65534), None) {
            eprintln!("skipped: chown: {error}");
            return;
        }
        for error in refusals(&announcements) {
            assert!(
                matches!(error, AnnounceError::Owner { owner: 65534, .. }),
                "{error}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever the key, one file in the directory is all there is.
        #[test]
        fn no_key_leads_out_of_the_directory(key in "\\PC*|[a-z0-9./_-]{0,12}|[a-z]{190,260}|\\.\\./[a-z]{0,3}") {
            let (dir, announcements) = announcements();
            announcements.put("other", &spec("other")).unwrap();
            match announcements.put(&key, &spec("a")) {
                Ok(()) => {
                    prop_assert_eq!(announcements.get(&key).unwrap(), Some(spec("a")));
                    announcements.remove(&key).unwrap();
                }
                Err(AnnounceError::Key(_)) => {
                    prop_assert!(matches!(announcements.get(&key), Err(AnnounceError::Key(_))));
                    prop_assert!(matches!(announcements.remove(&key), Err(AnnounceError::Key(_))));
                }
                Err(error) => panic!("{error}"),
            }
            prop_assert!(fs::read_dir(announcements.dir()).unwrap().count() <= 1);
            prop_assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 1);
            prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
