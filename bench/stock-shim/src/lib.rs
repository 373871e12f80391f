//! What a node has without cwasi: a shim (`io.containerd.stock.v1`) of containerd-shim-wasm's plain [`Shim`] and
//! [`Sandbox`](containerd_shim_wasm::sandbox::Sandbox), with wasmtime's default settings, as runwasi's wasmtime shim is one. It exists to be measured beside cwasi's.
//!
//! It is given what makes that shim fast: layers of images of the platform `wasm` are compiled once, and containerd's content
//! store keeps the result. The guest and its engine are those of [`cwasi_stock_run`]. It does less than runwasi's: commands of
//! WASI 0.2 only, and no pool of instances, which costs a process of one instance time and memory.

mod compiler;
mod sandbox;

use containerd_shim_wasm::shim::{Shim, Version, version};

pub use compiler::StockCompiler;
pub use sandbox::StockSandbox;

/// The shim.
#[derive(Clone, Copy, Debug)]
pub struct StockShim;

impl Shim for StockShim {
    type Sandbox = StockSandbox;

    fn name() -> &'static str {
        "stock"
    }

    fn version() -> Version {
        version!()
    }

    #[allow(refining_impl_trait)] // The compiler is a type of this crate.
    async fn compiler() -> Option<StockCompiler> {
        Some(StockCompiler::new())
    }
}

/// The engine as it is without settings.
///
/// # Panics
/// This machine cannot run it; neither trait lets a shim say so.
fn engine() -> wasmtime::Engine {
    cwasi_stock_run::engine().expect("wasmtime runs on this machine")
}

/// wasmtime's errors as the traits want them.
fn any(error: wasmtime::Error) -> anyhow::Error {
    anyhow::Error::from_boxed(error.into_boxed_dyn_error())
}
