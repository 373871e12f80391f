//! Lines that a client of the agent's gets as answers, whoever wrote them: each is an answer, a refusal, or told to be neither.
#![no_main]

use cwasi_client::client::{ClientError, decode};
use cwasi_client::protocol::Response;
use libfuzzer_sys::fuzz_target;

/// What a client says of an answer that is none: less than it, however long it is.
const MOST: usize = 1000;

fuzz_target!(|input: &[u8]| {
    let answer = match decode(input) {
        Ok(reply) => Response::Ok(reply),
        Err(ClientError::Refused(refusal)) => Response::Error(refusal),
        Err(error) => {
            assert!(error.to_string().len() < MOST + input.len(), "{error}");
            return;
        }
    };
    let line = serde_json::to_vec(&answer).expect("an answer can be written");
    assert!(!line.contains(&b'\n'));
    let again = match decode(&line) {
        Ok(reply) => Response::Ok(reply),
        Err(ClientError::Refused(refusal)) => Response::Error(refusal),
        Err(error) => panic!("what was read and written cannot be read again: {error}"),
    };
    assert_eq!(again, answer);
});
