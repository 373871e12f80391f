//! A soak of seconds: everything that minutes do, a few times.

use std::path::Path;
use std::time::Duration;

use cwasi_bench::Error;
use cwasi_bench::report::Format;
use cwasi_bench::soak::{self, Options, Programs};

#[test]
fn a_short_soak_compares_bytes_of_every_lane() {
    let native = Path::new(env!("CARGO_BIN_EXE_cwasi-native"));
    let built = native.parent().expect("programs have a directory");
    for program in ["cwasi-agent", "cwasi-run"] {
        if !built.join(program).is_file() {
            eprintln!("skipped: {program} is not built");
            return;
        }
    }
    let programs = Programs {
        built: built.to_owned(),
        guests: Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/prebuilt"),
    };
    let options = Options {
        length: Duration::from_secs(8),
        seed: Some(1),
        format: Format::Json,
    };
    let results = match soak::soak(&programs, &options) {
        Err(error @ (Error::NotRoot | Error::Spawn { .. } | Error::NotAccelerating(_))) => {
            eprintln!("skipped: {error}");
            return;
        }
        results => results.unwrap(),
    };
    assert!(results.broken.is_empty() && results.left.is_empty(), "{results}");
    assert_eq!(results.lanes.len(), 5, "{results}");
    assert!(results.bytes > 0 && results.to_kernel > 0, "{results}");
    assert!(!results.faults.is_empty(), "{results}");
    assert!(
        results
            .memory
            .iter()
            .all(|memory| memory.agent > 0 && memory.maps > 0)
    );
}
