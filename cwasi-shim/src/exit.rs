//! The exit codes that are not the guest's own.

use nix::sys::signal::Signal;

/// A flag or argument cannot be used (clap's code).
pub const USAGE: u8 = 2;
/// The .wasm file cannot be read.
pub const UNREADABLE: u8 = 110;
/// The file is not valid WebAssembly.
pub const INVALID: u8 = 111;
/// The file is a core module without an exported function `_start`.
pub const NO_START: u8 = 112;
/// The component is neither a command nor an HTTP handler: it exports neither `wasi:cli/run` nor
/// `wasi:http/incoming-handler`.
pub const NOT_COMMAND: u8 = 113;
/// The program imports what this host does not have.
pub const MISSING_IMPORT: u8 = 114;
/// The network namespace does not exist or cannot be entered.
pub const NETNS: u8 = 115;
/// A directory of `--dir` cannot be opened.
pub const PREOPEN: u8 = 116;
/// The engine or the operating system failed.
pub const HOST: u8 = 117;
/// The address to serve HTTP on cannot be listened on.
pub const LISTEN: u8 = 118;
/// The process that ran the guest together with others ended.
pub const FUNCTIONS: u8 = 119;
/// A file of `--stdin`, `--stdout` or `--stderr` cannot be opened.
pub const STREAM: u8 = 120;
/// The guest trapped: 128 + SIGABRT, as a native program that aborts.
pub const TRAP: u8 = 134;
/// The guest ended for want of memory: 128 + SIGKILL, as a container that the kernel's OOM killer ends.
pub const MEMORY_LIMIT: u8 = 137;

/// The guest was ended by whoever runs it: 128 + SIGKILL.
pub const KILLED: u8 = by_signal(Signal::SIGKILL);

/// The code of a guest that was ended by `signal`: 128 plus its number.
#[must_use]
pub const fn by_signal(signal: Signal) -> u8 {
    // Signal numbers of Linux are below 65.
    #[allow(clippy::cast_possible_truncation)]
    let number = signal as i32 as u8;
    128 + number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct() {
        let mut codes = vec![
            USAGE,
            UNREADABLE,
            INVALID,
            NO_START,
            NOT_COMMAND,
            MISSING_IMPORT,
            NETNS,
            PREOPEN,
            HOST,
            LISTEN,
            FUNCTIONS,
            STREAM,
            TRAP,
            MEMORY_LIMIT,
            by_signal(Signal::SIGTERM),
            by_signal(Signal::SIGINT),
            by_signal(Signal::SIGHUP),
            by_signal(Signal::SIGQUIT),
        ];
        let all = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all);
    }

    #[test]
    fn signals_follow_the_shell() {
        assert_eq!(by_signal(Signal::SIGTERM), 143);
        assert_eq!(by_signal(Signal::SIGINT), 130);
        assert_eq!(by_signal(Signal::SIGHUP), 129);
        assert_eq!(by_signal(Signal::SIGQUIT), 131);
    }
}
