//! Answers requests, on as many connections at once as there are.

use std::io::{self, ErrorKind};
use std::time::Instant;

use rustix::event::PollFd;
use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::message::{self, Header};
use crate::socket::{Listener, PollFlags, Stream, wait};
use crate::{Error, Result};

/// How connections are served.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// End after this many connections; never when there is none.
    pub connections: Option<u64>,
    /// Read nothing before so many connections are there: clients that start one after the other then begin together.
    pub together: usize,
    /// Set `TCP_NODELAY`.
    pub nodelay: bool,
    /// Compare every byte of every request, and not only its numbers: for a run whose speed is not of interest.
    pub verify: bool,
}

/// What was served, from the first of some connections that were open at the same time to the last one's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// Connections that ended.
    pub connections: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the first look for a request to the last answer; those that clients do not measure are among them.
    pub seconds: f64,
    /// Requests per second.
    pub per_second: f64,
    /// 10⁹ bytes of requests per second.
    pub gb_per_s: f64,
    /// Connections that failed.
    pub failed: u64,
}

/// Serves a listener. `report` is given what was served whenever no connection is open any more; `complain` why one failed.
///
/// # Errors
/// Accepting, waiting or `report` fails.
pub fn serve<E: From<Error>>(
    listener: &Listener,
    server: Server,
    mut report: impl FnMut(&Served) -> std::result::Result<(), E>,
    mut complain: impl FnMut(&Error),
) -> std::result::Result<(), E> {
    let mut left = server.connections;
    while left != Some(0) {
        let batch = Batch::new(listener, server, left).run(&mut complain)?;
        left = left.map(|left| left - batch.connections);
        report(&batch)?;
    }
    Ok(())
}

/// Connections that are open at the same time.
struct Batch<'a> {
    listener: &'a Listener,
    server: Server,
    /// Connections that may still come.
    left: Option<u64>,
    sessions: Vec<Session>,
    /// When enough of them were there.
    begun: Option<Instant>,
    served: Served,
}

impl<'a> Batch<'a> {
    fn new(listener: &'a Listener, server: Server, left: Option<u64>) -> Self {
        Self {
            listener,
            server,
            left,
            sessions: Vec::new(),
            begun: None,
            served: Served::default(),
        }
    }

    fn run(mut self, complain: &mut impl FnMut(&Error)) -> Result<Served> {
        let mut last = None;
        while self.begun.is_none() || !self.sessions.is_empty() {
            let (ready, connects) = self.wait()?;
            let before = self.served.requests;
            self.advance(&ready, complain);
            if self.served.requests > before {
                last = Some(Instant::now());
            }
            if connects {
                self.accept()?;
            }
        }
        if let (Some(begun), Some(last)) = (self.begun, last) {
            let seconds = last.duration_since(begun).as_secs_f64();
            self.served.seconds = seconds;
            self.served.per_second = self.served.requests as f64 / seconds;
            self.served.gb_per_s = self.served.bytes as f64 / seconds / 1e9;
        }
        Ok(self.served)
    }

    /// Whether each session, in their order, can go on, and whether somebody connects.
    fn wait(&self) -> Result<(Vec<bool>, bool)> {
        let sessions = match self.begun {
            Some(_) => self.sessions.as_slice(),
            None => &[],
        };
        let mut sockets: Vec<PollFd<'_>> = sessions
            .iter()
            .map(|session| PollFd::new(&session.stream, session.event()))
            .collect();
        // A listener that takes no more would only cost its place in every wait.
        if self.left != Some(0) {
            sockets.push(PollFd::new(self.listener, PollFlags::IN));
        }
        wait(&mut sockets).context(|| "wait for requests (poll)".to_owned())?;
        let mut ready: Vec<bool> = sockets
            .iter()
            .map(|socket| !socket.revents().is_empty())
            .collect();
        let connects = ready.get(sessions.len()) == Some(&true);
        ready.truncate(sessions.len());
        Ok((ready, connects))
    }

    fn advance(&mut self, ready: &[bool], complain: &mut impl FnMut(&Error)) {
        let mut ready = ready.iter();
        self.sessions.retain_mut(|session| {
            if !ready.next().is_some_and(|ready| *ready) {
                return true;
            }
            let step = session.advance();
            match &step {
                Ok(Step::Waits) => return true,
                Ok(Step::Answered { last }) => {
                    self.served.requests += 1;
                    self.served.bytes += session.request.len() as u64;
                    if !last {
                        return true;
                    }
                }
                Ok(Step::Ended) => {}
                Err(error) => {
                    self.served.failed += 1;
                    complain(error);
                }
            }
            self.served.connections += 1;
            false
        });
    }

