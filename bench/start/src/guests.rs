//! Two functions that talk to each other, each in a pod of its own.

use std::net::SocketAddr;

use cwasi_testnode::ContainerSpec;
use serde::Deserialize;

use crate::start::address;
use crate::{Error, Peer, Result, Stage};

/// Port of the server.
const PORT: u16 = 7000;

/// What the functions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// Messages of 64 B, each sent back before the next one.
    RoundTrips,
    /// Bytes in one direction, in writes of 64 KiB.
    Stream,
}

#[derive(Deserialize)]
struct Ping {
    p50_us: f64,
}

#[derive(Deserialize)]
struct Streamed {
    gb_per_s: f64,
    ok: bool,
}

impl Talk {
    /// Starts both functions, waits for the client's end, and gives what it measured: µs, or 10⁹ bytes per second.
    ///
    /// # Errors
    /// A function does not start, fails, or prints no result.
    pub fn measure(self, stage: &Stage, peer: Peer) -> Result<f64> {
        let (server_pod, client_pod) = (
            stage.node().pod(&peer.pod("server"))?,
            stage.node().pod(&peer.pod("client"))?,
        );
        let at = address(&server_pod, PORT)?;
        let server = server_pod.run(&self.server(stage))?;
        let client = client_pod.run(&self.client(stage, at))?;
        let code = client.wait()?;
        if code != 0 {
            return Err(invalid(
                peer,
                format!("the client ended with {code}: {}", client.stderr()?.trim()),
            ));
        }
        let figure = self
            .figure(&client.stdout()?)
            .map_err(|detail| invalid(peer, detail))?;
        client.remove()?;
        server.remove()?;
        client_pod.remove()?;
        server_pod.remove()?;
        Ok(figure)
    }

    fn server(self, stage: &Stage) -> ContainerSpec {
        let listen = format!("0.0.0.0:{PORT}");
        let arguments: &[&str] = match self {
            Self::RoundTrips => &[&listen],
            Self::Stream => &["sink", &listen],
        };
        ContainerSpec::new("server", &stage.guest(self.guests().0)).args(arguments)
    }

    fn client(self, stage: &Stage, at: SocketAddr) -> ContainerSpec {
        let at = at.to_string();
        let arguments: &[&str] = match self {
            Self::RoundTrips => &[&at, "--size", "64", "--count", "5000", "--warmup", "200"],
            Self::Stream => &["source", &at, "--size", "65536", "--bytes", "536870912"],
        };
        ContainerSpec::new("client", &stage.guest(self.guests().1)).args(arguments)
    }

    /// The guests of server and client.
    const fn guests(self) -> (&'static str, &'static str) {
        match self {
            Self::RoundTrips => ("echo", "ping"),
            Self::Stream => ("stream", "stream"),
        }
    }

    fn figure(self, stdout: &str) -> std::result::Result<f64, String> {
        let wrong = |error: serde_json::Error| format!("its result is no result ({error}): {stdout:?}");
        match self {
            Self::RoundTrips => serde_json::from_str::<Ping>(stdout)
                .map(|ping| ping.p50_us)
                .map_err(wrong),
            Self::Stream => match serde_json::from_str::<Streamed>(stdout).map_err(wrong)? {
                Streamed { ok: false, .. } => Err(format!("bytes arrived wrong: {stdout}")),
                streamed => Ok(streamed.gb_per_s),
            },
        }
    }
}

fn invalid(peer: Peer, detail: String) -> Error {
    Error::Invalid { peer, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_and_wrong_bytes_seen() {
        assert_eq!(
            Talk::RoundTrips.figure("{\"size\":64,\"p50_us\":12.5}\n"),
            Ok(12.5)
        );
        let line = |ok: bool| format!("{{\"gb_per_s\":1.5,\"ok\":{ok}}}\n");
        assert_eq!(Talk::Stream.figure(&line(true)), Ok(1.5));
        assert!(Talk::Stream.figure(&line(false)).is_err());
        assert!(Talk::RoundTrips.figure("").is_err());
    }
}
