//! Compiled components on disk, so that a measured start compiles nothing.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::Error;

/// A directory of compiled components. What is in it is machine code that will be run: it must be the caller's own.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Uses a directory, which is made when it does not exist.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be made.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The component of the bytes of a .wasm file: as it was compiled before, or else compiled now and kept.
    ///
    /// # Errors
    /// [`Error::Engine`] for what is no component; [`Error::File`] when the result cannot be kept.
    pub fn component(&self, engine: &Engine, wasm: &[u8]) -> Result<Component, Error> {
        let path = self.dir.join(name(engine, wasm));
        if path.is_file() {
            // SAFETY: only `store` below writes files of this name, from what this engine compiled; the directory is the
            // caller's own.
            return Ok(unsafe { Component::deserialize_file(engine, &path) }?);
        }
        let component = Component::from_binary(engine, wasm)?;
        self.store(&path, &component.serialize()?)?;
        Ok(component)
    }

    /// Others see the whole file or none.
    fn store(&self, path: &Path, object: &[u8]) -> Result<(), Error> {
        let written = NamedTempFile::new_in(&self.dir).and_then(|mut file| {
            file.write_all(object)?;
            file.persist(path).map_err(|error| error.error)
        });
        written.map(drop).map_err(failed("write", path))
    }
}

/// Tells the component and the engine's version and settings.
fn name(engine: &Engine, wasm: &[u8]) -> String {
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    let digest = Sha256::digest(wasm);
    let content: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{content}-{:016x}.cwasm", settings.finish())
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { call, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine;

    #[test]
    fn a_component_is_compiled_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("new")).unwrap();
        let engine = engine().unwrap();
        let files = || fs::read_dir(&cache.dir).unwrap().count();
        let wasm = wat::parse_str("(component)").unwrap();
        cache.component(&engine, &wasm).unwrap();
        assert_eq!(files(), 1);
        // What is there is what is used: a file of other bytes is refused by the engine instead of compiled again.
        cache.component(&engine, &wasm).unwrap();
        fs::write(cache.dir.join(name(&engine, &wasm)), b"other").unwrap();
        assert!(matches!(cache.component(&engine, &wasm), Err(Error::Engine(_))));
        assert!(matches!(
            cache.component(&engine, b"no component"),
            Err(Error::Engine(_))
        ));
        assert_eq!(files(), 1);
    }
}
