//! From a call to the first thing that it gives.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cwasi_bench::error::IoContext;
use cwasi_testnode::{Container, Pod};

use crate::{Error, Peer, Result, Stage};

/// How often the first output and the first answer are looked for.
const POLL: Duration = Duration::from_micros(200);

/// How long a start may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How long containerd gets to be idle again.
const IDLE: Duration = Duration::from_millis(100);

/// Port of the first echo in a pod.
const PORT: u16 = 7000;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first line in the container's log.
    Output,
    /// The first answer to a request over TCP, asked from the node.
    Answer,
}

/// The times of a start.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// From `RunPodSandbox`, of a pod with one container.
    pub pod: Duration,
    /// From `CreateContainer`, in a pod that was idle.
    pub container: Duration,
}

/// Starts a pod with a container, and another container in it.
///
/// # Errors
/// Something does not start; [`Error::Invalid`] when the peer did something else than it should.
pub fn measure(stage: &Stage, peer: Peer, event: Event) -> Result<Start> {
    stage.chill(peer)?;
    let begin = Instant::now();
    let pod = stage.node().pod(&peer.pod("start"))?;
    let first = Trial {
        stage,
        peer,
        event,
        pod: &pod,
        number: 0,
    }
    .run()?;
    let in_new_pod = first - begin;

    thread::sleep(IDLE);
    stage.chill(peer)?;
    let compiled = stage.compiled();
    let begin = Instant::now();
    let second = Trial {
        stage,
        peer,
        event,
        pod: &pod,
        number: 1,
    }
    .run()?;
    stage.check_compiled(peer, &compiled)?;
    pod.remove()?;
    Ok(Start {
        pod: in_new_pod,
        container: second - begin,
    })
}

/// One container.
#[derive(Clone, Copy)]
struct Trial<'a> {
    stage: &'a Stage,
    peer: Peer,
    event: Event,
    pod: &'a Pod<'a>,
    number: u16,
}

impl Trial<'_> {
    /// Makes it, starts it, waits for the event, and removes it. Gives the moment of the event.
    fn run(self) -> Result<Instant> {
        let (name, image) = (format!("c{}", self.number), self.stage.image(self.peer));
        let port = PORT + self.number;
        let (container, seen) = match self.event {
            Event::Output => {
                let container = self.pod.create(&self.peer.printing(&name, image))?;
                let seen = start(&container, |stop| first_output(&container, stop))?;
                self.check_exit(&container)?;
                (container, seen)
            }
            Event::Answer => {
                let address = address(self.pod, port)?;
                let container = self.pod.create(&self.peer.echo(&name, image, port))?;
                let seen = start(&container, |stop| first_answer(self.stage, address, stop))?;
                (container, seen)
            }
        };
        container.remove()?;
        Ok(seen)
    }

    fn check_exit(&self, container: &Container<'_>) -> Result<()> {
        match container.wait()? {
            0 => Ok(()),
            code => Err(Error::Invalid {
                peer: self.peer,
                detail: format!("it ended with {code}: {}", container.stderr()?.trim()),
            }),
        }
    }
}

/// Starts a container while `watch` waits for what it does: that may come before the call's answer. A start that fails
/// stops the watch.
fn start<T: Send>(
    container: &Container<'_>,
    watch: impl FnOnce(&AtomicBool) -> Result<T> + Send,
) -> Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&stop));
        let started = container.start();
        stop.store(started.is_err(), Ordering::Relaxed);
        let seen = watching
            .join()
            .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked));
        started?;
        seen
    })
}

fn first_output(container: &Container<'_>, stop: &AtomicBool) -> Result<Instant> {
    poll("the first output", stop, || Ok(!container.stdout()?.is_empty()))
}

/// Waits until an echo answers, as a client on the node would that tries again and again.
pub(crate) fn first_answer(stage: &Stage, address: SocketAddr, stop: &AtomicBool) -> Result<Instant> {
    stage
        .node()
        .namespaces()
        .run(|| Ok(poll("the first answer", stop, || ask(address))))?
}

/// The address of a port of a pod.
///
/// # Errors
/// The pod has none.
pub(crate) fn address(pod: &Pod<'_>, port: u16) -> Result<SocketAddr> {
    let ip = pod.ip()?;
    let ip = ip.parse().map_err(|error| cwasi_testnode::Error::Output {
        program: "PodSandboxStatus".to_owned(),
        detail: format!("the address {ip:?} ({error})"),
    })?;
    Ok(SocketAddr::new(ip, port))
}

/// One request; `false` when nobody listens yet.
fn ask(address: SocketAddr) -> Result<bool> {
    let mut stream = match TcpStream::connect(address) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(false),
        Err(error) => return Err(error).action(|| format!("connect to {address}"))?,
    };
    let request = *b"request!";
    let mut answer = [0; 8];
    // What listens is accepted by the kernel at once, and answered when the function runs.
    stream
        .set_read_timeout(Some(LIMIT))
        .and_then(|()| stream.write_all(&request))
        .and_then(|()| stream.read_exact(&mut answer))
        .action(|| format!("ask {address}"))?;
    if answer == request {
        return Ok(true);
    }
    let detail = format!("{address} answered {:?}", String::from_utf8_lossy(&answer));
    Err(cwasi_bench::Error::Data(detail).into())
}

/// The moment at which `seen` is first true.
fn poll(what: &str, stop: &AtomicBool, mut seen: impl FnMut() -> Result<bool>) -> Result<Instant> {
    let begin = Instant::now();
    while !seen()? {
        if stop.load(Ordering::Relaxed) || begin.elapsed() > LIMIT {
            return Err(Error::Node(cwasi_testnode::Error::Timeout {
                what: what.to_owned(),
                after: begin.elapsed(),
            }));
        }
        thread::sleep(POLL);
    }
    Ok(Instant::now())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_asked_until_it_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let echo = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
        });
        assert!(ask(address).unwrap());
        echo.join().unwrap();
        assert!(!ask(address).unwrap(), "nobody listens any more");
    }

    #[test]
    fn another_answer_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let other = thread::spawn(move || listener.accept().unwrap().0.write_all(b"anything").unwrap());
        assert!(ask(address).unwrap_err().to_string().contains("anything"));
        other.join().unwrap();
    }

    #[test]
    fn a_start_that_failed_ends_the_watch() {
        let stop = AtomicBool::new(true);
        let error = poll("it", &stop, || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("not within"), "{error}");
        assert!(poll("it", &stop, || Ok(true)).is_ok());
    }
}
