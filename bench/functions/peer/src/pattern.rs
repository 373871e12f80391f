//! Deterministic pseudo-random bytes that never repeat within a stream and cost little more than a copy.

/// Words of the random table; the stream walks through it again and again with another increment each time.
const TABLE_WORDS: usize = 8 * 1024;

/// Bytes of one walk through the table.
const TABLE_BYTES: usize = TABLE_WORDS * 8;

/// A source of the bytes of one seed.
#[derive(Debug, Clone)]
pub struct Pattern {
    table: Vec<u64>,
    walk: [u8; TABLE_BYTES],
    increment: u64,
    used: usize,
}

impl Pattern {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        let table = (0..TABLE_WORDS).map(|_| split_mix(&mut state)).collect();
        Self {
            table,
            walk: [0; TABLE_BYTES],
            increment: 0,
            used: TABLE_BYTES,
        }
    }

    /// Fills `buffer` with the next bytes of the stream.
    pub fn fill(&mut self, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            if self.used == TABLE_BYTES {
                self.next_walk();
            }
            let len = buffer.len().min(TABLE_BYTES - self.used);
            let (head, rest) = buffer.split_at_mut(len);
            head.copy_from_slice(&self.walk[self.used..][..len]);
            self.used += len;
            buffer = rest;
        }
    }

    fn next_walk(&mut self) {
        let (words, _) = self.walk.as_chunks_mut::<8>();
        for (out, word) in words.iter_mut().zip(&self.table) {
            *out = word.wrapping_add(self.increment).to_le_bytes();
        }
        // An odd increment gives every walk other bytes in every word, so that swapped pieces cannot be equal.
        self.increment = self.increment.wrapping_add(0xd1b5_4a32_d192_ed03);
        self.used = 0;
    }
}

/// Steele, Lea and Flood's SplitMix64.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_read() {
        let mut whole = vec![0; 3 * TABLE_BYTES + 11];
        Pattern::new(5).fill(&mut whole);
        let mut pieces = vec![0; whole.len()];
        let mut pattern = Pattern::new(5);
        for piece in pieces.chunks_mut(1009) {
            pattern.fill(piece);
        }
        assert!(whole == pieces);
    }

    #[test]
    fn walks_and_seeds_differ() {
        let mut bytes = vec![0; 2 * TABLE_BYTES];
        Pattern::new(5).fill(&mut bytes);
        let (first, second) = bytes.split_at(TABLE_BYTES);
        assert!(first.chunks(8).zip(second.chunks(8)).all(|(a, b)| a != b));
        let mut other = vec![0; TABLE_BYTES];
        Pattern::new(6).fill(&mut other);
        assert!(other != first);
    }
}
