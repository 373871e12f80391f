//! Connecting with retries and serving one connection after the other.

use crate::error::Context;
use crate::{Error, Result};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::thread::sleep;
use std::time::Duration;

/// How often a refused connection is tried: with [`RETRY_PAUSE`] this waits ten seconds for a server to start.
const TRIES: u32 = 100;

/// The pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Connects to `address` (`HOST:PORT`), waiting up to ten seconds for a server that still refuses.
///
/// `nodelay` sets TCP_NODELAY. wasi:sockets 0.2 has no such option: in a component the libc accepts and ignores it and
/// the host decides.
///
/// # Errors
/// [`Error::Io`] of the last try.
pub fn connect(address: &str, nodelay: bool) -> Result<TcpStream> {
    let mut tries = 1;
    let stream = loop {
        match TcpStream::connect(address) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && tries < TRIES => {
                tries += 1;
                sleep(RETRY_PAUSE);
            }
            result => break result.context(|| format!("cannot connect to {address} ({tries} tries)"))?,
        }
    };
    if nodelay {
        stream
            .set_nodelay(true)
            .context(|| format!("cannot set TCP_NODELAY towards {address}"))?;
    }
    Ok(stream)
}

/// Listens on `address`, and says so on stderr with the port that was chosen for port 0.
///
/// # Errors
/// [`Error::Io`] when the address cannot be used.
pub fn listen(address: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).context(|| format!("cannot listen on {address}"))?;
    let local = listener
        .local_addr()
        .context(|| format!("cannot read the address of {address}"))?;
    eprintln!("listening on {local}");
    Ok(listener)
}

/// Serves connections one after the other: `connections` of them, or for ever. A connection that fails is reported
/// on stderr and does not keep the next one from being served.
///
/// # Errors
/// [`Error::Connections`] at the end when one or more failed, [`Error::Io`] when accepting fails.
pub fn serve(
    listener: &TcpListener,
    connections: Option<u64>,
    mut handle: impl FnMut(TcpStream) -> Result<()>,
) -> Result<()> {
    let (mut served, mut failed) = (0, 0);
    while connections.is_none_or(|limit| served < limit) {
        let (stream, peer) = listener
            .accept()
            .context(|| "cannot accept a connection".into())?;
        if let Err(error) = handle(stream) {
            eprintln!("connection from {peer}: {error}");
            failed += 1;
        }
        served += 1;
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Error::Connections { failed, served })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_client_waits_for_a_late_server() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = std::thread::spawn(move || {
            sleep(Duration::from_millis(250));
            let listener = TcpListener::bind(port).unwrap();
            listener.accept().unwrap().0.write_all(b"late").unwrap();
        });
        let mut text = String::new();
        connect(&port.to_string(), true)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        server.join().unwrap();
        assert_eq!(text, "late");
    }

    #[test]
    fn a_failed_connection_is_counted_and_the_next_one_served() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _clients = [
            TcpStream::connect(address).unwrap(),
            TcpStream::connect(address).unwrap(),
        ];
        let mut first = true;
        let result = serve(&listener, Some(2), |_| {
            if std::mem::take(&mut first) {
                Err(Error::Data("bad".into()))
            } else {
                Ok(())
            }
        });
        assert!(
            matches!(result, Err(Error::Connections { failed: 1, served: 2 })),
            "{result:?}"
        );
    }
}
