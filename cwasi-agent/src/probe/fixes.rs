//! Stable kernels that are known to lack a fix the data plane would like to have.
//!
//! Only lines of which the fixed release is known are judged; distributions may have the fix under an older number.

use super::{Finding, Row};

/// A fix: what happens without it, and the first release of each stable line that has it.
struct Fix {
    what: &'static str,
    since: &'static [(u32, u32, u32)],
}

const FIXES: [Fix; 4] = [
    Fix {
        what: "use after free in the send verdict (sk_redir)",
        since: &[(6, 1, 183), (6, 12, 104)],
    },
    Fix {
        what: "element replaced while its socket closes (CVE-2024-56664)",
        since: &[(5, 10, 236), (6, 1, 125), (6, 12, 6)],
    },
    Fix {
        what: "memory not uncharged (CVE-2024-56633)",
        since: &[(5, 10, 231), (6, 1, 120), (6, 12, 5)],
    },
    Fix {
        what: "unread redirected data not flushed at the unhash",
        since: &[(5, 10, 80)],
    },
];

/// The fixes that the kernel lacks by its number.
pub(super) fn row(release: &str) -> Option<Row> {
    let (major, minor, patch) = parse(release)?;
    let mut missing = Vec::new();
    let mut judged = false;
    for fix in &FIXES {
        for (_, _, fixed) in fix.since.iter().filter(|(x, y, _)| (*x, *y) == (major, minor)) {
            judged = true;
            if patch < *fixed {
                missing.push(format!("{}: fixed in {major}.{minor}.{fixed}", fix.what));
            }
        }
    }
    let row = |finding, detail: String| Row::new("host", "known fixes", finding, detail);
    judged.then(|| {
        if missing.is_empty() {
            row(Finding::Ok, "none is missing by the release's number".to_owned())
        } else {
            row(Finding::Warning, missing.join("; "))
                .remedy("update the kernel, unless your distribution backported these")
        }
    })
}

/// Major, minor and patch number of a release such as `6.1.0-28-amd64` or `6.12.43+deb13`.
pub(super) fn parse(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().ok());
    Some((
        numbers.next()??,
        numbers.next()??,
        numbers.next().flatten().unwrap_or(0),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(parse("6.12.43+deb13-cloud-amd64"), Some((6, 12, 43)));
        assert_eq!(parse("5.10.0-34-amd64"), Some((5, 10, 0)));
        assert_eq!(parse("7.0-rc1"), Some((7, 0, 0)));
        assert_eq!(parse("linux"), None);
    }

    #[test]
    fn only_what_is_known_is_judged() {
        let finding = |release| row(release).map(|row| (row.finding, row.detail.matches("fixed in").count()));
        assert_eq!(finding("5.10.100"), Some((Finding::Warning, 2)));
        assert_eq!(finding("6.1.183"), Some((Finding::Ok, 0)));
        assert_eq!(finding("6.1.124"), Some((Finding::Warning, 2)));
        assert_eq!(finding("6.12.5-x"), Some((Finding::Warning, 2)));
        assert_eq!(finding("6.18.44"), None);
    }
}
