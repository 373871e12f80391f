//! Which file gets the handler: containerd's configuration itself, or a file of our own that it imports.

use std::path::{Path, PathBuf};

use crate::config::{self, Config, ConfigError, Handler};
use crate::containerd::Containerd;
use crate::node::Node;
use crate::{Error, Result};

/// What the drop-in is called.
const DROP_IN: &str = "cwasi.toml";

/// A file to be changed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The file on the node.
    pub path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// The configuration, or, where there is none, a new one of this version.
    Main { version: i64 },
    /// Imported by a configuration of this version.
    DropIn { version: i64 },
}

impl Target {
    /// Chooses it. containerd 1.x replaces whole plugins by those of an imported file (containerd issue 5837), so that a drop-in
    /// would lose the rest of the CRI's configuration; from 2.0 on it merges them, and versions 3 and 4 are read by no older one.
    ///
    /// # Errors
    /// [`Error::Refused`] when the configuration cannot have a handler.
    pub fn choose(node: &Node) -> Result<Self> {
        let path = &node.config;
        let found = node.host.read(path)?;
        let is_there = found.is_some();
        let text = match found {
            Some(found) => text(path, found.bytes)?,
            // containerd then has its built-in one.
            None => Containerd::find(node)
                .ok_or_else(|| {
                    Error::refused(
                        path,
                        "there is no such file, and no containerd that tells its default; see --config and --containerd",
                    )
                })?
                .default_config(node)?,
        };
        let config = Config::parse(&text).map_err(|error| refused(path, &error))?;
        let version = config.version();
        let imports = if version >= 3 {
            config.imports()
        } else {
            Vec::new()
        };
        let directory = imports.iter().find_map(|pattern| pattern.strip_suffix("/*.toml"));
        if let Some(directory) = directory {
            let parent = path.parent().unwrap_or(Path::new("/"));
            return Ok(Self {
                path: parent.join(directory).join(DROP_IN),
                kind: Kind::DropIn { version },
            });
        }
        if is_there && is_generated(&text) {
            return Err(Error::refused(
                path,
                "it is generated at every start, and imports no other files; use a k3s or RKE2 that does (containerd 2), or add the \
                 handler to its template",
            ));
        }
        Ok(Self {
            path: path.clone(),
            kind: Kind::Main { version },
        })
    }

    /// Whether it is a file that nobody else has a use for.
    #[must_use]
    pub fn is_drop_in(&self) -> bool {
        matches!(self.kind, Kind::DropIn { .. })
    }

    /// The file with the handler, made of the file without it.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn with(&self, base: Option<&[u8]>, handler: &Handler) -> Result<Vec<u8>> {
        let made = match (&self.kind, base) {
            (Kind::Main { .. }, Some(base)) => {
                let text = text(&self.path, base.to_vec())?;
                Config::parse(&text).and_then(|config| config.with(handler))
            }
            (Kind::Main { version }, None) => config::alone(*version, handler),
            (Kind::DropIn { version }, None) => config::drop_in(*version, handler),
            (Kind::DropIn { .. }, Some(_)) => {
                return Err(Error::refused(
                    &self.path,
                    "there is a file of this name that this program did not make; remove it",
                ));
            }
        };
        made.map(String::into_bytes)
            .map_err(|error| refused(&self.path, &error))
    }
}

/// The file's bytes as text.
///
/// # Errors
/// [`Error::Refused`]: TOML is UTF-8.
pub fn text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::refused(path, "not TOML: not UTF-8"))
}

pub(crate) fn refused(path: &Path, error: &ConfigError) -> Error {
    Error::refused(path, error.to_string())
}

/// Whether k3s, RKE2 or a like program writes the file anew at each start.
fn is_generated(text: &str) -> bool {
    let comments = text
        .lines()
        .take_while(|line| line.starts_with('#') || line.trim().is_empty());
    comments.into_iter().any(|line| line.contains("DO NOT EDIT"))
}
