//! From the start of a function's process to its first answer, as a client sees it that tries again and again.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cwasi_client::netns;

use super::cast::Role;
use super::peer::Host;
use crate::error::IoContext;
use crate::{Error, Result, interrupt};

/// How long a start may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The pause between two tries.
const POLL: Duration = Duration::from_micros(200);

/// What is asked, and what is to be answered.
const REQUEST: [u8; 8] = *b"request!";

/// The function that is started: an echo.
pub(super) fn role(host: Host, listen: &str) -> Role {
    let mut args = vec![listen.to_owned()];
    // A native echo sends whole messages back, a guest whatever it has read.
    if matches!(host, Host::Rust | Host::C) {
        args.extend(["--size".to_owned(), REQUEST.len().to_string()]);
    }
    Role {
        program: "echo",
        args,
    }
}

/// Asks from a network namespace until there is an answer, and tells how long that took from `begin` on.
pub(super) fn first_answer(from: &Path, address: SocketAddr, begin: Instant) -> Result<Duration> {
    netns::run(from, || {
        loop {
            interrupt::check()?;
            if ask(address)? {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > LIMIT {
                return Err(Error::Timeout {
                    program: "a function".to_owned(),
                    what: format!("answer at {address}"),
                    after: LIMIT,
                });
            }
            thread::sleep(POLL);
        }
    })?
}

/// One request; `false` when nobody listens yet.
fn ask(address: SocketAddr) -> Result<bool> {
    let mut stream = match TcpStream::connect(address) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(false),
        Err(error) => return Err(error).action(|| format!("connect to {address}")),
    };
    let mut answer = [0; REQUEST.len()];
    // What listens is accepted by the kernel at once, and answered when the function runs.
    stream
        .set_read_timeout(Some(LIMIT))
        .and_then(|()| stream.write_all(&REQUEST))
        .and_then(|()| stream.read_exact(&mut answer))
        .action(|| format!("ask {address}"))?;
    if answer == REQUEST {
        return Ok(true);
    }
    Err(Error::Data(format!("{address} answered {answer:?}")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_asked_until_it_answers() {
        let own = Path::new("/proc/self/ns/net");
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        assert!(!ask(address).unwrap(), "nobody listens");
        let echo = thread::spawn(move || {
            thread::sleep(Duration::from_millis(30));
            let listener = TcpListener::bind(address).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = REQUEST;
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
        });
        match first_answer(own, address, Instant::now()) {
            Ok(took) => assert!(took >= Duration::from_millis(30)),
            Err(Error::Netns(error)) => {
                eprintln!("skipped: {error}");
                assert!(ask(address).is_ok());
            }
            Err(error) => panic!("{error}"),
        }
        echo.join().unwrap();
    }
}
