//! The command line, which containerd uses: `start`, `delete`, and no word at all for the shim itself.

use std::env;
use std::process::ExitCode;

use containerd_shim::Flags;
use containerd_shimkit::Config;
use containerd_shimkit::sandbox::cli::{Version, shim_main};

use super::bundle::Bundle;
use super::error::ShimError;
use super::instance::Instance;
use super::{RUNTIME, remains};
use crate::exit;

/// Where containerd's shims find its event service.
const TTRPC_VARIABLE: &str = "TTRPC_ADDRESS";

/// Why the program cannot do what it was called for.
#[derive(Debug, thiserror::Error)]
enum CallError {
    /// {0}; containerd calls this program: name the runtime io.containerd.cwasi.v1 there
    #[error("{0}; containerd calls this program: name the runtime io.containerd.cwasi.v1 there")]
    Usage(String),
    /// {0}
    #[error(transparent)]
    Shim(#[from] ShimError),
}

/// Runs `containerd-shim-cwasi-v1` with this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    if let Err(error) = before() {
        eprintln!("containerd-shim-cwasi-v1: {error}");
        return ExitCode::from(match error {
            CallError::Usage(_) => exit::USAGE,
            CallError::Shim(_) => 1,
        });
    }
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        revision: option_env!("CWASI_REVISION").unwrap_or("unknown"),
    };
    shim_main::<Instance>(RUNTIME, version, Some(Config::default()));
    ExitCode::SUCCESS
}

/// What shimkit does not do, or not with a clear word.
fn before() -> Result<(), CallError> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let flags = containerd_shim::parse(&arguments).map_err(|error| CallError::Usage(error.to_string()))?;
    if flags.version || flags.info {
        return Ok(());
    }
    check(&flags, env::var_os(TTRPC_VARIABLE).is_some()).map_err(CallError::Usage)?;
    match flags.action.as_str() {
        "start" => drop(Bundle::load(&remains::bundle(&flags.bundle)?)?),
        // What cannot be removed must not keep containerd from hearing that the container is over.
        "delete" => {
            let removed = remains::bundle(&flags.bundle)
                .and_then(|bundle| remains::remove(&bundle, &flags.namespace, &flags.id));
            if let Err(error) = removed {
                eprintln!("containerd-shim-cwasi-v1: {}: {error}", flags.id);
            }
        }
        _ => {}
    }
    Ok(())
}

fn check(flags: &Flags, has_ttrpc_address: bool) -> Result<(), String> {
    if !["start", "delete", ""].contains(&flags.action.as_str()) {
        return Err(format!("{:?} is neither `start` nor `delete`", flags.action));
    }
    if flags.namespace.is_empty() {
        return Err("no containerd namespace (-namespace)".to_owned());
    }
    if flags.id.is_empty() {
        return Err("no container (-id)".to_owned());
    }
    if flags.address.is_empty() {
        return Err("no address of containerd (-address)".to_owned());
    }
    if !has_ttrpc_address {
        return Err(format!("no address of containerd's events ({TTRPC_VARIABLE})"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let whole = || Flags {
            namespace: "default".to_owned(),
            id: "a".to_owned(),
            address: "/run/containerd/containerd.sock".to_owned(),
            action: "start".to_owned(),
            ..Flags::default()
        };
        assert_eq!(check(&whole(), true), Ok(()));
        let wrong = |change: fn(&mut Flags), ttrpc| {
            let mut flags = whole();
            change(&mut flags);
            check(&flags, ttrpc).unwrap_err()
        };
        assert!(wrong(|flags| flags.action = "run".to_owned(), true).contains("\"run\""));
        assert!(wrong(|flags| flags.namespace.clear(), true).contains("-namespace"));
        assert!(wrong(|flags| flags.id.clear(), true).contains("-id"));
        assert!(wrong(|flags| flags.address.clear(), true).contains("-address"));
        assert!(wrong(|_| {}, false).contains("TTRPC_ADDRESS"));
    }
}
