//! Layers of images, compiled once.

use std::fmt;
use std::hash::Hash;

use anyhow::Result;
use containerd_shim_wasm::sandbox::context::WasmLayer;
use containerd_shim_wasm::shim::Compiler;
use wasmtime::Engine;

use crate::{any, engine};

/// Compiles layers, for containerd's content store to keep.
pub struct StockCompiler {
    engine: Engine,
}

impl StockCompiler {
    pub(crate) fn new() -> Self {
        Self { engine: engine() }
    }
}

impl fmt::Debug for StockCompiler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StockCompiler").finish_non_exhaustive()
    }
}

impl Compiler for StockCompiler {
    fn cache_key(&self) -> impl Hash {
        self.engine.precompile_compatibility_hash()
    }

    async fn compile(&self, layers: &[WasmLayer]) -> Result<Vec<Option<Vec<u8>>>> {
        let compiled = layers.iter().map(|WasmLayer { layer, .. }| {
            if Engine::detect_precompiled(layer).is_some() {
                return Ok(None);
            }
            self.engine.precompile_component(layer).map(Some).map_err(any)
        });
        compiled.collect()
    }
}
