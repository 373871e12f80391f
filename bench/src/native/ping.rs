//! Round-trip times.

use std::io::Write;
use std::time::{Duration, Instant};

use cwasi_peer::cycle::Cycle;
use cwasi_peer::socket::Stream;
use cwasi_peer::stats::Summary;
use serde::{Deserialize, Serialize};

use super::args::Client;
use super::net;
use crate::error::IoContext;
use crate::{Error, Result};

/// What `ping` measured; the fields of the guest of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ping {
    /// Bytes of a message.
    pub size: usize,
    /// Round trips measured.
    pub count: u64,
    /// Their distribution.
    #[serde(flatten)]
    pub times: Summary,
}

pub(super) fn run(client: &Client, warmup: u64) -> Result<Ping> {
    let mut stream = net::connect(&client.address, client.nodelay)?;
    let cycle = Cycle::new(client.size);
    let mut answer = vec![0; client.size];
    let mut times = Vec::new();
    for number in 0..warmup + client.count {
        let message = cycle.piece(number * client.size as u64, client.size);
        let time = round_trip(&mut stream, message, &mut answer)?;
        if answer != message {
            return Err(Error::Data(format!("round trip {number} came back altered")));
        }
        if number >= warmup {
            times.push(time);
        }
    }
    let none = || Error::Data("no round trip was measured; --count is 0".to_owned());
    Ok(Ping {
        size: client.size,
        count: client.count,
        times: Summary::of(&mut times).ok_or_else(none)?,
    })
}

fn round_trip(stream: &mut Stream, message: &[u8], answer: &mut [u8]) -> Result<Duration> {
    let start = Instant::now();
    stream.write_all(message).action(|| "send a message")?;
    if !stream.read_message(answer).action(|| "read an answer")? {
        return Err(Error::Data("the server closed the connection".to_owned()));
    }
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use cwasi_peer::socket::Address;

    use super::*;

    fn client(address: Address) -> Client {
        Client {
            address,
            size: 1000,
            count: 20,
            nodelay: true,
        }
    }

    #[test]
    fn an_echo_is_measured_and_a_liar_is_found() {
        let listener = net::listen(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local().clone();
        let server = thread::spawn(move || {
            let mut lies = [false, true].into_iter();
            net::serve(&listener, Some(2), true, |mut stream| {
                let lie = lies.next().unwrap();
                let mut message = [0; 1000];
                while stream.read_message(&mut message).action(|| "read")? {
                    message[999] ^= u8::from(lie);
                    stream.write_all(&message).action(|| "write")?;
                }
                Ok(())
            })
        });
        let ping = run(&client(address.clone()), 3).unwrap();
        assert_eq!((ping.size, ping.count), (1000, 20));
        let times = ping.times;
        assert!(0.0 < times.min_us && times.min_us <= times.p50_us && times.p50_us <= times.p99_us);
        assert!(times.p99_us <= times.max_us);
        assert!(matches!(run(&client(address), 0), Err(Error::Data(_))));
        server.join().unwrap().unwrap();
    }
}
