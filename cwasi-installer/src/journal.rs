//! What was done to the node, and how it was before: written beside containerd's configuration before anything is changed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{self, Config, Handler};
use crate::host::{Attributes, Found, sha256};
use crate::node::Node;
use crate::target::{refused, text};
use crate::{Error, Result};

/// Layout of the file.
const FORMAT: u32 = 1;

/// What is known of an installation, complete or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    /// Version of the installer.
    pub version: String,
    /// Name of the handler.
    pub handler: String,
    /// The shim that the handler names.
    pub shim: PathBuf,
    /// The file that has the handler.
    pub target: PathBuf,
    /// That file before; `None` when there was none.
    pub original: Option<Backup>,
    /// Digest of that file with the handler.
    pub written: String,
    /// Files that were added, or are about to be.
    pub files: Vec<PathBuf>,
    /// Directories that were made for them, outermost first.
    pub directories: Vec<PathBuf>,
    /// containerd may run with an older configuration than the one on disk.
    pub restart_due: bool,
}

/// A copy of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its digest.
    pub sha256: String,
    /// Its name, beside containerd's configuration.
    pub name: String,
}

/// The target without the handler.
#[derive(Debug, PartialEq, Eq)]
pub struct Base {
    /// Its bytes; `None` when there shall be no such file.
    pub bytes: Option<Vec<u8>>,
    /// Somebody else changed the file since it got the handler: it is not what it was before, but what they made of it.
    pub edited: bool,
}

impl Journal {
    /// A journal of what is to be done.
    #[must_use]
    pub fn new(handler: &Handler, target: &Path) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            handler: handler.name.clone(),
            shim: handler.shim.clone(),
            target: target.to_owned(),
            original: None,
            written: String::new(),
            files: Vec::new(),
            directories: Vec::new(),
            restart_due: false,
        }
    }

    fn path(node: &Node) -> PathBuf {
        beside(node, ".cwasi-state.json")
    }

    /// The node's, `None` when nothing is installed.
    ///
    /// # Errors
    /// It cannot be read, or is of another format.
    pub fn read(node: &Node) -> Result<Option<Self>> {
        let path = Self::path(node);
        let Some(found) = node.host.read(&path)? else {
            return Ok(None);
        };
        match serde_json::from_slice::<Self>(&found.bytes) {
            Ok(journal) if journal.format == FORMAT => Ok(Some(journal)),
            Ok(journal) => Err(Error::refused(
                &path,
                format!(
                    "format {} is not this program's; use the version {}",
                    journal.format, journal.version
                ),
            )),
            Err(error) => Err(Error::refused(
                &path,
                format!("it cannot be understood ({error}); remove it, then uninstall"),
            )),
        }
    }

    /// Writes it down.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, node: &Node) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("strings and numbers");
        bytes.push(b'\n');
        node.host
            .write(&Self::path(node), &bytes, Attributes::Mode(0o600))
    }

    /// Removes it with the backups: nothing is installed any more.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(node: &Node) -> Result<()> {
        // Without the backups it still tells what is installed; they would tell nothing without it.
        Self::remove_backups(node, None)?;
        node.host.remove(&Self::path(node))
    }

    /// Removes the backups that the journal does not name.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn remove_backups(node: &Node, journal: Option<&Self>) -> Result<()> {
        let kept = journal.and_then(|journal| journal.original.as_ref());
        let prefix = beside(node, BACKUP);
        let prefix = prefix.file_name().unwrap_or_default().to_string_lossy();
        for name in node.host.names(node.directory())? {
            if name.starts_with(&*prefix) && kept.is_none_or(|kept| kept.name != name) {
                node.host.remove(&node.directory().join(name))?;
            }
        }
        Ok(())
    }

    /// Copies the bytes of the target, so that they can be restored.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn back_up(&mut self, node: &Node, original: Option<&[u8]>) -> Result<()> {
        self.original = None;
        if let Some(bytes) = original {
            let sha256 = sha256(bytes);
            let path = beside(node, &format!("{BACKUP}{}", &sha256[..12]));
            node.host.write(&path, bytes, Attributes::Mode(0o600))?;
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            self.original = Some(Backup { sha256, name });
        }
        Ok(())
    }

    /// Directories in which a killed run may have left something half written.
    pub(crate) fn swept(&self) -> impl Iterator<Item = &Path> {
        let files = self.files.iter().chain([&self.target]);
        files.filter_map(|file| file.parent())
    }

    /// The target without the handler: as it was before where nobody else changed it, else without what was added.
    ///
    /// # Errors
    /// [`Error::Refused`] when it was changed so that the handler cannot be found in it.
    pub fn base(&self, node: &Node, current: Option<&Found>) -> Result<Base> {
        let plain = |bytes: Option<&[u8]>, edited| Base {
            bytes: bytes.map(<[u8]>::to_vec),
            edited,
        };
        let original = self.original.as_ref();
        let Some(current) = current else {
            return Ok(plain(None, original.is_some()));
        };
        let now = sha256(&current.bytes);
        if original.is_some_and(|original| original.sha256 == now) {
            return Ok(plain(Some(&current.bytes), false));
        }
        if now == self.written {
            let Some(original) = original else {
                return Ok(plain(None, false));
            };
            let backup = node.host.read(&node.directory().join(&original.name))?;
            if let Some(backup) = backup.filter(|backup| sha256(&backup.bytes) == original.sha256) {
                return Ok(plain(Some(&backup.bytes), false));
            }
            tracing::warn!(
                "the backup {} is lost or damaged; the handler is cut out instead",
                original.name
            );
        }
        let left = cut(&self.target, current, &self.shim, original.is_none())?;
        Ok(Base {
            bytes: left.unwrap_or_else(|| Some(current.bytes.clone())),
            edited: true,
        })
    }
}

/// A file without the handlers of a shim, `None` when it has none of them. Where it is all of ours, what is then empty is no file any more.
///
/// # Errors
/// [`Error::Refused`] when it cannot be read as a configuration.
pub fn cut(path: &Path, found: &Found, shim: &Path, is_ours: bool) -> Result<Option<Option<Vec<u8>>>> {
    let text = text(path, found.bytes.clone())?;
    let left = config::without(&text, shim).map_err(|error| refused(path, &error))?;
    Ok(left.map(|left| {
        let is_empty = is_ours && Config::parse(&left).is_ok_and(|config| config.is_empty());
        (!is_empty).then(|| left.into_bytes())
    }))
}

const BACKUP: &str = ".cwasi-backup-";

/// A file beside containerd's configuration, named after it.
fn beside(node: &Node, suffix: &str) -> PathBuf {
    let mut name = node.config.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    node.directory().join(name)
}
