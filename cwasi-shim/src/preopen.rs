//! Which directories of the host a guest sees, and where.

use std::path::PathBuf;
use std::str::FromStr;

/// A directory given to a guest: `HOST[::GUEST[::ro]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preopen {
    /// Directory on the host.
    pub host: PathBuf,
    /// Path under which the guest finds it; the host's path when not given.
    pub guest: String,
    /// Whether the guest may not change anything in it.
    pub read_only: bool,
}

/// Why a directory's description cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePreopenError {
    /// a directory is `HOST[::GUEST[::ro]]`, and neither HOST nor GUEST may be empty
    #[error("a directory is HOST[::GUEST[::ro]], and neither HOST nor GUEST may be empty")]
    Empty,
    /// what follows HOST::GUEST can only be `ro`
    #[error("what follows HOST::GUEST can only be `ro`")]
    Mode,
}

impl FromStr for Preopen {
    type Err = ParsePreopenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, "::");
        let host = parts.next().unwrap_or_default();
        let guest = parts.next().unwrap_or(host);
        let read_only = match parts.next() {
            None => false,
            Some("ro") => true,
            Some(_) => return Err(ParsePreopenError::Mode),
        };
        if host.is_empty() || guest.is_empty() {
            return Err(ParsePreopenError::Empty);
        }
        Ok(Self {
            host: PathBuf::from(host),
            guest: guest.to_owned(),
            read_only,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Preopen {
        text.parse().unwrap()
    }

    #[test]
    fn short_forms_take_defaults() {
        let dir = Preopen {
            host: "/srv/in".into(),
            guest: "/srv/in".into(),
            read_only: false,
        };
        assert_eq!(parsed("/srv/in"), dir);
        assert_eq!(
            parsed("/srv/in::/data"),
            Preopen {
                guest: "/data".into(),
                ..dir.clone()
            }
        );
        assert_eq!(
            parsed("/srv/in::/data::ro"),
            Preopen {
                guest: "/data".into(),
                read_only: true,
                ..dir
            }
        );
    }

    #[test]
    fn empty_parts_and_other_modes_are_refused() {
        for text in ["", "::/data", "/srv::", "/srv::::ro"] {
            assert_eq!(text.parse::<Preopen>(), Err(ParsePreopenError::Empty), "{text:?}");
        }
        for text in ["/srv::/data::rw", "/srv::/data::", "/srv::/data::ro::ro"] {
            assert_eq!(text.parse::<Preopen>(), Err(ParsePreopenError::Mode), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            host in "[a-z/.][a-z/. :]{0,12}[a-z/.]", guest in "[a-z/.]{1,12}", read_only: bool
        ) {
            prop_assume!(!host.contains("::"));
            let text = format!("{host}::{guest}{}", if read_only { "::ro" } else { "" });
            prop_assert_eq!(parsed(&text), Preopen { host: host.into(), guest, read_only });
        }
    }
}
