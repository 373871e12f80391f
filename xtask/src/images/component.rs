//! What an image says of the Wasm in it.

use crate::{Error, Result};
use wasmparser::{Encoding, Parser, Payload};

/// The version of WASI, as an OCI platform's `os`: components are 0.2, core modules are preview 1.
pub(super) fn wasi_version(wasm: &[u8]) -> &'static str {
    if Parser::is_component(wasm) {
        "wasip2"
    } else {
        "wasip1"
    }
}

/// The names that a component imports and exports, in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct World {
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
}

impl World {
    /// Reads the outermost component; those inside of it are its own business.
    pub(super) fn of(component: &[u8]) -> Result<Self> {
        let mut world = Self::default();
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(component) {
            match payload.map_err(invalid)? {
                Payload::Version {
                    encoding: Encoding::Module | Encoding::Component,
                    ..
                } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        world.imports.push(import.map_err(invalid)?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        world.exports.push(export.map_err(invalid)?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(world)
    }
}

fn invalid(error: wasmparser::BinaryReaderError) -> Error {
    Error::Wasm(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths;

    #[test]
    fn worlds_are_of_the_outermost_component() {
        let echo = std::fs::read(paths::root().join("bench/functions/prebuilt/echo.wasm")).unwrap();
        let world = World::of(&echo).unwrap();
        let has = |names: &[String], prefix: &str| names.iter().any(|name| name.starts_with(prefix));
        assert!(has(&world.exports, "wasi:cli/run@0.2."), "{world:?}");
        assert_eq!(world.exports.len(), 1, "{world:?}");
        assert!(has(&world.imports, "wasi:sockets/tcp@0.2."), "{world:?}");
        assert!(
            world.imports.iter().all(|name| name.starts_with("wasi:")),
            "{world:?}"
        );
        assert_eq!(wasi_version(&echo), "wasip2");
    }

    #[test]
    fn core_modules_are_preview_1() {
        assert_eq!(wasi_version(b"\0asm\x01\0\0\0"), "wasip1");
        assert!(World::of(b"\x7fELF").is_err());
    }
}
