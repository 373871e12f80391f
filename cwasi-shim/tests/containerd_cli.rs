//! What `containerd-shim-cwasi-v1` says to those who call it as containerd does not.

use std::path::Path;
use std::process::{Command, Output};

fn shim(dir: &Path, arguments: &[&str], ttrpc: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_containerd-shim-cwasi-v1"));
    command
        .args(arguments)
        .current_dir(dir)
        .env_remove("TTRPC_ADDRESS");
    if ttrpc {
        command.env("TTRPC_ADDRESS", "/no/such/containerd.sock.ttrpc");
    }
    command.output().unwrap()
}

/// The one line of an error.
fn error(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    text
}

const CALL: [&str; 6] = [
    "-namespace",
    "n",
    "-id",
    "i",
    "-address",
    "/no/such/containerd.sock",
];

#[test]
fn the_version_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let output = shim(dir.path(), &["-v"], false);
    assert!(output.status.success());
    let expected = format!("containerd-shim-cwasi-v1 {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn missing_addresses_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let start = [&CALL[..], &["start"]].concat();
    assert!(error(&shim(dir.path(), &start, false)).contains("TTRPC_ADDRESS"));
    let without_address = [&CALL[..4], &["start"]].concat();
    let output = shim(dir.path(), &without_address, true);
    assert!(error(&output).contains("no address of containerd (-address)"));
    assert_eq!(output.status.code(), Some(2));
    assert!(error(&shim(dir.path(), &[], true)).contains("io.containerd.cwasi.v1"));
    assert!(error(&shim(dir.path(), &["-nonsense"], true)).contains("nonsense"));
}

#[test]
fn a_broken_bundle_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let start = [&CALL[..], &["start"]].concat();
    let missing = error(&shim(dir.path(), &start, true));
    assert!(
        missing.contains(&dir.path().display().to_string()) && missing.contains("config.json"),
        "{missing}"
    );
    std::fs::write(dir.path().join("config.json"), "{").unwrap();
    let broken = error(&shim(dir.path(), &start, true));
    assert!(broken.contains("cannot be used"), "{broken}");
    let serve = error(&shim(dir.path(), &CALL, true));
    assert!(serve.contains("no log that containerd reads"), "{serve}");
}
