//! The host's side of one guest: what its calls work on.

use std::mem;
use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::body::{HostOutgoingBody, StreamContext};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::engine::one_line;
use crate::guest::{GuestConfig, GuestError};
use crate::limits::{Budget, MemoryLimiter, Refused};
use crate::outgoing::Outgoing;
use crate::sockets::Network;
use crate::sockets::direct::Direct;
use crate::stdio::{Streams, Unwritten};
use crate::ticks;

/// Where guests that ask no host look for their working directory: Go's and Python's do; shells and runc set it.
const WORKING_DIRECTORY: &str = "PWD";

/// The host's side of one guest.
pub(crate) struct GuestState {
    // WASI 0.2 and 0.1 work on the same context.
    wasi: WasiP1Ctx,
    direct: Direct,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    limiter: MemoryLimiter,
    unwritten: Unwritten,
}

impl GuestState {
    /// A store for a guest that is given what `config` says and these streams, and takes its memory from `budget`.
    pub(crate) fn store(
        engine: &Engine,
        config: &GuestConfig,
        streams: &Streams,
        budget: &Arc<Budget>,
    ) -> Result<Store<Self>, GuestError> {
        let network = Network::of(config);
        let mut wasi = context(config)?;
        let unwritten = streams.give(&mut wasi);
        let state = Self {
            wasi: wasi.build_p1(),
            direct: Direct::new(Arc::clone(&network)),
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(network),
            limiter: MemoryLimiter::new(Arc::clone(budget)),
            unwritten,
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.limiter);
        ticks::without_slices(&mut store);
        Ok(store)
    }

    /// The table of the guest's handles, and those of them that are streams of TCP.
    pub(crate) fn sockets(&mut self) -> (&mut ResourceTable, &mut Direct) {
        (self.wasi.ctx().table, &mut self.direct)
    }

    /// What its sockets share.
    pub(crate) fn network(&self) -> Arc<Network> {
        self.direct.network()
    }

    /// Which of the guest's handles are streams of TCP.
    pub(crate) const fn direct(&self) -> &Direct {
        &self.direct
    }

    /// What WASI 0.1 works on.
    pub(crate) const fn p1(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    /// Makes the bodies that the guest has not finished end in an error. Otherwise, with the guest gone, whoever reads them
    /// would take them for whole.
    pub(crate) fn abort_bodies(&mut self) {
        let entries = self.wasi.ctx().table.iter_mut();
        for body in entries.filter_map(|entry| entry.downcast_mut::<HostOutgoingBody>()) {
            let (nobodys, _) = HostOutgoingBody::new(StreamContext::Response, None, 1, 1);
            mem::replace(body, nobodys).abort();
        }
    }

    /// What the guest has written to its standard streams and is still to be written when it has ended.
    pub(crate) const fn unwritten(&mut self) -> &mut Unwritten {
        &mut self.unwritten
    }

    /// The first growth of memory that was refused.
    pub(crate) const fn refused(&self) -> Option<Refused> {
        self.limiter.refused()
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: self.wasi.ctx().table,
            hooks: &mut self.outgoing,
        }
    }
}

fn context(config: &GuestConfig) -> Result<WasiCtxBuilder, GuestError> {
    let mut wasi = WasiCtxBuilder::new();
    // For the directories that follow: file calls need no other thread to wait on.
    wasi.allow_blocking_current_thread(true);
    wasi.args(&config.args).envs(&config.env);
    if let Some(cwd) = &config.cwd {
        wasi.initial_cwd(cwd);
        if config.env.iter().all(|(name, _)| name != WORKING_DIRECTORY) {
            wasi.env(WORKING_DIRECTORY, cwd);
        }
    }
    for preopen in &config.preopens {
        let perms = if preopen.read_only {
            FsPerms::ReadOnly
        } else {
            FsPerms::ReadWrite
        };
        wasi.preopened_dir(&preopen.host, &preopen.guest, perms)
            .map_err(|error| GuestError::Preopen {
                host: preopen.host.display().to_string(),
                reason: one_line(&error),
            })?;
    }
    // For the rest: a module that sleeps would keep the guests beside it from running.
    wasi.allow_blocking_current_thread(false);
    let (network, refusals) = (Arc::new(config.network.clone()), config.refusals.clone());
    wasi.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true);
    wasi.socket_addr_check(move |address, used_for| {
        let permitted = network.permits(address, used_for);
        if !permitted {
            refusals.add(address);
        }
        Box::pin(std::future::ready(permitted))
    });
    Ok(wasi)
}
