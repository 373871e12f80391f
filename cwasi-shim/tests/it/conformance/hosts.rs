//! The hosts that are compared: each runs the same unmodified guest and gives what it wrote.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use cwasi_shim::engine::Engine;
use cwasi_shim::guest::{Guest, GuestConfig};
use cwasi_shim::http::DEFAULT_ADDRESS;
use cwasi_shim::network::{NetworkPolicy, Refusals};
use cwasi_shim::preopen::Preopen;
use cwasi_shim::program::Program;
use cwasi_shim::sockets::LocalNetwork;
use cwasi_shim::stdio::{Stdio, Stream};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::functions::prebuilt;

const GUEST: &str = "tcp-conformance";
/// Longer than any case takes, also on a machine that is busy with more important things.
const PATIENCE: Duration = Duration::from_mins(5);

/// One guest of a case: what it is given after its name, and where its transcript goes.
pub(crate) struct Run<'a> {
    pub(crate) arguments: &'a [String],
    pub(crate) dir: &'a Path,
    pub(crate) network: Option<LocalNetwork>,
}

impl Run<'_> {
    fn args(&self) -> Vec<String> {
        [&[GUEST.to_owned()], self.arguments].concat()
    }

    /// The guest's lines, and how it ended.
    fn transcript(&self, ended: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("transcript")).unwrap_or_default();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.push(ended.to_owned());
        lines
    }
}

/// What carries the product's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Kernel,
    /// The kernel, and each guest has a thread to itself.
    Alone,
    Process,
}

/// A host that is compared.
#[derive(Clone)]
pub(crate) enum Host {
    /// wasmtime-wasi as it is.
    Stock(Rc<CommandPre<Stock>>),
    /// The product's over the kernel, or where its guests share a network inside the process.
    Ours(Rc<Program>, Transport),
}

impl Host {
    pub(crate) fn stock() -> Self {
        let mut config = Config::new();
        config.concurrency_support(false);
        let engine = wasmtime::Engine::new(&config).unwrap();
        let component = Component::new(&engine, prebuilt(GUEST)).unwrap();
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        let pre = linker.instantiate_pre(&component).unwrap();
        Self::Stock(Rc::new(CommandPre::new(pre).unwrap()))
    }

    pub(crate) fn ours(transport: Transport) -> Self {
        let loaded = Engine::new().unwrap().load(&prebuilt(GUEST), None).unwrap();
        Self::Ours(Rc::new(loaded.program), transport)
    }

    /// What the guests of one case share.
    pub(crate) fn network(&self) -> Option<LocalNetwork> {
        match self {
            Self::Stock(_) | Self::Ours(_, Transport::Kernel | Transport::Alone) => None,
            Self::Ours(_, Transport::Process) => Some(LocalNetwork::default()),
        }
    }

    /// Runs the guest to its end, or until it must have lost its way.
    pub(crate) async fn run(&self, run: &Run<'_>) -> Vec<String> {
        let ended = tokio::time::timeout(PATIENCE, async {
            match self {
                Self::Stock(pre) => stock(pre, run).await,
                Self::Ours(program, Transport::Alone) => on_its_own_thread(program, run).await,
                Self::Ours(program, _) => ours(program, &config(run, false)).await,
            }
        });
        run.transcript(&ended.await.unwrap_or_else(|_| "did not end".to_owned()))
    }
}

/// The state of a guest of the stock host.
pub(crate) struct Stock {
    ctx: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Stock {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.ctx,
            table: &mut self.table,
        }
    }
}

async fn stock(pre: &CommandPre<Stock>, run: &Run<'_>) -> String {
    let mut ctx = WasiCtxBuilder::new();
    ctx.args(&run.args()).inherit_stderr();
    ctx.inherit_network().allow_tcp(true);
    ctx.preopened_dir(run.dir, "/", FsPerms::ReadWrite).unwrap();
    let state = Stock {
        ctx: ctx.build(),
        table: ResourceTable::new(),
    };
    let mut store = Store::new(pre.engine(), state);
    let command = pre.instantiate_async(&mut store).await.unwrap();
    match command.wasi_cli_run().call_run(&mut store).await {
        Ok(Ok(())) => exited(0),
        Ok(Err(())) => exited(1),
        Err(error) => match error.downcast_ref() {
            Some(I32Exit(code)) => exited(u8::try_from(*code).unwrap()),
            None => TRAPPED.to_owned(),
        },
    }
}

fn config(run: &Run<'_>, alone: bool) -> GuestConfig {
    GuestConfig {
        name: GUEST.to_owned(),
        args: run.args(),
        env: Vec::new(),
        stdio: Stdio {
            stdin: Stream::Null,
            stdout: Stream::Null,
            stderr: Stream::Inherited,
        },
        preopens: vec![Preopen {
            host: run.dir.to_owned(),
            guest: "/".to_owned(),
            read_only: false,
        }],
        cwd: None,
        http: DEFAULT_ADDRESS,
        network: NetworkPolicy::unrestricted(),
        refusals: Refusals::new(|_| ()),
        local: run.network.clone(),
        alone,
        memory_limit: None,
    }
}

async fn on_its_own_thread(program: &Program, run: &Run<'_>) -> String {
    let (program, config) = (program.clone(), config(run, true));
    let (told, ended) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _ = told.send(runtime.block_on(ours(&program, &config)));
    });
    ended.await.unwrap()
}

async fn ours(program: &Program, config: &GuestConfig) -> String {
    match Guest::new(program, config).unwrap().run().await {
        Ok(code) => exited(code),
        Err(_) => TRAPPED.to_owned(),
    }
}

const TRAPPED: &str = "trapped";

fn exited(code: u8) -> String {
    format!("exited {code}")
}
