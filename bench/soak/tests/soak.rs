//! A soak of seconds: everything that minutes do, a few times.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cwasi_bench::Error as BenchError;
use cwasi_soak::{Error, Options, Programs};
use cwasi_testnode::testing;

/// Paths without containerd, and with it.
const PATHS: [usize; 2] = [5, 7];

/// The directory of the programs that the workspace's build makes.
fn built() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_BIN_EXE_cwasi-soak"));
    let directory = here.parent().expect("programs have a directory");
    for program in ["cwasi-agent", "cwasi-run", "cwasi-native"] {
        if !directory.join(program).is_file() {
            testing::skipped(&format!("{program} is not built"));
            return None;
        }
    }
    Some(directory.to_owned())
}

#[test]
fn a_short_soak_compares_bytes_of_every_lane() {
    let Some(built) = built() else { return };
    let programs = Programs {
        built,
        guests: Path::new(env!("CARGO_MANIFEST_DIR")).join("../functions/prebuilt"),
    };
    let options = Options {
        length: Duration::from_secs(15),
        seed: Some(1),
    };
    let results = match cwasi_soak::soak(&programs, &options) {
        Err(Error::Bench(
            error @ (BenchError::NotRoot | BenchError::Spawn { .. } | BenchError::NotAccelerating(_)),
        )) => return testing::skipped(&error),
        results => results.unwrap(),
    };
    assert!(results.broken.is_empty() && results.left.is_empty(), "{results}");
    let paths = PATHS[usize::from(testing::missing().is_none())];
    assert_eq!(results.lanes.len(), paths, "{results}");
    assert!(results.bytes > 0 && results.to_kernel > 0, "{results}");
    assert!(!results.faults.is_empty(), "{results}");
    assert!(
        results
            .memory
            .iter()
            .all(|memory| memory.agent > 0 && memory.maps > 0)
    );
}
