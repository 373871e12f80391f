//! What the kernel tests share: a data plane of their own, networks of pods, and streams whose every byte is checked.
//!
//! Tests run side by side. Each has its own bpffs directory, cgroups and network namespaces, so that addresses and ports may be
//! the same everywhere; everything goes when its guard is dropped, on a panic too.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary compiles this module and uses a part of it"
)]

pub mod duplex;
pub mod epoll;
pub mod netns;
pub mod node;
pub mod pod;
pub mod probe;
pub mod stream;
pub mod tcp;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a stream may stand still before a test calls it dead: 10 s, or `CWASI_TEST_PATIENCE` seconds, for emulated processors.
pub fn patience() -> Duration {
    static PATIENCE: OnceLock<Duration> = OnceLock::new();
    *PATIENCE.get_or_init(|| {
        let given = std::env::var("CWASI_TEST_PATIENCE").ok();
        let seconds = given.map(|text| text.parse().expect("seconds in CWASI_TEST_PATIENCE"));
        Duration::from_secs(seconds.unwrap_or(10))
    })
}

/// Lets what was sent arrive, and be answered: 20 ms, and longer where everything takes longer.
pub fn settle() {
    std::thread::sleep(patience() / 500);
}

/// How much of a long test's usual work is done: all of it, or `CWASI_TEST_EFFORT` percent, for emulated processors.
pub fn effort() -> u32 {
    static EFFORT: OnceLock<u32> = OnceLock::new();
    *EFFORT.get_or_init(|| {
        let given = std::env::var("CWASI_TEST_EFFORT").ok();
        given.map_or(100, |text| text.parse().expect("percent in CWASI_TEST_EFFORT"))
    })
}

/// Waits until the condition holds, and fails the test when it does not within [`patience`].
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !holds() {
        assert!(Instant::now() < deadline, "not within {:?}: {what}", patience());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A seed for this run, printed so that a failure can be repeated with `CWASI_TEST_SEED`.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("CWASI_TEST_SEED").ok();
    let seed = given.map_or_else(
        || fastrand::u64(..),
        |text| text.parse().expect("a number in CWASI_TEST_SEED"),
    );
    eprintln!("{test}: CWASI_TEST_SEED={seed}");
    seed
}
