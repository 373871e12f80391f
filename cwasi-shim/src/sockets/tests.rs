//! A connection inside the process behaves as one of the kernel: the same steps on both, and the same outcomes.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Waker};

use proptest::prelude::*;
use rustix::net::Shutdown;
use wasmtime_wasi::p2::StreamError;

use super::connection::Connection;
use super::pending::Unsent;
use super::{Acceptor, LocalNetwork, Network, Stream, turn};
use crate::network::{NetworkPolicy, Refusals};

fn network(local: Option<&LocalNetwork>) -> Arc<Network> {
    let refusals = Refusals::new(|_| {});
    Network::new(
        "test",
        NetworkPolicy::unrestricted(),
        refusals,
        local.cloned(),
        false,
    )
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    crate::sandbox::runtime().unwrap().block_on(future)
}

/// The two ends of a connection.
struct Pair([Option<Arc<Connection>>; 2]);

async fn connect(local: Option<&LocalNetwork>) -> (Stream, Stream) {
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let acceptor = Acceptor::begin(network(local), address, 16).unwrap();
    let client = Stream::connect(network(local), acceptor.local_address())
        .await
        .unwrap();
    (client, acceptor.accept().await.unwrap())
}

impl Pair {
    async fn new(local: Option<&LocalNetwork>) -> Self {
        let (client, server) = connect(local).await;
        let connection = |stream: Stream| Some(Connection::new(stream.into_transport(), Unsent::default()));
        Self([connection(client), connection(server)])
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(usize, usize),
    Read(usize, usize),
    EndWriting(usize),
    EndReading(usize),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let side = 0..2usize;
    prop_oneof![
        4 => (side.clone(), 1..5000usize).prop_map(|(side, len)| Step::Write(side, len)),
        4 => (side.clone(), 1..8000usize).prop_map(|(side, want)| Step::Read(side, want)),
        1 => side.clone().prop_map(Step::EndWriting),
        1 => side.clone().prop_map(Step::EndReading),
        1 => side.prop_map(Step::Drop),
    ]
}

/// What a guest sees of a step: bytes, an end, or an error's kind.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Bytes(Vec<u8>),
    Closed,
    Failed(io::ErrorKind),
}

fn seen<T>(done: Result<T, StreamError>, bytes: impl FnOnce(T) -> Seen) -> Seen {
    match done {
        Ok(done) => bytes(done),
        Err(StreamError::Closed) => Seen::Closed,
        Err(StreamError::LastOperationFailed(error)) => {
            Seen::Failed(error.downcast_ref::<io::Error>().unwrap().kind())
        }
        Err(StreamError::Trap(error)) => panic!("{error}"),
    }
}

impl Pair {
    fn shutdown(&self, side: usize, how: Shutdown) -> Seen {
        if let Some(connection) = &self.0[side] {
            connection.shutdown(how);
        }
        Seen::Nothing
    }

    fn take(&mut self, step: Step, written: &mut u8) -> Seen {
        match step {
            Step::Write(side, len) => {
                let Some(connection) = &self.0[side] else {
                    return Seen::Nothing;
                };
                let bytes: Vec<u8> = (0..len)
                    .map(|_| {
                        *written = written.wrapping_add(1);
                        *written
                    })
                    .collect();
                let done = connection.check_write().and_then(|_| connection.write(&bytes));
                seen(done, |()| Seen::Nothing)
            }
            Step::Read(side, want) => {
                let Some(connection) = &self.0[side] else {
                    return Seen::Nothing;
                };
                // Where a read stops is not TCP's to say: everything is read, up to what is wanted.
                let mut all = Vec::new();
                while all.len() < want {
                    // A short read must not let the next one off.
                    turn::next();
                    match connection.read(want - all.len()) {
                        Ok(bytes) if bytes.is_empty() => break,
                        Ok(bytes) => all.extend_from_slice(&bytes),
                        Err(error) if all.is_empty() => return seen(Err::<(), _>(error), |()| Seen::Nothing),
                        // The next read says so again, or that it is over.
                        Err(_) => break,
                    }
                }
                Seen::Bytes(all)
            }
            Step::EndWriting(side) => self.shutdown(side, Shutdown::Write),
            Step::EndReading(side) => self.shutdown(side, Shutdown::Read),
            Step::Drop(side) => {
                self.0[side] = None;
                Seen::Nothing
            }
        }
    }
}

proptest! {
    #[test]
    fn a_connection_inside_the_process_behaves_as_one_of_the_kernel(steps in prop::collection::vec(step(), 0..40)) {
        block_on(async {
            let local = LocalNetwork::default();
            let mut kernel = Pair::new(None).await;
            let mut pipe = Pair::new(Some(&local)).await;
            prop_assert_eq!(local.traffic().opened, 1);
            let (mut by_kernel, mut by_pipe) = (0, 0);
            for (at, step) in steps.iter().enumerate() {
                let kernel = kernel.take(*step, &mut by_kernel);
                let pipe = pipe.take(*step, &mut by_pipe);
                prop_assert_eq!(kernel, pipe, "step {} of {:?}", at, &steps);
            }
            Ok(())
        })?;
    }
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

#[test]
fn a_listener_takes_those_of_its_process_and_of_the_kernel_in_turn() {
    block_on(async {
        let local = LocalNetwork::default();
        let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let acceptor = Acceptor::begin(network(Some(&local)), address, 16).unwrap();
        let to = acceptor.local_address();
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(Stream::connect(network(Some(&local)), to).await.unwrap());
            clients.push(Stream::connect(network(None), to).await.unwrap());
        }
        let mut inside = Vec::new();
        for _ in 0..clients.len() {
            inside.push(acceptor.accept().await.unwrap().is_inside());
        }
        assert_eq!(inside, [true, false, true, false]);
        assert_eq!(local.traffic().open.len(), 2);
        drop(clients);
        assert_eq!(local.traffic().open.len(), 0);
    });
}

