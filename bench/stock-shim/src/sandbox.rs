//! The guest in its container's process.

use std::fmt;

use anyhow::{Context, Result, anyhow};
use containerd_shim_wasm::sandbox::Sandbox;
use containerd_shim_wasm::sandbox::context::RuntimeContext;
use tokio::signal::unix::{SignalKind, signal};
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};

use crate::{any, engine};

/// Runs a command component.
pub struct StockSandbox {
    engine: Engine,
}

impl Default for StockSandbox {
    fn default() -> Self {
        Self { engine: engine() }
    }
}

impl fmt::Debug for StockSandbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StockSandbox").finish_non_exhaustive()
    }
}

impl Sandbox for StockSandbox {
    async fn run_wasi(&self, context: &impl RuntimeContext) -> Result<i32> {
        tokio::select! {
            code = self.command(context) => code,
            code = ending_signal() => code,
        }
    }
}

impl StockSandbox {
    async fn command(&self, context: &impl RuntimeContext) -> Result<i32> {
        let component = self.component(context)?;
        cwasi_stock_run::run(&self.engine, &component, wasi(context)?)
            .await
            .map_err(any)
    }

    fn component(&self, context: &impl RuntimeContext) -> Result<Component> {
        let source = context.entrypoint().source;
        let bytes = source.as_bytes()?;
        if source.is_precompiled()? {
            // SAFETY: what is marked as compiled comes from the content store, where this shim put it under its engine's hash.
            return unsafe { Component::deserialize(&self.engine, &bytes) }.map_err(any);
        }
        Component::from_binary(&self.engine, &bytes).map_err(any)
    }
}

fn wasi(context: &impl RuntimeContext) -> Result<WasiCtx> {
    let variables: Vec<_> = context
        .envs()
        .iter()
        .map(|variable| variable.split_once('=').unwrap_or((variable, "")))
        .collect();
    let mut builder = WasiCtxBuilder::new();
    builder
        .args(context.args())
        .envs(&variables)
        .inherit_stdio()
        .inherit_network()
        .allow_tcp(true)
        .allow_udp(true)
        .allow_ip_name_lookup(true)
        .preopened_dir("/", "/", FsPerms::ReadWrite)
        .map_err(any)?;
    Ok(builder.build())
}

/// The exit code of the first signal that ends programs: the first process of a pid namespace has no default action for any.
async fn ending_signal() -> Result<i32> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let (kind, arrived) = tokio::select! {
        arrived = terminate.recv() => (SignalKind::terminate(), arrived),
        arrived = interrupt.recv() => (SignalKind::interrupt(), arrived),
    };
    arrived.ok_or_else(|| anyhow!("no more signals"))?;
    Ok(128 + kind.as_raw_value())
}
