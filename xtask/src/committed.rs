//! Generated files that are committed beside their sources, refreshed or compared byte by byte.

use crate::error::FileContext;
use crate::{Error, Result, paths};
use std::fs;
use std::path::Path;

/// Writes a generated file when its content changed, and says what happened.
///
/// # Errors
/// [`Error::File`] when it cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let shown = path.strip_prefix(paths::root()).unwrap_or(path).display();
    if fs::read(path).is_ok_and(|old| old == bytes) {
        println!("{shown}: unchanged, {} bytes", bytes.len());
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).file("create", parent)?;
    }
    fs::write(path, bytes).file("write", path)?;
    println!("{shown}: written, {} bytes", bytes.len());
    Ok(())
}

/// Compares a rebuilt file with the committed one.
///
/// # Errors
/// [`Error::Stale`] when they differ, [`Error::File`] when the committed one cannot be read.
pub fn check(path: &Path, rebuilt: &[u8], command: &'static str) -> Result<()> {
    let committed = fs::read(paths::root().join(path)).file("read", path)?;
    match difference(&committed, rebuilt) {
        None => {
            println!(
                "{}: identical to a rebuild, {} bytes",
                path.display(),
                rebuilt.len()
            );
            Ok(())
        }
        Some(detail) => Err(Error::Stale {
            path: path.to_owned(),
            detail,
            command,
        }),
    }
}

fn difference(committed: &[u8], rebuilt: &[u8]) -> Option<String> {
    if committed == rebuilt {
        return None;
    }
    let same = committed.iter().zip(rebuilt).take_while(|(a, b)| a == b).count();
    Some(format!(
        "{} bytes committed, {} rebuilt, first difference at byte {same}",
        committed.len(),
        rebuilt.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn differences_are_located() {
        assert_eq!(difference(b"abc", b"abc"), None);
        assert!(difference(b"abc", b"abd").unwrap().contains("byte 2"));
        assert!(
            difference(b"abc", b"abcd")
                .unwrap()
                .contains("3 bytes committed, 4 rebuilt")
        );
    }
}
