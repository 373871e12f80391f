//! Releases of the kernel, and lines of them.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// An upstream release: 5.10.218 is `[5, 10, 218]`; a line such as 5.10 has no third number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First and second number, which name a line of releases.
    pub line: (u32, u32),
    /// Third number; `None` sorts before every release of the line.
    pub patch: Option<u32>,
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u32>> = text.split('.').map(|number| number.parse().ok()).collect();
        match numbers.as_deref() {
            Some([major, minor]) => Ok(Self {
                line: (*major, *minor),
                patch: None,
            }),
            Some([major, minor, patch]) => Ok(Self {
                line: (*major, *minor),
                patch: Some(*patch),
            }),
            _ => Err(format!("`{text}` is no version such as 6.1 or 6.1.170")),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.line.0, self.line.1)?;
        self.patch.map_or(Ok(()), |patch| write!(f, ".{patch}"))
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered_as_numbers() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("6.1.9") < version("6.1.10"));
        assert!(version("6.9.1") < version("6.10"));
        assert!(version("6.1") < version("6.1.0"));
        assert_eq!(version("5.10.218").to_string(), "5.10.218");
        assert_eq!(version("5.10").to_string(), "5.10");
        for wrong in ["", "6", "6.x", "6.1.2.3", "all"] {
            assert!(wrong.parse::<Version>().is_err(), "{wrong}");
        }
    }
}
