//! The calls of `wasi:io` that carry bytes or wait for them, on the streams of TCP without the stock calls' detours: bytes are written
//! out of the guest's memory and read into it, and a pollable asks its connection. Every other stream gets the stock call.

use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceTable, ResourceType, WasmList};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, StreamResult};
use wasmtime_wasi_io::bindings::wasi::io::poll::{Host as StockPoll, HostPollable as StockPollable};
use wasmtime_wasi_io::bindings::wasi::io::streams::{
    Host as StockStreams, HostInputStream as StockInput, HostOutputStream as StockOutput, StreamError,
};

use super::Network;
use super::connection::Connection;
use super::host::VERSION;
use super::turn;
use crate::state::GuestState;

/// Which handles of a guest's table are streams of TCP, or pollables of them.
#[derive(Debug)]
pub(crate) struct Direct {
    network: Arc<Network>,
    /// By the handles' representation.
    entries: Vec<Entry>,
}

/// What a handle is.
#[derive(Clone, Debug, Default)]
enum Entry {
    #[default]
    Other,
    Input(Arc<Connection>),
    Output(Arc<Connection>),
    Readable(Arc<Connection>),
    Writable(Arc<Connection>),
}

impl Direct {
    pub(crate) const fn new(network: Arc<Network>) -> Self {
        Self {
            network,
            entries: Vec::new(),
        }
    }

    pub(crate) fn network(&self) -> Arc<Network> {
        Arc::clone(&self.network)
    }

    pub(super) fn add_streams(
        &mut self,
        input: &Resource<DynInputStream>,
        output: &Resource<DynOutputStream>,
        connection: &Arc<Connection>,
    ) {
        self.set(input.rep(), Entry::Input(Arc::clone(connection)));
        self.set(output.rep(), Entry::Output(Arc::clone(connection)));
    }

    fn set(&mut self, rep: u32, entry: Entry) {
        let at = rep as usize;
        if at >= self.entries.len() {
            self.entries.resize(at + 1, Entry::Other);
        }
        self.entries[at] = entry;
    }

    fn get(&self, rep: u32) -> &Entry {
        self.entries.get(rep as usize).unwrap_or(&Entry::Other)
    }

    /// Waits for `pollable` by a system call that holds the thread up, where nothing else is to run on it: an event loop would
    /// take as long again. `false` when that may not be, or it is not a connection's.
    fn waits_in_place(&self, pollable: &Resource<DynPollable>) -> bool {
        match self.get(pollable.rep()) {
            Entry::Readable(connection) => self.network.may_hold_thread() && connection.wait_readable(),
            _ => false,
        }
    }

    /// The handle is gone; the next to have its representation may be anything.
    fn forget(&mut self, rep: u32) {
        if let Some(entry) = self.entries.get_mut(rep as usize) {
            *entry = Entry::Other;
        }
    }
}

impl Entry {
    /// Whether the pollable is ready, as far as that can be told without a system call; `None` for what is no pollable of TCP.
    fn is_ready(&self) -> Option<bool> {
        match self {
            Self::Readable(connection) => Some(connection.is_readable()),
            Self::Writable(connection) => Some(connection.is_writable()),
            _ => None,
        }
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Readable(connection) => connection.poll_readable(cx),
            Self::Writable(connection) => connection.poll_writable(cx),
            _ => Poll::Pending,
        }
    }
}

type State<'a> = StoreContextMut<'a, GuestState>;
type Later<'a, T> = Box<dyn Future<Output = wasmtime::Result<T>> + Send + 'a>;

/// Puts the direct calls in the place of the stock ones.
///
/// # Errors
/// The linker does not allow shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<GuestState>, tasks: bool) -> wasmtime::Result<()> {
    let mut streams = linker.instance(&format!("wasi:io/streams@{VERSION}"))?;
    input(&mut streams)?;
    output(&mut streams)?;
    let mut poll = linker.instance(&format!("wasi:io/poll@{VERSION}"))?;
    pollables(&mut poll, tasks)
}

fn input(streams: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    let input = ResourceType::host::<DynInputStream>();
    streams.resource_async("input-stream", input, |mut store, rep| {
        Box::new(async move {
            let (table, direct) = store.data_mut().sockets();
            direct.forget(rep);
            StockInput::drop(table, Resource::new_own(rep)).await
        })
    })?;
    streams.func_wrap("[method]input-stream.read", read)?;
    streams.func_wrap(
        "[method]input-stream.subscribe",
        |mut store: State<'_>, (stream,): (Resource<DynInputStream>,)| {
            let (table, direct) = store.data_mut().sockets();
            let entry = match direct.get(stream.rep()) {
                Entry::Input(connection) => Entry::Readable(Arc::clone(connection)),
                _ => Entry::Other,
            };
            let pollable = StockInput::subscribe(table, stream)?;
            direct.set(pollable.rep(), entry);
            Ok((pollable,))
        },
    )
}

fn read(
    mut store: State<'_>,
    (stream, len): (Resource<DynInputStream>, u64),
) -> wasmtime::Result<(Result<Bytes, StreamError>,)> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let (table, direct) = store.data_mut().sockets();
    let read = match direct.get(stream.rep()) {
        Entry::Input(connection) => connection.read(len),
        _ => table.get_mut(&stream)?.read(len),
    };
    Ok((answer(table, read)?,))
}

