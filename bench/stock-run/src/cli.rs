//! The command line of `cwasi-stock-run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use cwasi_client::netns;
use wasmtime::component::Component;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};

use crate::{Cache, Error, guest};

/// Run a component of WASI 0.2 on wasmtime-wasi's own host, with wasmtime's defaults: what cwasi-run is measured against.
///
/// The guest has this process's standard streams and network, no directories and no variables. Its exit code is passed on;
/// whatever keeps it from running, and a trap, is told on stderr and ends with 1.
#[derive(Debug, Parser)]
#[command(name = "cwasi-stock-run", version)]
struct Args {
    /// Network namespace to open sockets in: a name of `ip netns`, or a path
    #[arg(long, value_name = "NAME|PATH")]
    netns: Option<String>,

    /// Directory of compiled components, of this user alone: what is in it is run. Without it, each start compiles
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// The component, and the guest's arguments
    // One list, so that every flag after the file is the guest's.
    #[arg(required = true, trailing_var_arg = true, value_names = ["APP.WASM", "ARGS"])]
    command: Vec<String>,
}

/// Runs the program of this process's command line.
#[must_use]
pub fn main() -> ExitCode {
    match run(&Args::parse()) {
        // A process's exit code has 8 bits, as a shell would cut it.
        Ok(code) => ExitCode::from(code.to_le_bytes()[0]),
        Err(error) => {
            eprintln!("cwasi-stock-run: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<i32, Error> {
    let path = Path::new(&args.command[0]);
    let wasm = fs::read(path).map_err(|source| Error::File {
        call: "read",
        path: path.to_owned(),
        source,
    })?;
    let engine = guest::engine()?;
    let component = match &args.cache_dir {
        Some(dir) => Cache::open(dir)?.component(&engine, &wasm)?,
        None => Component::from_binary(&engine, &wasm)?,
    };
    if let Some(name) = &args.netns {
        // Before the runtime starts its threads: each is where its parent was.
        netns::enter(&netns::resolve(name)?)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(Error::Runtime)?;
    Ok(runtime.block_on(guest::run(&engine, &component, wasi(args)))?)
}

fn wasi(args: &Args) -> WasiCtx {
    WasiCtxBuilder::new()
        .args(&args.command)
        .inherit_stdio()
        .inherit_network()
        .allow_tcp(true)
        .allow_udp(true)
        .allow_ip_name_lookup(true)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_after_the_file_are_the_guests() {
        <Args as clap::CommandFactory>::command().debug_assert();
        let args = Args::try_parse_from(["x", "--netns", "pod", "echo.wasm", "--cache-dir", "y"]).unwrap();
        assert_eq!(args.netns.as_deref(), Some("pod"));
        assert_eq!(args.cache_dir, None);
        assert_eq!(args.command, ["echo.wasm", "--cache-dir", "y"]);
        assert!(Args::try_parse_from(["x"]).is_err());
    }
}
