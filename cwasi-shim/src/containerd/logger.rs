//! The log that containerd reads of a shim: a FIFO in the bundle, one line of key=value pairs an entry.
//!
//! The shim, the zygote and the containers' processes all write to it; the zygote opens it before it is cut off from the file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Name of the FIFO in the shim's working directory.
const FIFO: &str = "log";
/// Variable with the most detailed level that is logged.
const LEVEL_VARIABLE: &str = "RUST_LOG";
/// Crates of which nothing below a warning is of use to an operator.
const CHATTY: [&str; 3] = ["containerd_shim", "ttrpc", "zygote"];

struct FifoLogger(Mutex<File>);

impl Log for FifoLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let chatty = CHATTY.iter().any(|name| metadata.target().starts_with(name));
        metadata.level() <= log::max_level() && (!chatty || metadata.level() <= LevelFilter::Warn)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = line(record, OffsetDateTime::now_utc());
        let mut fifo = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // While containerd restarts nobody reads: such an entry is lost.
        let _ = fifo.write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

fn line(record: &Record<'_>, now: OffsetDateTime) -> String {
    let time = now.format(&Rfc3339).unwrap_or_default();
    let level = record.level().as_str().to_lowercase();
    // Debug escapes quotes and newlines, as logfmt wants it.
    format!(
        "time={time:?} level={level} msg={:?}\n",
        record.args().to_string()
    )
}

/// Logs to the FIFO of the working directory from now on; `debug` is containerd's own level.
///
/// # Errors
/// There is no FIFO, as in a directory that is no bundle.
pub(super) fn init(debug: bool) -> io::Result<()> {
    let fifo = OpenOptions::new().write(true).open(FIFO)?;
    let named = std::env::var(LEVEL_VARIABLE)
        .ok()
        .and_then(|level| level.parse().ok());
    let usual = if debug {
        LevelFilter::Debug
    } else {
        LevelFilter::Info
    };
    log::set_max_level(named.unwrap_or(usual));
    // A second logger of one process would be a mistake of this program; the first stays.
    let _ = log::set_boxed_logger(Box::new(FifoLogger(Mutex::new(fifo))));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_whatever_it_says() {
        let written = line(
            &Record::builder()
                .level(log::Level::Warn)
                .args(format_args!("a \"b\"\nc"))
                .build(),
            OffsetDateTime::UNIX_EPOCH,
        );
        assert_eq!(
            written,
            "time=\"1970-01-01T00:00:00Z\" level=warn msg=\"a \\\"b\\\"\\nc\"\n"
        );
    }
}
