//! Round-trip times.

use std::io::Write;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::args::Client;
use super::net::{self, Stream};
use super::pattern::Pattern;
use crate::error::IoContext;
use crate::{Error, Result, stats};

/// What `ping` measured; the fields of the guest of the same name. Times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ping {
    /// Bytes of a message.
    pub size: usize,
    /// Round trips measured.
    pub count: u64,
    /// Their median.
    pub p50_us: f64,
    /// Their 99th percentile.
    pub p99_us: f64,
    /// Their mean.
    pub mean_us: f64,
    /// The shortest.
    pub min_us: f64,
    /// The longest.
    pub max_us: f64,
}

pub(super) fn run(client: &Client, warmup: u64) -> Result<Ping> {
    let mut stream = net::connect(client.address, client.nodelay)?;
    let pattern = Pattern::new(client.size);
    let mut answer = vec![0; client.size];
    let mut times = Vec::new();
    for number in 0..warmup + client.count {
        let message = pattern.piece(number * client.size as u64, client.size);
        let time = round_trip(&mut stream, message, &mut answer)?;
        if answer != message {
            return Err(Error::Data(format!("round trip {number} came back altered")));
        }
        if number >= warmup {
            times.push(time.as_secs_f64() * 1e6);
        }
    }
    summary(client.size, &mut times)
}

fn round_trip(stream: &mut Stream, message: &[u8], answer: &mut [u8]) -> Result<Duration> {
    let start = Instant::now();
    stream.write_all(message).action(|| "send a message")?;
    if !net::read_message(stream, answer).action(|| "read an answer")? {
        return Err(Error::Data("the server closed the connection".to_owned()));
    }
    Ok(start.elapsed())
}

fn summary(size: usize, times: &mut [f64]) -> Result<Ping> {
    times.sort_by(f64::total_cmp);
    match (times.first(), times.last()) {
        (Some(&min_us), Some(&max_us)) => Ok(Ping {
            size,
            count: times.len() as u64,
            p50_us: stats::percentile(times, 50),
            p99_us: stats::percentile(times, 99),
            mean_us: times.iter().sum::<f64>() / times.len() as f64,
            min_us,
            max_us,
        }),
        _ => Err(Error::Data("no round trip was measured; --count is 0".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn client(address: std::net::SocketAddr) -> Client {
        Client {
            address,
            size: 1000,
            count: 20,
            nodelay: true,
        }
    }

    #[test]
    fn an_echo_is_measured_and_a_liar_is_found() {
        let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut lies = [false, true].into_iter();
            net::serve(&listener, Some(2), true, |mut stream| {
                let lie = lies.next().unwrap();
                let mut message = [0; 1000];
                while net::read_message(&mut stream, &mut message).action(|| "read")? {
                    message[999] ^= u8::from(lie);
                    stream.write_all(&message).action(|| "write")?;
                }
                Ok(())
            })
        });
        let ping = run(&client(address), 3).unwrap();
        assert_eq!((ping.size, ping.count), (1000, 20));
        assert!(0.0 < ping.min_us && ping.min_us <= ping.p50_us && ping.p50_us <= ping.p99_us);
        assert!(ping.p99_us <= ping.max_us);
        assert!(matches!(run(&client(address), 0), Err(Error::Data(_))));
        server.join().unwrap().unwrap();
    }
}
