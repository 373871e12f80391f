//! A checksum for streams: cheap enough to run beside a memory-speed copy, and sensitive to the place of every byte.

/// Bytes of one step: four lanes of eight, whose multiplications do not wait for each other.
const BLOCK: usize = 32;

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A running checksum. How the bytes are split into [`Checksum::update`] calls does not matter; their order, number
/// and values do. It finds accidents (loss, duplication, reordering, corruption); it is not a cryptographic digest.
#[derive(Debug, Clone)]
pub struct Checksum {
    lanes: [u64; 4],
    pending: [u8; BLOCK],
    pending_len: usize,
    bytes: u64,
}

impl Checksum {
    /// Starts a checksum; streams with different seeds have different checksums.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let lanes = [1, 2, 3, 4].map(|lane: u64| mix(seed, lane.wrapping_mul(MULTIPLIER)));
        Self {
            lanes,
            pending: [0; BLOCK],
            pending_len: 0,
            bytes: 0,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.pending_len > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(BLOCK - self.pending_len));
            self.pending[self.pending_len..][..head.len()].copy_from_slice(head);
            self.pending_len += head.len();
            bytes = rest;
            if self.pending_len < BLOCK {
                return;
            }
            self.lanes = step(self.lanes, &self.pending);
        }
        let (blocks, tail) = bytes.as_chunks::<BLOCK>();
        self.lanes = blocks.iter().fold(self.lanes, step);
        self.pending[..tail.len()].copy_from_slice(tail);
        self.pending_len = tail.len();
    }

    /// The number of bytes taken so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The checksum of the bytes taken so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        let mut last = [0; BLOCK];
        last[..self.pending_len].copy_from_slice(&self.pending[..self.pending_len]);
        // The length tells a zero byte at the end from the padding.
        step(self.lanes, &last).into_iter().fold(self.bytes, mix)
    }
}

fn step(lanes: [u64; 4], block: &[u8; BLOCK]) -> [u64; 4] {
    let (words, _) = block.as_chunks::<8>();
    std::array::from_fn(|lane| mix(lanes[lane], u64::from_le_bytes(words[lane])))
}

/// Multiplication carries a difference upwards, rotation brings it back down before the next word.
fn mix(state: u64, word: u64) -> u64 {
    (state ^ word).wrapping_mul(MULTIPLIER).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(bytes: &[u8]) -> u64 {
        let mut checksum = Checksum::new(7);
        checksum.update(bytes);
        checksum.value()
    }

    proptest! {
        #[test]
        fn splitting_does_not_matter(data: Vec<u8>, cuts in proptest::collection::vec(0usize..40, 0..20)) {
            let mut checksum = Checksum::new(7);
            let mut rest = &data[..];
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                checksum.update(head);
                rest = tail;
            }
            checksum.update(rest);
            prop_assert_eq!(checksum.value(), of(&data));
            prop_assert_eq!(checksum.bytes(), data.len() as u64);
        }

        #[test]
        fn one_changed_byte_shows(mut data in proptest::collection::vec(any::<u8>(), 1..300), at: usize, flip in 1u8..) {
            let before = of(&data);
            let at = at % data.len();
            data[at] ^= flip;
            prop_assert_ne!(of(&data), before);
        }

        #[test]
        fn swapped_loss_and_duplication_show(
            data in proptest::collection::vec(any::<u8>(), 2..300), from: usize, to: usize, len in 1usize..64
        ) {
            let (from, to) = (from % data.len(), to % data.len());
            let len = len.min(data.len() - from);
            let mut lost = data.clone();
            let piece: Vec<u8> = lost.drain(from..from + len).collect();
            prop_assert_ne!(of(&lost), of(&data));
            let mut doubled = data.clone();
            doubled.splice(from..from, piece.iter().copied());
            prop_assert_ne!(of(&doubled), of(&data));
            let mut moved = lost.clone();
            let to = to.min(moved.len());
            moved.splice(to..to, piece);
            if moved != data {
                prop_assert_ne!(of(&moved), of(&data));
            }
        }
    }

    #[test]
    fn zeros_are_counted_and_seeds_differ() {
        assert_ne!(of(&[0; 31]), of(&[0; 32]));
        assert_ne!(of(&[]), of(&[0]));
        assert_ne!(Checksum::new(1).value(), Checksum::new(2).value());
    }

    #[test]
    fn the_value_is_the_same_on_every_platform() {
        assert_eq!(
            of(b"the same on the host and in a component"),
            0xc876_3824_8a37_c5eb
        );
    }
}
