//! xtask as cargo's `RUSTC_WRAPPER`: gives every crate an identity that does not depend on where it lies.
//!
//! cargo hashes the absolute paths of the standard library's source, of path dependencies and of flags into
//! `-C metadata`. rustc hashes that into every symbol's name, names decide the order of functions, and so the same
//! sources gave other bytes in another directory. Remapping path prefixes does not reach it.

use crate::error::FileContext;
use crate::{Error, Result, digest};
use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Set, it makes xtask act as the wrapper.
const VARIABLE: &str = "CWASI_RUSTC_WRAPPER";

/// Makes a cargo command use this program as its rustc wrapper.
///
/// # Errors
/// [`Error::File`] when this program's path cannot be read.
pub fn apply(cargo: &mut Command) -> Result<()> {
    let program = env::current_exe().file("find", "the path of this program")?;
    cargo.env("RUSTC_WRAPPER", program).env(VARIABLE, "1");
    Ok(())
}

/// Whether this process was started as the wrapper.
#[must_use]
pub fn is_asked() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Becomes the compiler that the first argument names, and returns only when that fails.
pub fn exec() -> Error {
    let mut arguments = env::args_os().skip(1);
    let program = arguments.next().unwrap_or_default();
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let source = Command::new(&program)
        .args(stable(arguments.collect(), &version))
        .exec();
    Error::Spawn {
        program: program.to_string_lossy().into_owned(),
        remedy: "",
        source,
    }
}

/// Replaces cargo's `-C metadata=…` by one of the crate's name, version and features. Crates for the host (build
/// scripts, procedural macros) leave nothing in the output and stay as they are.
fn stable(mut arguments: Vec<OsString>, version: &str) -> Vec<OsString> {
    let text: Vec<&str> = arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .collect();
    if !text.contains(&"--target") {
        return arguments;
    }
    let values = |option: &'static str| {
        text.windows(2)
            .filter_map(move |pair| (pair[0] == option).then_some(pair[1]))
    };
    let mut identity: Vec<&str> = values("--crate-name").chain([version]).collect();
    identity.extend(values("--cfg").filter(|cfg| cfg.starts_with("feature=")));
    let metadata = format!(
        "metadata={}",
        &digest::sha256(identity.join("\n").as_bytes())[..16]
    );
    for argument in &mut arguments {
        if argument
            .to_str()
            .is_some_and(|argument| argument.starts_with("metadata="))
        {
            *argument = metadata.clone().into();
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::stable;
    use std::ffi::OsString;

    fn metadata(arguments: &str, version: &str) -> String {
        let arguments = arguments.split(' ').map(OsString::from).collect();
        let replaced = stable(arguments, version).into_iter();
        replaced
            .map(|argument| argument.into_string().unwrap())
            .find(|argument| argument.starts_with("metadata="))
            .unwrap()
    }

    #[test]
    fn metadata_depends_on_the_crate_and_not_on_cargo() {
        let of = |name: &str, feature: &str, given: &str, version: &str| {
            let arguments =
                format!("--crate-name {name} --cfg feature=\"{feature}\" --target wasm -C metadata={given}");
            metadata(&arguments, version)
        };
        let core = of("core", "a", "1111", "0.0.0");
        assert_eq!(core, of("core", "a", "2222", "0.0.0"));
        for other in [
            of("std", "a", "1111", "0.0.0"),
            of("core", "b", "1111", "0.0.0"),
            of("core", "a", "1111", "1.0.0"),
        ] {
            assert_ne!(core, other);
        }
    }

    #[test]
    fn crates_of_the_host_are_left_alone() {
        assert_eq!(
            metadata("--crate-name build_script -C metadata=1111", "1.0.0"),
            "metadata=1111"
        );
    }
}
