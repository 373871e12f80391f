//! Messages that go from one function to another through a queue of Redis.

use cwasi_functions::args::Args;
use cwasi_functions::error::{Context, exit};
use cwasi_functions::stats::Summary;
use cwasi_functions::{Error, Result, clock, net, report, resp};
use cwasi_peer::message;
use serde::Serialize;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Sends messages through a list of Redis to a waiting consumer, and prints the times as one JSON line. The consumer tells how
long each took to arrive, by the machine's wall clock, through a second list. Messages have numbers, which it checks.

Usage: redis producer ADDR:PORT --size BYTES --count N [--warmup N] [--window N] [--key KEY]
       redis consumer ADDR:PORT [--messages N] [--key KEY]

  --size BYTES   bytes of each message, at least 32
  --count N      messages to measure
  --warmup N     messages before them that are not measured (default 0)
  --window N     messages that are sent before the first must have arrived (default 1)
  --messages N   exit after N messages (default: consume for ever)
  --key KEY      the list's key (default cwasi)";

/// A buffer for short answers; a longer value is read past it.
const BUFFER_BYTES: usize = 64 * 1024;

/// Where a message has the time at which it was sent, between its number at the beginning and the one at the end.
const SENT: std::ops::Range<usize> = 8..16;

const MIN_SIZE: usize = 32;

#[derive(Debug, Serialize)]
struct Report {
    size: usize,
    count: usize,
    window: usize,
    seconds: f64,
    per_second: f64,
    gb_per_s: f64,
    /// From before a message is sent to when the consumer has it.
    #[serde(flatten)]
    times: Summary,
    /// To when the producer knows that.
    answered: Summary,
}

fn main() -> ExitCode {
    exit("redis", run)
}

fn run() -> Result<()> {
    let Some(mut args) = Args::from_env(USAGE, &[])? else {
        return Ok(());
    };
    match args.positional::<String>("`producer` or `consumer`")?.as_str() {
        "producer" => producer(args),
        "consumer" => consumer(args),
        other => Err(Error::Usage(format!(
            "`{other}` is neither `producer` nor `consumer`"
        ))),
    }
}

/// A connection to Redis.
struct Redis {
    reader: BufReader<TcpStream>,
}

impl Redis {
    fn connect(address: &str) -> Result<Self> {
        Ok(Self {
            reader: BufReader::with_capacity(BUFFER_BYTES, net::connect(address, true)?),
        })
    }

    fn send(&mut self, command: &[u8]) -> Result<()> {
        // Not by a clone of the stream: WASI has none.
        self.reader
            .get_mut()
            .write_all(command)
            .context(|| "cannot send to Redis".into())
    }

    fn push(&mut self, command: &[u8]) -> Result<()> {
        self.send(command)?;
        resp::integer(&mut self.reader).map(drop)
    }

    fn pop(&mut self, command: &[u8], value: &mut Vec<u8>) -> Result<()> {
        self.send(command)?;
        resp::popped(&mut self.reader, value)
    }
}

/// The keys of the messages and of what is said about them.
fn keys(args: &mut Args) -> Result<[String; 2]> {
    let key = args.optional("key")?.unwrap_or_else(|| "cwasi".to_owned());
    let arrived = format!("{key}:arrived");
    Ok([key, arrived])
}

/// A command that waits for the next value of a list.
fn pop_command(key: &str) -> Vec<u8> {
    let mut command = Vec::new();
    resp::command(&mut command, &[b"BRPOP", key.as_bytes(), b"0"]);
    command
}

