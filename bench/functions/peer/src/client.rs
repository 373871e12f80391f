//! Sends requests and measures until their answers are there.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use rustix::event::PollFd;
use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::message::{self, Header};
use crate::socket::{Address, PollFlags, Stream, wait};
use crate::stats::Summary;
use crate::{Error, Result};

/// How long a server may take to listen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What a client does.
#[derive(Clone, Debug)]
pub struct Client {
    /// The servers.
    pub servers: Vec<Address>,
    /// Connections to each of them. One request is on its way on each.
    pub connections: usize,
    /// Bytes of a request.
    pub size: usize,
    /// Bytes of an answer, which is sent when all of its request has arrived.
    pub answer: usize,
    /// Requests on each connection that are measured.
    pub count: u64,
    /// Requests on each connection before them.
    pub warmup: u64,
    /// Send the next requests when all connections have their answers, and measure these rounds too.
    pub rounds: bool,
    /// A new connection for each request; its time is the connection's, to the end of stream.
    pub fresh: bool,
    /// Set `TCP_NODELAY`.
    pub nodelay: bool,
    /// Compare every byte of every answer, and not only its number: for a run whose speed is not of interest.
    pub verify: bool,
}

/// What a client measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Bytes of a request.
    pub size: usize,
    /// Bytes of an answer.
    pub answer: usize,
    /// Connections at the same time, over all servers.
    pub connections: usize,
    /// Requests measured, over all connections.
    pub count: u64,
    /// Time for all of them.
    pub seconds: f64,
    /// Requests per second.
    pub per_second: f64,
    /// 10⁹ bytes of requests per second.
    pub gb_per_s: f64,
    /// From before a request is sent to when its answer is there.
    #[serde(flatten)]
    pub times: Summary,
    /// From before the first request of a round is sent to when the last answer is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<Summary>,
}

impl Client {
    /// Connects, sends everything and returns the figures.
    ///
    /// # Errors
    /// As [`Client::check`]; [`Error::Data`] for a wrong answer; [`Error::Io`] when a connection fails.
    pub fn run(&self) -> Result<Measured> {
        self.check()?;
        let mut flights = Vec::new();
        // Turn by turn: the first requests of all go to different servers.
        for _ in 0..self.connections {
            for server in &self.servers {
                flights.push(Flight::new(self, server)?);
            }
        }
        drive(&mut flights, self.warmup, self.rounds)?;
        let begun = Instant::now();
        let mut times = drive(&mut flights, self.count, self.rounds)?;
        let seconds = begun.elapsed().as_secs_f64();
        let none = || Error::Data("nothing was measured".to_owned());
        let count = self.count * flights.len() as u64;
        Ok(Measured {
            size: self.size,
            answer: self.answer,
            connections: flights.len(),
            count,
            seconds,
            per_second: count as f64 / seconds,
            gb_per_s: count as f64 * self.size as f64 / seconds / 1e9,
            times: Summary::of(&mut times.requests).ok_or_else(none)?,
            round: Summary::of(&mut times.rounds),
        })
    }

    /// Whether the numbers make sense together.
    ///
    /// # Errors
    /// [`Error::Senseless`] that says which do not.
    pub fn check(&self) -> Result<()> {
        let wrong = |text| Err(Error::Senseless(text));
        if self.servers.is_empty() || self.connections == 0 || self.count == 0 {
            return wrong("servers, connections and requests must be at least 1");
        }
        if self.size == 0 || self.size > message::MAX_REQUEST {
            return wrong("a request has 1 byte to 1 GiB");
        }
        if self.answer == 0 || self.answer > self.size {
            return wrong("an answer has 1 byte to as many as its request");
        }
        Ok(())
    }
}

/// How long everything took.
#[derive(Default)]
struct Times {
    requests: Vec<Duration>,
    rounds: Vec<Duration>,
}