    /// Takes what has connected; begins when enough is there.
    fn accept(&mut self) -> Result<()> {
        while self.left != Some(0) {
            let stream = match self.listener.try_accept() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                accepted => accepted.context(|| "accept a connection".to_owned())?,
            };
            stream.set_nodelay(self.server.nodelay)?;
            self.left = self.left.map(|left| left - 1);
            self.sessions.push(Session::new(stream, self.server.verify));
        }
        if self.sessions.len() >= self.server.together.max(1) || self.left == Some(0) {
            self.begun.get_or_insert_with(Instant::now);
        }
        Ok(())
    }
}

/// One connection.
struct Session {
    stream: Stream,
    header: [u8; Header::BYTES],
    phase: Phase,
    close_after: u64,
    request: Vec<u8>,
    answer: usize,
    answered: u64,
    verify: bool,
    /// What a request looks like, where all of it is compared.
    expected: Vec<u8>,
}

/// What is on its way, and how much of it is through.
#[derive(Clone, Copy)]
enum Phase {
    Header(usize),
    Request(usize),
    Answer(usize),
}

enum Step {
    /// Nothing more can be done now.
    Waits,
    /// An answer is sent; the server closes when it was the last.
    Answered { last: bool },
    /// The client closed.
    Ended,
}

impl Session {
    fn new(stream: Stream, verify: bool) -> Self {
        Self {
            stream,
            header: [0; Header::BYTES],
            phase: Phase::Header(0),
            close_after: 0,
            request: Vec::new(),
            answer: 0,
            answered: 0,
            verify,
            expected: Vec::new(),
        }
    }

    fn event(&self) -> PollFlags {
        match self.phase {
            Phase::Header(_) | Phase::Request(_) => PollFlags::IN,
            Phase::Answer(_) => PollFlags::OUT,
        }
    }

    /// Goes on until it would have to wait, but no further than to the end of an answer: others want to go on too.
    fn advance(&mut self) -> Result<Step> {
        loop {
            let done = match self.phase {
                Phase::Header(filled) => self.stream.try_read(&mut self.header[filled..]),
                Phase::Request(filled) => self.stream.try_read(&mut self.request[filled..]),
                Phase::Answer(sent) => self.stream.try_write(&self.request[sent..self.answer]),
            };
            let done = match done {
                Ok(done) => done,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Waits),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context(|| self.doing().to_owned()),
            };
            match &mut self.phase {
                Phase::Header(0) | Phase::Request(0) if done == 0 => return Ok(Step::Ended),
                Phase::Header(_) | Phase::Request(_) if done == 0 => {
                    return Err(io::Error::from(ErrorKind::UnexpectedEof))
                        .context(|| self.doing().to_owned());
                }
                Phase::Header(filled) => {
                    *filled += done;
                    if *filled == self.header.len() {
                        self.begin()?;
                    }
                }
                Phase::Request(filled) => {
                    *filled += done;
                    if *filled == self.request.len() {
                        self.check()?;
                        self.phase = Phase::Answer(0);
                    }
                }
                Phase::Answer(sent) => {
                    *sent += done;
                    if *sent == self.answer {
                        self.phase = Phase::Request(0);
                        self.answered += 1;
                        return Ok(Step::Answered {
                            last: self.answered == self.close_after,
                        });
                    }
                }
            }
        }
    }

    const fn doing(&self) -> &'static str {
        match self.phase {
            Phase::Header(_) => "read what the client announces",
            Phase::Request(_) => "read a request",
            Phase::Answer(_) => "answer",
        }
    }

    fn begin(&mut self) -> Result<()> {
        let header = Header::decode(&self.header)?;
        self.request = vec![0; header.request];
        self.answer = header.answer;
        self.close_after = header.close_after;
        if self.verify {
            self.expected = vec![0; header.request];
            message::fill(&mut self.expected);
        }
        self.phase = Phase::Request(0);
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        let number = self.answered;
        let mut right = message::is_stamped(&self.request, self.request.len(), number);
        if self.verify {
            message::stamp(&mut self.expected, number);
            right &= self.expected == self.request;
        }
        if right {
            return Ok(());
        }
        Err(Error::Data(format!("request {number} arrived altered")))
    }
}
