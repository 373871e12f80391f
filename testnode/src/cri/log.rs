//! Log files in CRI's format: `TIME STREAM P|F TEXT`, a line each; `P` marks a line that goes on in the next.

/// A standard stream of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a log has of one stream, as it was written.
pub(super) fn of(log: &str, stream: Stream) -> String {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ').skip(1);
        if fields.next() != Some(name) {
            continue;
        }
        let (tag, content) = (fields.next(), fields.next());
        text += content.unwrap_or_default();
        if tag == Some("F") {
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_told_apart_and_lines_joined() {
        let log = "2026-01-01T00:00:00Z stdout F one two\n\
                   2026-01-01T00:00:00Z stderr F oops\n\
                   2026-01-01T00:00:00Z stdout P thr\n\
                   2026-01-01T00:00:00Z stdout F ee\n\
                   2026-01-01T00:00:00Z stdout F\n";
        assert_eq!(of(log, Stream::Stdout), "one two\nthree\n\n");
        assert_eq!(of(log, Stream::Stderr), "oops\n");
    }
}
