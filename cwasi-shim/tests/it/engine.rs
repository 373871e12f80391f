//! The engine with and without a cache.

use std::fs;
use std::io::{Read, Seek};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cwasi_shim::cache::{Cache, CacheError};
use cwasi_shim::code::Code;
use cwasi_shim::engine::{CacheFailure, Engine, LoadError, Origin};
use sha2::{Digest, Sha256};

use crate::guests;

fn only_entry(dir: &Path) -> PathBuf {
    let entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.into_iter().next().unwrap()
}

fn content(code: Code) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = code.into_file();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn load(cache: Option<&Cache>, wasm: &[u8]) -> Origin {
    Engine::new().unwrap().load(wasm, cache).unwrap().origin
}

fn compiled_cleanly(origin: &Origin) -> bool {
    matches!(origin, Origin::Compiled { stored: true, cache_errors } if cache_errors.is_empty())
}

#[test]
fn second_load_compiles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    let wasm = guests::exits(3);
    assert!(compiled_cleanly(&load(Some(&cache), &wasm)));
    assert!(matches!(load(Some(&cache), &wasm), Origin::Cache));
    assert!(
        compiled_cleanly(&load(Some(&cache), &guests::exits(4))),
        "another component is another entry"
    );
    assert!(matches!(
        load(None, &wasm),
        Origin::Compiled { stored: false, .. }
    ));
}

#[test]
fn changed_code_is_compiled_anew() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    let wasm = guests::exits(3);
    load(Some(&cache), &wasm);
    let entry = only_entry(&dir.path().join("cache"));
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&entry)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4096).unwrap();
    file.write_all_at(&[!byte[0]], 4096).unwrap();
    match load(Some(&cache), &wasm) {
        Origin::Compiled {
            stored: true,
            cache_errors,
        } => {
            assert!(
                matches!(
                    cache_errors.as_slice(),
                    [CacheFailure::Cache(CacheError::Foreign { .. })]
                ),
                "{cache_errors:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(
        matches!(load(Some(&cache), &wasm), Origin::Cache),
        "the entry is whole again"
    );
}

#[test]
fn code_that_the_engine_refuses_is_compiled_anew() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    let wasm = guests::exits(3);
    load(Some(&cache), &wasm);
    let entry = only_entry(&dir.path().join("cache"));
    // An entry with the right name and digest whose code is not whole, as another build of the engine may have written it.
    let name = entry
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .strip_suffix(".cwasm")
        .unwrap();
    let key = (0..32)
        .map(|at| u8::from_str_radix(&name[2 * at..2 * at + 2], 16).unwrap())
        .collect::<Vec<_>>();
    let mut bytes = b"\x7fELF".to_vec();
    let digest = Sha256::new().chain_update(&key).chain_update(&bytes).finalize();
    bytes.extend_from_slice(&digest);
    bytes.extend_from_slice(b"cwasi\0\0\x01");
    fs::write(&entry, bytes).unwrap();
    match load(Some(&cache), &wasm) {
        Origin::Compiled {
            stored: true,
            cache_errors,
        } => {
            assert!(
                matches!(cache_errors.as_slice(), [CacheFailure::Code(_)]),
                "{cache_errors:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(load(Some(&cache), &wasm), Origin::Cache));
}

#[test]
fn cache_that_cannot_be_written_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    fs::remove_dir(dir.path().join("cache")).unwrap();
    match load(Some(&cache), &guests::exits(3)) {
        Origin::Compiled {
            stored: false,
            cache_errors,
        } => {
            assert!(
                matches!(
                    cache_errors.as_slice(),
                    [CacheFailure::Cache(CacheError::Io { .. })]
                ),
                "{cache_errors:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn entries_are_never_writable() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    load(Some(&cache), &guests::exits(3));
    assert_eq!(
        fs::metadata(only_entry(&dir.path().join("cache")))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o444
    );
}

#[test]
fn what_cannot_run_is_told_apart() {
    let engine = Engine::new().unwrap();
    let error = |wasm: &[u8]| engine.load(wasm, None).unwrap_err();
    let not_wasm = |bytes: &[u8]| match error(bytes) {
        LoadError::NotWasm(what) => what,
        other => panic!("{other}"),
    };
    assert!(not_wasm(b"").contains("empty"));
    assert!(not_wasm(b"\x7fELF\x02\x01\x01").contains("ELF"));
    assert!(not_wasm(b"#!/bin/sh\n").contains("script"));
    assert!(not_wasm(b"(module)").contains("does not begin"));
    let whole = guests::exits(3);
    let machine_code = content(engine.prepare(&whole, None).unwrap().code);
    assert!(not_wasm(&machine_code).contains("machine code of a Wasm engine"));
    assert!(matches!(error(b"\0asm"), LoadError::Invalid(_)));
    assert!(matches!(error(&whole[..whole.len() / 2]), LoadError::Invalid(_)));
    assert!(matches!(error(&guests::module("")), LoadError::NoStart));
    let with_arguments = guests::module("(func (export \"_start\") (param i32))");
    assert!(matches!(error(&with_arguments), LoadError::NoStart));
    assert!(matches!(error(&guests::library()), LoadError::NotCommand));
    for (wasm, name) in [
        (guests::wants_a_stranger(), "host:extra/clock"),
        (guests::module_that_wants_a_stranger(), "host:extra"),
    ] {
        let missing = error(&wasm);
        assert!(
            matches!(&missing, LoadError::MissingImport(what) if what.contains(name)),
            "{missing}"
        );
    }
}