#[test]
fn a_full_backlog_lets_nobody_in_until_somebody_is_accepted() {
    block_on(async {
        let local = LocalNetwork::default();
        let acceptor = Acceptor::begin(network(Some(&local)), "127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let to = acceptor.local_address();
        let connect = || Stream::connect(network(Some(&local)), to);
        // As Linux counts: one more than the backlog.
        let first = connect().await.unwrap();
        let _second = connect().await.unwrap();
        let mut third = Box::pin(connect());
        assert!(third.as_mut().poll(&mut noop()).is_pending());
        let accepted = acceptor.accept().await.unwrap();
        assert_eq!(accepted.peer_address().unwrap(), first.local_address().unwrap());
        third.await.unwrap();
    });
}

#[test]
fn who_was_never_accepted_is_reset_and_who_comes_later_refused() {
    block_on(async {
        let local = LocalNetwork::default();
        let acceptor = Acceptor::begin(network(Some(&local)), "127.0.0.1:0".parse().unwrap(), 0).unwrap();
        let to = acceptor.local_address();
        let connect = || Stream::connect(network(Some(&local)), to);
        let waiting = connect().await.unwrap();
        let mut outside = Box::pin(connect());
        assert!(outside.as_mut().poll(&mut noop()).is_pending());
        drop(acceptor);
        let refused = outside.await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let connection = Connection::new(waiting.into_transport(), Unsent::default());
        let reset = seen(connection.read(1), |bytes| Seen::Bytes(bytes.to_vec()));
        assert_eq!(reset, Seen::Failed(io::ErrorKind::ConnectionReset));
        assert_eq!(
            connect().await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    });
}

#[test]
fn a_listener_on_any_address_is_found_at_each_of_its_own_family() {
    block_on(async {
        for (listen, found, other) in [
            ("0.0.0.0:0", "127.0.0.1", "192.0.2.1"),
            ("0.0.0.0:0", "127.9.8.7", "::1"),
            ("[::]:0", "::1", "2001:db8::1"),
            ("127.0.0.1:0", "127.0.0.1", "127.0.0.2"),
        ] {
            let local = LocalNetwork::default();
            let acceptor = Acceptor::begin(network(Some(&local)), listen.parse().unwrap(), 1).unwrap();
            let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), acceptor.local_address().port());
            assert!(local.find(at(found)).is_some(), "{listen} {found}");
            assert!(local.find(at(other)).is_none(), "{listen} {other}");
        }
    });
}

#[test]
fn a_read_after_a_short_one_may_find_nothing_but_once_and_in_the_same_turn() {
    block_on(async {
        let Pair([Some(writer), Some(reader)]) = Pair::new(None).await else {
            panic!("two ends");
        };
        let write = || {
            writer.check_write().unwrap();
            writer.write(b"x").unwrap();
        };
        let read = || reader.read(10).unwrap().len();
        write();
        assert_eq!(read(), 1);
        write();
        assert_eq!((read(), read()), (0, 1), "it is not asked, then it is");
        write();
        turn::next();
        assert_eq!(read(), 1, "the guest has waited since");
        write();
        assert!(reader.wait_readable());
        turn::next();
        assert_eq!(read(), 1);
    });
}

#[test]
fn what_the_kernel_does_not_take_is_sent_later_and_in_order() {
    // More than socket buffers hold.
    const BYTES: usize = 32 * 1024 * 1024;
    block_on(async {
        let Pair([Some(writer), Some(reader)]) = Pair::new(None).await else {
            panic!("two ends");
        };
        let pattern: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
        let writing = async {
            let mut rest = &pattern[..];
            while !rest.is_empty() {
                poll_fn(|cx| writer.poll_writable(cx)).await;
                let len = writer.check_write().unwrap().min(rest.len());
                writer.write(&rest[..len]).unwrap();
                rest = &rest[len..];
            }
            // With bytes that wait: the end comes after them.
            writer.shutdown(Shutdown::Write);
        };
        let reading = async {
            let mut all = Vec::new();
            loop {
                match reader.read(64 * 1024) {
                    Ok(bytes) if bytes.is_empty() => poll_fn(|cx| reader.poll_readable(cx)).await,
                    Ok(bytes) => all.extend_from_slice(&bytes),
                    Err(StreamError::Closed) => return all,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let ((), read) = tokio::join!(writing, reading);
        assert!(read == pattern, "{} bytes", read.len());
    });
}