fn output(streams: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    let output = ResourceType::host::<DynOutputStream>();
    streams.resource_async("output-stream", output, |mut store, rep| {
        Box::new(async move {
            let (table, direct) = store.data_mut().sockets();
            direct.forget(rep);
            StockOutput::drop(table, Resource::new_own(rep)).await
        })
    })?;
    streams.func_wrap("[method]output-stream.check-write", check_write)?;
    streams.func_wrap("[method]output-stream.write", write)?;
    streams.func_wrap(
        "[method]output-stream.subscribe",
        |mut store: State<'_>, (stream,): (Resource<DynOutputStream>,)| {
            let (table, direct) = store.data_mut().sockets();
            let entry = match direct.get(stream.rep()) {
                Entry::Output(connection) => Entry::Writable(Arc::clone(connection)),
                _ => Entry::Other,
            };
            let pollable = StockOutput::subscribe(table, stream)?;
            direct.set(pollable.rep(), entry);
            Ok((pollable,))
        },
    )
}

fn check_write(
    mut store: State<'_>,
    (stream,): (Resource<DynOutputStream>,),
) -> wasmtime::Result<(Result<u64, StreamError>,)> {
    let (table, direct) = store.data_mut().sockets();
    let permit = match direct.get(stream.rep()) {
        Entry::Output(connection) => connection.check_write(),
        _ => table.get_mut(&stream)?.check_write(),
    };
    Ok((answer(table, permit.map(|bytes| bytes as u64))?,))
}

fn write(
    mut store: State<'_>,
    (stream, bytes): (Resource<DynOutputStream>, WasmList<u8>),
) -> wasmtime::Result<(Result<(), StreamError>,)> {
    let written = match store.data().direct().get(stream.rep()) {
        Entry::Output(connection) => connection.write(bytes.as_le_slice(&store)),
        _ => {
            let bytes = Bytes::copy_from_slice(bytes.as_le_slice(&store));
            let (table, _) = store.data_mut().sockets();
            table.get_mut(&stream)?.write(bytes)
        }
    };
    let (table, _) = store.data_mut().sockets();
    Ok((answer(table, written)?,))
}

/// What the guest is told.
fn answer<T>(table: &mut ResourceTable, done: StreamResult<T>) -> wasmtime::Result<Result<T, StreamError>> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(error) => Ok(Err(StockStreams::convert_stream_error(table, error)?)),
    }
}

fn pollables(poll: &mut LinkerInstance<'_, GuestState>, tasks: bool) -> wasmtime::Result<()> {
    let pollable = ResourceType::host::<DynPollable>();
    poll.resource("pollable", pollable, |mut store, rep| {
        let (table, direct) = store.data_mut().sockets();
        direct.forget(rep);
        StockPollable::drop(table, Resource::new_own(rep))
    })?;
    poll.func_wrap_async("[method]pollable.block", move |store: State<'_>, (pollable,)| {
        turn::next();
        if !tasks && store.data().direct().waits_in_place(&pollable) {
            return Box::new(Done);
        }
        block(store, pollable)
    })?;
    poll.func_wrap_async("poll", move |store: State<'_>, (pollables,): (Vec<_>,)| {
        turn::next();
        match pollables.as_slice() {
            [only] if !tasks && store.data().direct().waits_in_place(only) => Box::new(ready(Ok((vec![0],)))),
            _ => poll_list(store, pollables),
        }
    })
}

fn block<'a>(mut store: State<'a>, pollable: Resource<DynPollable>) -> Later<'a, ()> {
    match store.data().direct().get(pollable.rep()) {
        Entry::Other => Box::new(async move {
            let (table, _) = store.data_mut().sockets();
            StockPollable::block(table, pollable).await
        }),
        entry if entry.is_ready() == Some(true) => Box::new(Done),
        entry => {
            let entry = entry.clone();
            Box::new(async move {
                poll_fn(|cx| entry.poll_ready(cx)).await;
                Ok(())
            })
        }
    }
}

/// A future that takes no memory.
struct Done;

impl Future for Done {
    type Output = wasmtime::Result<()>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}

type Ready = (Vec<u32>,);

fn poll_list<'a>(mut store: State<'a>, pollables: Vec<Resource<DynPollable>>) -> Later<'a, Ready> {
    let state = store.data();
    let entries: Option<Vec<Entry>> = pollables
        .iter()
        .map(|pollable| match state.direct().get(pollable.rep()) {
            Entry::Other => None,
            entry => Some(entry.clone()),
        })
        .collect();
    match entries {
        Some(entries) if !entries.is_empty() => Box::new(async move {
            let ready = poll_fn(|cx| {
                let all: Vec<u32> = (0..)
                    .zip(&entries)
                    .filter(|(_, entry)| entry.poll_ready(cx).is_ready())
                    .map(|(at, _)| at)
                    .collect();
                if all.is_empty() {
                    Poll::Pending
                } else {
                    Poll::Ready(all)
                }
            });
            Ok((ready.await,))
        }),
        _ => Box::new(async move {
            let (table, _) = store.data_mut().sockets();
            Ok((StockPoll::poll(table, pollables).await?,))
        }),
    }
}
