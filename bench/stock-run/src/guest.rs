//! One component, from its start to its exit code.

use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, Result, Store};
use wasmtime_wasi::p2::bindings::Command;
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

/// The host's side of a guest.
struct State {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// The engine as it is without settings.
///
/// # Errors
/// This machine cannot run it.
pub fn engine() -> Result<Engine> {
    Engine::new(&Config::new())
}

/// Runs a command component and returns its exit code.
///
/// # Errors
/// It is no command, needs what this host does not have, or traps.
pub async fn run(engine: &Engine, component: &Component, wasi: WasiCtx) -> Result<i32> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    let state = State {
        wasi,
        table: ResourceTable::new(),
    };
    let mut store = Store::new(engine, state);
    let command = Command::instantiate_async(&mut store, component, &linker).await?;
    match command.wasi_cli_run().call_run(&mut store).await {
        Ok(Ok(())) => Ok(0),
        Ok(Err(())) => Ok(1),
        Err(error) => match error.downcast_ref() {
            Some(I32Exit(code)) => Ok(*code),
            None => Err(error),
        },
    }
}
