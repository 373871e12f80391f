//! Connections: whose they are, and what they may cost.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use cwasi_client::protocol::{ApiError, ErrorCode, MAX_REQUEST_BYTES, Request, Response};
use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Shared;
use super::dispatch::dispatch;
use crate::agent::{Process, started};

/// What connections may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// How long a connection may be silent between requests, or take to send one.
    pub idle: Duration,
    /// How long a caller may take to read an answer.
    pub write: Duration,
    /// Long answers, of many megabytes on a full node, that are held in memory at once.
    pub long_answers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            idle: Duration::from_secs(60),
            write: Duration::from_secs(10),
            long_answers: 2,
        }
    }
}

/// Serves connections until `stop` becomes true; an unload makes it so.
pub async fn serve(listener: UnixListener, agent: Shared, limits: Limits, stop: watch::Sender<bool>) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let turns = Arc::new(Semaphore::new(limits.long_answers));
    let mut stopped = stop.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: connections that end give some back.
                warn!("accept: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let caller = match caller(&stream) {
            Ok(caller) => caller,
            Err(refusal) => {
                refuse(stream, refusal);
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            let message = format!("{} connections are open, no more are served", limits.connections);
            refuse(
                stream,
                ApiError {
                    code: ErrorCode::Exhausted,
                    message,
                },
            );
            continue;
        };
        let (agent, turns, stop) = (Arc::clone(&agent), Arc::clone(&turns), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &agent, caller, limits, &turns, &stop).await {
                debug!(pid = caller.pid, "connection: {error}");
            }
            drop(permit);
        });
    }
}

/// Who connected, by the credentials that the kernel took at the connect.
fn caller(stream: &UnixStream) -> Result<Process, ApiError> {
    let denied = |message: String| ApiError {
        code: ErrorCode::PermissionDenied,
        message,
    };
    let peer = stream
        .peer_cred()
        .map_err(|error| denied(format!("no credentials: {error}")))?;
    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
        return Err(denied(format!(
            "user {} may not use this socket; run this as root",
            peer.uid()
        )));
    }
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    Ok(Process {
        pid,
        started: started(pid),
    })
}

/// Answers and closes at once. A caller that does not read loses the answer.
fn refuse(stream: UnixStream, refusal: ApiError) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(&line(&Response::Error(refusal)));
    }
}

async fn converse(
    stream: UnixStream,
    agent: &Shared,
    caller: Process,
    limits: Limits,
    turns: &Semaphore,
    stop: &watch::Sender<bool>,
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut request = Vec::new();
    loop {
        request.clear();
        let most = (MAX_REQUEST_BYTES + 1) as u64;
        let length = timeout(
            limits.idle,
            (&mut reader).take(most).read_until(b'\n', &mut request),
        )
        .await??;
        if length == 0 {
            return Ok(());
        }
        let too_long = length > MAX_REQUEST_BYTES;
        let parsed = if too_long {
            Err(malformed(format!(
                "a request is at most {MAX_REQUEST_BYTES} bytes long, newline included"
            )))
        } else {
            serde_json::from_slice(&request).map_err(|error| malformed(format!("not a request: {error}")))
        };
        let unload = matches!(parsed, Ok(Request::Unload));
        let _turn = match parsed {
            Ok(Request::Flows | Request::Functions | Request::Events { .. }) => turns.acquire().await.ok(),
            _ => None,
        };
        let result = match parsed {
            Ok(request) => dispatch(agent, request, caller).await,
            Err(refusal) => Err(refusal),
        };
        let stopping = unload && result.is_ok();
        let response = result.map_or_else(Response::Error, Response::Ok);
        let written = timeout(limits.write, writer.write_all(&line(&response))).await;
        if stopping {
            stop.send_replace(true);
        }
        written??;
        // Where the next request begins in what follows an endless one, nobody knows.
        if too_long || stopping {
            return Ok(());
        }
    }
}

fn malformed(message: String) -> ApiError {
    ApiError {
        code: ErrorCode::Malformed,
        message,
    }
}

fn line(response: &Response) -> Vec<u8> {
    let mut line = serde_json::to_vec(response).unwrap_or_else(|error| {
        warn!("an answer that is no JSON: {error}");
        br#"{"error":{"code":"internal","message":"the answer cannot be written as JSON"}}"#.to_vec()
    });
    line.push(b'\n');
    line
}