/// Sends `count` requests on each connection.
fn drive(flights: &mut [Flight<'_>], count: u64, rounds: bool) -> Result<Times> {
    let mut times = Times::default();
    if !rounds {
        fly(flights, count, &mut times.requests)?;
        return Ok(times);
    }
    for _ in 0..count {
        let begun = Instant::now();
        fly(flights, 1, &mut times.requests)?;
        times.rounds.push(begun.elapsed());
    }
    Ok(times)
}

/// Sends `count` requests on each connection, the next one as soon as the answer is there.
fn fly(flights: &mut [Flight<'_>], count: u64, times: &mut Vec<Duration>) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    for flight in &mut *flights {
        flight.left = count;
        flight.begin()?;
    }
    let mut flying: Vec<&mut Flight<'_>> = flights.iter_mut().collect();
    while !flying.is_empty() {
        let ready = ready(&flying)?;
        let mut ready = ready.into_iter();
        let mut failure = None;
        flying.retain_mut(|flight| {
            if ready.next() != Some(true) || failure.is_some() {
                return true;
            }
            match flight.go_on() {
                Ok(None) => true,
                Ok(Some(time)) => {
                    times.push(time);
                    flight.left > 0
                }
                Err(error) => {
                    failure = Some(error);
                    true
                }
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
    }
    Ok(())
}

fn ready(flights: &[&mut Flight<'_>]) -> Result<Vec<bool>> {
    let mut sockets: Vec<PollFd<'_>> = flights
        .iter()
        .map(|flight| PollFd::new(flight.stream(), flight.event()))
        .collect();
    wait(&mut sockets).context(|| "wait for answers (poll)".to_owned())?;
    Ok(sockets
        .iter()
        .map(|socket| !socket.revents().is_empty())
        .collect())
}

/// A connection with a request on its way.
struct Flight<'a> {
    client: &'a Client,
    server: &'a Address,
    /// There from the beginning of a request to its end; after that too, unless each request has one of its own.
    stream: Option<Stream>,
    /// The header and the request: a connection's first write has both.
    out: Vec<u8>,
    answer: Vec<u8>,
    number: u64,
    begun: Instant,
    phase: Phase,
    left: u64,
}

/// What is on its way, and how much of it is through.
#[derive(Clone, Copy)]
enum Phase {
    Request(usize),
    Answer(usize),
    End,
}

impl<'a> Flight<'a> {
    fn new(client: &'a Client, server: &'a Address) -> Result<Self> {
        let header = Header {
            request: client.size,
            answer: client.answer,
            close_after: u64::from(client.fresh),
        };
        let mut out = header.encode().to_vec();
        out.resize(Header::BYTES + client.size, 0);
        message::fill(&mut out[Header::BYTES..]);
        let stream = match client.fresh {
            true => None,
            false => Some(Stream::connect(server, client.nodelay, PATIENCE)?),
        };
        Ok(Self {
            client,
            server,
            stream,
            out,
            answer: vec![0; client.answer],
            number: 0,
            begun: Instant::now(),
            phase: Phase::Request(0),
            left: 0,
        })
    }

    fn stream(&self) -> &Stream {
        self.stream.as_ref().expect("`begin` connects")
    }

    fn request(&self) -> &[u8] {
        &self.out[Header::BYTES..]
    }

    const fn event(&self) -> PollFlags {
        match self.phase {
            Phase::Request(_) => PollFlags::OUT,
            Phase::Answer(_) | Phase::End => PollFlags::IN,
        }
    }

    /// Begins the next request, and sends what there is room for.
    fn begin(&mut self) -> Result<()> {
        message::stamp(&mut self.out[Header::BYTES..], self.number);
        self.begun = Instant::now();
        if self.stream.is_none() {
            self.stream = Some(Stream::connect(self.server, self.client.nodelay, PATIENCE)?);
        }
        let from = if self.number == 0 { 0 } else { Header::BYTES };
        self.phase = Phase::Request(from);
        self.advance().map(drop)
    }

    /// Goes on after a wait. Returns the time of a request that is done, after the next one has begun.
    fn go_on(&mut self) -> Result<Option<Duration>> {
        if !self.advance()? {
            return Ok(None);
        }
        let time = self.begun.elapsed();
        self.check()?;
        self.left -= 1;
        if self.left > 0 {
            self.begin()?;
        }
        Ok(Some(time))
    }

    /// Goes on until it has to wait; whether the request is done.
    fn advance(&mut self) -> Result<bool> {
        let stream = self.stream.as_ref().expect("`begin` connects");
        loop {
            let done = match self.phase {
                Phase::Request(sent) => stream.try_write(&self.out[sent..]),
                Phase::Answer(filled) => stream.try_read(&mut self.answer[filled..]),
                Phase::End => stream.try_read(&mut [0]),
            };
            let done = match done {
                Ok(done) => done,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context(|| self.doing()),
            };
            match &mut self.phase {
                Phase::Request(sent) => {
                    *sent += done;
                    if *sent == self.out.len() {
                        self.phase = Phase::Answer(0);
                        // It cannot be there yet: the server waits for the last byte.
                        return Ok(false);
                    }
                }
                Phase::Answer(_) if done == 0 => {
                    return Err(io::Error::from(ErrorKind::UnexpectedEof)).context(|| self.doing());
                }
                Phase::Answer(filled) => {
                    *filled += done;
                    if *filled < self.answer.len() {
                        continue;
                    }
                    if !self.client.fresh {
                        return Ok(true);
                    }
                    self.phase = Phase::End;
                }
                Phase::End if done == 0 => return Ok(true),
                Phase::End => {
                    return Err(Error::Data("the server sent more than an answer".to_owned()));
                }
            }
        }
    }

    fn doing(&self) -> String {
        let what = match self.phase {
            Phase::Request(_) => "send a request to",
            Phase::Answer(_) => "read an answer of",
            Phase::End => "read the end of stream of",
        };
        format!("{what} {}", self.server)
    }

    fn check(&mut self) -> Result<()> {
        let right = message::is_stamped(&self.answer, self.client.size, self.number)
            && (!self.client.verify || self.request()[..self.answer.len()] == self.answer);
        if !right {
            return Err(Error::Data(format!("answer {} is altered", self.number)));
        }
        if self.client.fresh {
            self.stream = None;
        } else {
            self.number += 1;
        }
        Ok(())
    }
}
