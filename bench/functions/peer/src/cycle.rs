//! Bytes whose place in the stream shows, and that cost nothing to make: loss, doubling and reordering cannot go unseen.

/// Length of one repetition: a prime, so that no write size or page divides it.
const PERIOD: usize = 65_521;

/// A repeating stream, of which any piece up to a given length can be borrowed.
#[derive(Debug)]
pub struct Cycle {
    bytes: Vec<u8>,
}

impl Cycle {
    /// Bytes whose pieces may be up to `longest` bytes long.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            // xorshift64: the bytes are the same in every process.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        let period: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
        let bytes = period.iter().copied().cycle().take(PERIOD + longest).collect();
        Self { bytes }
    }

    /// `length` bytes from position `at` of the stream.
    #[must_use]
    pub fn piece(&self, at: u64, length: usize) -> &[u8] {
        // The remainder is below PERIOD.
        #[allow(clippy::cast_possible_truncation)]
        let from = (at % PERIOD as u64) as usize;
        &self.bytes[from..from + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_continue_each_other_and_differ() {
        let cycle = Cycle::new(100_000);
        let whole = cycle.piece(0, 100_000);
        assert_eq!(cycle.piece(0, 10), &whole[..10]);
        assert_eq!(cycle.piece(70_000, 30_000), &whole[70_000..]);
        for size in [64, 1024, 16_384, 65_536] {
            assert_ne!(cycle.piece(0, size), cycle.piece(size as u64, size), "{size}");
        }
    }
}
