//! Requests and answers on a connection.
//!
//! A connection begins with a [`Header`]. Each request after it has the same size, and a number: the first is 0. The number is
//! at the beginning and at the end of the request, so that a lost, doubled or late byte shows in the next one at the latest. An
//! answer is the beginning of its request, and is sent when all of the request has arrived: one byte acknowledges it, all of
//! them make a round trip.

use crate::pattern::Pattern;
use crate::{Error, Result};

/// The longest request: a larger size is taken for garbage, not for memory to allocate.
pub const MAX_REQUEST: usize = 1 << 30;

/// Bytes of a request's number.
const NUMBER: usize = size_of::<u64>();

/// What a client says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of each request, from 1 to [`MAX_REQUEST`].
    pub request: usize,
    /// Bytes of each answer, from 1 to `request`.
    pub answer: usize,
    /// Requests after which the server closes, so that the client's port never waits in TIME_WAIT; 0 when the client does.
    pub close_after: u64,
}

impl Header {
    /// Bytes on the wire: three little-endian words.
    pub const BYTES: usize = 3 * size_of::<u64>();

    /// As it is sent.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [self.request as u64, self.answer as u64, self.close_after];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What was sent.
    ///
    /// # Errors
    /// [`Error::Data`] for sizes that no client announces.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let [request, answer, close_after] = [words[0], words[1], words[2]].map(u64::from_le_bytes);
        let size = |word: u64, most: usize| {
            usize::try_from(word)
                .ok()
                .filter(|size| (1..=most).contains(size))
                .ok_or_else(|| Error::Data(format!("a message of {word} bytes is announced")))
        };
        let request = size(request, MAX_REQUEST)?;
        Ok(Self {
            request,
            answer: size(answer, request)?,
            close_after,
        })
    }
}

/// Fills a request with the bytes that every request of its size has, but for its number.
pub fn fill(request: &mut [u8]) {
    Pattern::new(request.len() as u64).fill(request);
}

/// Writes a request's number into it.
pub fn stamp(request: &mut [u8], number: u64) {
    let number = number.to_le_bytes();
    let short = request.len().min(NUMBER);
    request[..short].copy_from_slice(&number[..short]);
    if let Some((rest, end)) = request.split_last_chunk_mut::<NUMBER>()
        && rest.len() >= NUMBER
    {
        *end = number;
    }
}

/// Whether a request, or the beginning of one, has this number.
#[must_use]
pub fn is_stamped(bytes: &[u8], request: usize, number: u64) -> bool {
    let number = number.to_le_bytes();
    let short = bytes.len().min(NUMBER);
    let begins = bytes[..short] == number[..short];
    let whole = bytes.len() == request && request >= 2 * NUMBER;
    begins && (!whole || bytes.ends_with(&number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_come_out_as_they_went_in(request in 1..=MAX_REQUEST, answer: usize, close_after: u64) {
            let header = Header { request, answer: 1 + answer % request, close_after };
            prop_assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        }

        #[test]
        fn numbers_show(size in 1_usize..100, number: u64, other: u64) {
            let mut request = vec![0; size];
            fill(&mut request);
            stamp(&mut request, number);
            prop_assert!(is_stamped(&request, size, number));
            prop_assert!(is_stamped(&request[..1], size, number));
            let cut = size.min(NUMBER);
            prop_assert_eq!(
                is_stamped(&request, size, other),
                number.to_le_bytes()[..cut] == other.to_le_bytes()[..cut]
            );
        }

        #[test]
        fn a_shifted_request_shows(size in 16_usize..100, number in 0_u64..1 << 40, by in 1_usize..8) {
            let mut requests = vec![0; 2 * size];
            for (request, number) in requests.chunks_mut(size).zip(number..=number + 1) {
                fill(request);
                stamp(request, number);
            }
            prop_assert!(!is_stamped(&requests[by..by + size], size, number));
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for words in [[0, 1, 0], [u64::MAX, 1, 0], [8, 9, 0], [8, 0, 0]] {
            let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
            assert!(Header::decode(&bytes.try_into().unwrap()).is_err(), "{words:?}");
        }
    }
}
