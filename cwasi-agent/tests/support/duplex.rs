//! Connections that talk in both directions at once, with random sizes and stalls, until they are told to stop.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::stream::{self, Position};

/// How the connections talk.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Longest message.
    pub longest: usize,
    /// One message in so many is followed by a stall of its sender.
    pub sender_stalls: u32,
    /// One read in so many is followed by a stall of its reader.
    pub reader_stalls: u32,
    /// Longest stall.
    pub stall: Duration,
}

impl Manner {
    /// Everything at once: messages of up to 128 KiB, and stalls of both ends.
    pub const RESTLESS: Self = Self {
        longest: 128 << 10,
        sender_stalls: 8,
        reader_stalls: 16,
        stall: Duration::from_millis(4),
    };
}

/// Connections in use. Every byte is checked by its reader.
pub struct Duplex {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Result<u64, String>>>,
    readers: Vec<JoinHandle<Result<u64, String>>>,
}

impl Duplex {
    /// Begins to talk on the connections.
    pub fn start(connections: Vec<(TcpStream, TcpStream)>, seed: u64, manner: Manner) -> Self {
        let mut duplex = Self {
            stop: Arc::default(),
            progress: Arc::default(),
            writers: Vec::new(),
            readers: Vec::new(),
        };
        for (index, (client, server)) in (0_u64..).zip(connections) {
            let both = [(&client, &server), (&server, &client)];
            for (direction, (from, to)) in (0_u64..).zip(both) {
                let seed = seed.wrapping_add(index * 2 + direction);
                let (from, to) = (from.try_clone().expect("dup"), to.try_clone().expect("dup"));
                let (stop, progress) = (Arc::clone(&duplex.stop), Arc::clone(&duplex.progress));
                duplex.writers.push(std::thread::spawn(move || {
                    give_way();
                    write(&from, seed, manner, &stop)
                }));
                duplex.readers.push(std::thread::spawn(move || {
                    give_way();
                    read(&to, seed, manner, &progress)
                }));
            }
        }
        duplex
    }

    /// Bytes received up to now.
    pub fn received(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Waits until more bytes have been received, as many as every direction has in its buffers several times over.
    pub fn goes_on(&self) {
        let goal = self.received() + self.readers.len() as u64 * (64 << 10);
        super::eventually("the connections go on", || self.received() > goal);
    }

    /// Lets every sender end its direction. Returns the bytes received, all that were sent.
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = 0;
        let directions = self.writers.into_iter().zip(self.readers).enumerate();
        for (direction, (writer, reader)) in directions {
            let sent = writer.join().expect("a sender panicked");
            let received = reader.join().expect("a reader panicked");
            match (sent, received) {
                (Ok(sent), Ok(received)) => {
                    assert_eq!(received, sent, "direction {direction}: bytes received and sent");
                    total += received;
                }
                (sent, received) => panic!("direction {direction}: sent {sent:?}, received {received:?}"),
            }
        }
        total
    }
}

/// Lets the test's own thread go first: it would wait for its turn among all those that talk for as long as they are many.
fn give_way() {
    // SAFETY: takes no pointers; 0 is this thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
    assert_eq!(result, 0, "setpriority: {}", std::io::Error::last_os_error());
}

fn stall(random: &mut fastrand::Rng, one_in: u32, longest: Duration) {
    if random.u32(..one_in) == 0 {
        std::thread::sleep(longest.mul_f32(random.f32()));
    }
}

/// A length whose logarithm is even: small ones are as frequent as large ones.
fn length(random: &mut fastrand::Rng, longest: usize) -> usize {
    let bits = random.u32(..=longest.ilog2());
    random.usize((1 << bits)..=(2_usize << bits).min(longest))
}

fn write(stream: &TcpStream, seed: u64, manner: Manner, stop: &AtomicBool) -> Result<u64, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut position = Position::new(seed);
    while !stop.load(Ordering::Relaxed) {
        let len = length(&mut random, manner.longest);
        stream::send(stream, position.next(len))
            .map_err(|error| format!("send near byte {}: {error}", position.at))?;
        stall(&mut random, manner.sender_stalls, manner.stall);
    }
    stream
        .shutdown(Shutdown::Write)
        .map_err(|error| format!("shutdown: {error}"))?;
    Ok(position.at)
}

fn read(stream: &TcpStream, seed: u64, manner: Manner, progress: &AtomicU64) -> Result<u64, String> {
    let mut random = fastrand::Rng::with_seed(!seed);
    let mut position = Position::new(seed);
    let mut buffer = vec![0; manner.longest];
    loop {
        let len = length(&mut random, manner.longest);
        match stream::receive(stream, &mut buffer[..len]) {
            Ok(0) => return Ok(position.at),
            Ok(read) => {
                position.check(&buffer[..read])?;
                progress.fetch_add(read as u64, Ordering::Relaxed);
            }
            Err(error) => return Err(format!("receive after byte {}: {error}", position.at)),
        }
        stall(&mut random, manner.reader_stalls, manner.stall);
    }
}