fn consumer(mut args: Args) -> Result<()> {
    let address: String = args.positional("ADDR:PORT")?;
    let messages: Option<u64> = args.optional("messages")?;
    let [key, arrived] = keys(&mut args)?;
    args.finish()?;
    let mut redis = Redis::connect(&address)?;
    let pop = pop_command(&key);
    eprintln!("waiting at {address} for {key}");
    let (mut message, mut push) = (Vec::new(), Vec::new());
    let (mut consumed, mut number) = (0, 0);
    while messages.is_none_or(|messages| consumed < messages) {
        redis.pop(&pop, &mut message)?;
        let sent = message.get(SENT).and_then(|bytes| bytes.try_into().ok());
        let sent = sent.ok_or_else(|| Error::Data("a message without a time".into()))?;
        let nanos = clock::since(u64::from_le_bytes(sent))?.as_nanos().to_string();
        if message::is_stamped(&message, message.len(), 0) {
            // Another producer begins.
            number = 0;
        } else if !message::is_stamped(&message, message.len(), number) {
            return Err(Error::Data(format!("another message than {number} arrived")));
        }
        push.clear();
        resp::command(&mut push, &[b"LPUSH", arrived.as_bytes(), nanos.as_bytes()]);
        redis.push(&push)?;
        number += 1;
        consumed += 1;
    }
    Ok(())
}

fn producer(mut args: Args) -> Result<()> {
    let address: String = args.positional("ADDR:PORT")?;
    let size: usize = args.required("size")?;
    let count: usize = args.required("count")?;
    let warmup: usize = args.optional("warmup")?.unwrap_or(0);
    let window: usize = args.optional("window")?.unwrap_or(1);
    let [key, arrived] = keys(&mut args)?;
    args.finish()?;
    if size < MIN_SIZE || count == 0 || window == 0 {
        return Err(Error::Usage(format!(
            "--size must be at least {MIN_SIZE}, --count and --window at least 1"
        )));
    }
    let mut producer = Producer::new(Redis::connect(&address)?, &key, &arrived, size);
    producer.send(warmup, window)?;
    producer.times.clear();
    producer.answered.clear();
    let begun = Instant::now();
    producer.send(count, window)?;
    let seconds = begun.elapsed().as_secs_f64();
    let summary = |times: &mut [Duration]| Summary::of(times).expect("count is at least 1");
    report::print(&Report {
        size,
        count,
        window,
        seconds,
        per_second: count as f64 / seconds,
        gb_per_s: count as f64 * size as f64 / seconds / 1e9,
        times: summary(&mut producer.times),
        answered: summary(&mut producer.answered),
    })
}

struct Producer {
    redis: Redis,
    /// The command that sends a message: a client that copied each message into one would measure the copy too.
    push: Vec<u8>,
    /// Where the message is in it.
    message: std::ops::Range<usize>,
    pop: Vec<u8>,
    number: u64,
    times: Vec<Duration>,
    answered: Vec<Duration>,
}

impl Producer {
    fn new(redis: Redis, key: &str, arrived: &str, size: usize) -> Self {
        let mut body = vec![0; size];
        message::fill(&mut body);
        let mut push = Vec::new();
        resp::command(&mut push, &[b"LPUSH", key.as_bytes(), &body]);
        // The command ends with the message and a line's end.
        let end = push.len() - 2;
        Self {
            redis,
            push,
            message: end - size..end,
            pop: pop_command(arrived),
            number: 0,
            times: Vec::new(),
            answered: Vec::new(),
        }
    }

    /// Sends messages, of which at most `window` have not arrived.
    fn send(&mut self, count: usize, window: usize) -> Result<()> {
        let mut begun = std::collections::VecDeque::with_capacity(window);
        let mut nanos = Vec::new();
        for sent in 0..count {
            let message = &mut self.push[self.message.clone()];
            message::stamp(message, self.number);
            begun.push_back(Instant::now());
            message[SENT].copy_from_slice(&clock::now().to_le_bytes());
            self.redis.push(&self.push)?;
            self.number += 1;
            let last = sent + 1 == count;
            while begun.len() >= window || (last && !begun.is_empty()) {
                self.redis.pop(&self.pop, &mut nanos)?;
                let time = std::str::from_utf8(&nanos)
                    .ok()
                    .and_then(|nanos| nanos.parse().ok());
                let time = time.ok_or_else(|| Error::Data("a time that is no number".into()))?;
                self.times.push(Duration::from_nanos(time));
                self.answered
                    .extend(begun.pop_front().map(|begun| begun.elapsed()));
            }
        }
        Ok(())
    }
}
