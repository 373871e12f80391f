//! The engine with and without a cache.

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cwasi_shim::cache::{Cache, CacheError};
use cwasi_shim::code::Code;
use cwasi_shim::engine::{CacheFailure, Engine, LoadError, Origin};
use cwasi_shim::guest::{Guest, GuestConfig};
use cwasi_shim::http::DEFAULT_ADDRESS;
use cwasi_shim::network::{NetworkPolicy, Refusals};
use cwasi_shim::program::Program;
use cwasi_shim::stdio::Stdio;
use sha2::{Digest, Sha256};

use crate::functions::prebuilt;
use crate::guests;
use crate::runner::cached;

fn only_entry(dir: &Path) -> PathBuf {
    let entries = cached(dir);
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

fn may_mount() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.unwrap().trim(), 16).unwrap();
    effective & (1 << CAP_SYS_ADMIN) != 0
}

fn config() -> GuestConfig {
    GuestConfig {
        name: "guest".to_owned(),
        local: None,
        alone: true,
        args: Vec::new(),
        env: Vec::new(),
        stdio: Stdio::default(),
        preopens: Vec::new(),
        cwd: None,
        http: DEFAULT_ADDRESS,
        network: NetworkPolicy::unrestricted(),
        refusals: Refusals::new(|_| ()),
        memory_limit: None,
    }
}

fn ends_with(program: &Program, config: &GuestConfig) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(Guest::new(program, config).unwrap().run())
        .unwrap()
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

/// As the pods of a node do that are started at once from a new image.
#[test]
fn many_that_start_at_once_compile_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let wasm = guests::exits(3);
    let start = std::sync::Barrier::new(8);
    let compiled = std::thread::scope(|scope| {
        // Each as a process of its own would: with an engine and a view of the directory of its own.
        let starting: Vec<_> = (0..8)
            .map(|number| {
                let (cache, wasm, start) = (&cache, &wasm, &start);
                scope.spawn(move || {
                    let (engine, cache) = (Engine::new().unwrap(), Cache::open(cache).unwrap());
                    start.wait();
                    let origin = match number % 2 {
                        0 => engine.load(wasm, Some(&cache)).unwrap().origin,
                        _ => engine.prepare(wasm, Some(&cache)).unwrap().origin,
                    };
                    !matches!(origin, Origin::Cache)
                })
            })
            .collect();
        let origins = starting.into_iter().map(|thread| thread.join().unwrap());
        origins.filter(|compiled| *compiled).count()
    });
    assert_eq!(compiled, 1);
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
fn prepared_code_is_the_entry_that_all_share() {
    if !may_mount() {
        eprintln!("skipped: an entry is handed out on a read-only mount, which needs CAP_SYS_ADMIN");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let cache = Cache::open(&path).unwrap();
    let engine = Engine::new().unwrap();
    let wasm = guests::exits(3);
    let first = engine.prepare(&wasm, Some(&cache)).unwrap();
    assert!(compiled_cleanly(&first.origin));
    let second = engine.prepare(&wasm, Some(&cache)).unwrap();
    assert!(matches!(second.origin, Origin::Cache));
    let inode = |code: Code| code.into_file().metadata().unwrap().ino();
    let entry = fs::metadata(only_entry(&path)).unwrap().ino();
    assert_eq!([inode(first.code), inode(second.code)], [entry; 2]);
}

#[test]
fn without_a_cache_prepared_code_is_in_memory() {
    let engine = Engine::new().unwrap();
    let prepared = engine.prepare(&guests::exits(3), None).unwrap();
    assert!(matches!(
        &prepared.origin,
        Origin::Compiled { stored: false, cache_errors } if cache_errors.is_empty()
    ));
    assert!(matches!(engine.link(&prepared.code), Ok(Program::Command(_))));
    let mut file = prepared.code.into_file();
    file.write_all(b"x").unwrap_err();
    // SAFETY: the file is what the engine has just prepared.
    let code = unsafe { Code::from_file(file) };
    assert_eq!(ends_with(&engine.link(&code).unwrap(), &config()), 3);
}

#[test]
fn what_cannot_run_is_told_before_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let cache = Cache::open(&path).unwrap();
    let engine = Engine::new().unwrap();
    for wasm in [
        guests::library(),
        guests::wants_a_stranger(),
        guests::module(""),
        guests::module_that_wants_a_stranger(),
    ] {
        engine.prepare(&wasm, Some(&cache)).unwrap_err();
        engine.load(&wasm, Some(&cache)).unwrap_err();
    }
    assert_eq!(cached(&path), [] as [PathBuf; 0]);
}

#[test]
fn what_is_no_machine_code_is_not_linked() {
    let engine = Engine::new().unwrap();
    for bytes in [&b""[..], b"hello", b"\x7fELF", &guests::exits(3)] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        // SAFETY: it is no machine code, and the engine does not take it for that.
        let code = unsafe { Code::from_file(file) };
        assert!(matches!(engine.link(&code), Err(LoadError::Code(_))), "{bytes:?}");
    }
}

#[test]
fn programs_are_told_apart() {
    let engine = Engine::new().unwrap();
    let program = |wasm: &[u8]| engine.load(wasm, None).unwrap().program;
    assert!(matches!(program(&guests::exits(0)), Program::Command(_)));
    assert!(matches!(program(&prebuilt("http")), Program::Proxy(_)));
    assert!(matches!(program(&prebuilt("inspect-p1")), Program::Module(_)));
    let client = program(&guests::uses_http());
    assert!(matches!(client, Program::Command(_)));
    assert_eq!(ends_with(&client, &config()), 0, "commands have HTTP, too");
    assert!(program(&guests::module_that_accepts()).imports_sockets());
    assert!(!program(&guests::module(r#"(func (export "_start"))"#)).imports_sockets());
    assert!(!program(&guests::connects(1, 1)).imports_sockets());
}

#[cfg(feature = "p3")]
#[test]
fn components_of_wasi_03_are_prepared_and_cached_too() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    let wasm = prebuilt("echo-p3");
    let config = GuestConfig {
        args: ["app", "exit", "3"].map(str::to_owned).to_vec(),
        ..config()
    };
    // Whoever links does not know the program, only its code.
    let other = Engine::shared().unwrap();
    for engine in [Engine::new().unwrap(), Engine::shared().unwrap()] {
        let first = engine.prepare(&wasm, Some(&cache)).unwrap();
        assert!(compiled_cleanly(&first.origin));
        let second = engine.prepare(&wasm, Some(&cache)).unwrap();
        assert!(matches!(second.origin, Origin::Cache));
        let program = other.link(&second.code).unwrap();
        assert!(matches!(program, Program::ConcurrentCommand(_)));
        assert_eq!(ends_with(&program, &config), 3);
    }
}

#[test]
fn a_working_directory_is_told() {
    let program = Engine::new()
        .unwrap()
        .load(&guests::measures_what_it_is_given(), None)
        .unwrap()
        .program;
    assert_eq!(ends_with(&program, &config()), 0);
    let cwd = GuestConfig {
        cwd: Some("/srv/app".to_owned()),
        ..config()
    };
    let variables = |variables: u8| 16 * variables;
    assert_eq!(ends_with(&program, &cwd), 8 + variables(1), "and PWD is set");
    let own = GuestConfig {
        env: vec![("PWD".to_owned(), "/".to_owned())],
        ..cwd
    };
    assert_eq!(ends_with(&program, &own), 8 + variables(1), "PWD was set already");
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
