//! Stable kernels that are known to lack a fix the data plane would like to have.
//!
//! Only lines of which the fixed release is known are judged; distributions may have the fix under an older number.

use super::{Finding, Row};

/// A fix: what happens without it, and the first release of each stable line that has it.
struct Fix {
    what: &'static str,
    since: &'static [(u32, u32, u32)],
}

const FIXES: [Fix; 5] = [
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
    Fix {
        what: "connections that nobody accepted stay in the sockhash",
        since: &[(5, 10, 222)],
    },
];

/// The release that a kernel was made from. Debian's and Ubuntu's names of it have 0 for the patch (`6.1.0-56-amd64`): Debian
/// tells it in `uname -v` (`#1 SMP Debian 6.1.192-1 (…)`), Ubuntu at the end of /proc/version_signature.
pub(super) fn upstream(release: &str, version: &str, signature: &str) -> Option<(u32, u32, u32)> {
    let debian = version.split_once("Debian ").map(|(_, rest)| rest);
    let ubuntu = signature
        .trim_end()
        .rsplit(' ')
        .next()
        .filter(|word| !word.is_empty());
    match (parse(release)?, debian.or(ubuntu).and_then(parse)) {
        ((major, minor, _), Some(told)) if (told.0, told.1) == (major, minor) => Some(told),
        ((_, _, 0), _) if release.contains('-') => None,
        (named, _) => Some(named),
    }
}

/// The fixes that a kernel lacks by the release it was made from.
pub(super) fn row((major, minor, patch): (u32, u32, u32)) -> Option<Row> {
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
        let finding = |release| {
            let upstream = upstream(release, "", "")?;
            row(upstream).map(|row| (row.finding, row.detail.matches("fixed in").count()))
        };
        assert_eq!(finding("5.10.100"), Some((Finding::Warning, 3)));
        assert_eq!(finding("6.1.183"), Some((Finding::Ok, 0)));
        assert_eq!(finding("6.1.124"), Some((Finding::Warning, 2)));
        assert_eq!(finding("6.12.5-x"), Some((Finding::Warning, 2)));
        assert_eq!(finding("6.18.44"), None);
    }

    #[test]
    fn distributions_tell_the_release_elsewhere() {
        let debian = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-01)";
        assert_eq!(upstream("6.1.0-56-cloud-amd64", debian, ""), Some((6, 1, 192)));
        assert_eq!(
            upstream(
                "5.15.0-25-generic",
                "#25-Ubuntu SMP",
                "Ubuntu 5.15.0-25.25-generic 5.15.30\n"
            ),
            Some((5, 15, 30))
        );
        assert_eq!(
            upstream("5.14.0-427.el9.x86_64", "#1 SMP", ""),
            None,
            "0 is no patch there"
        );
        assert_eq!(upstream("6.18.44", "#1 SMP", ""), Some((6, 18, 44)));
        assert_eq!(
            upstream("6.12.43+deb13-amd64", "#1 SMP Debian 6.12.43-1", ""),
            Some((6, 12, 43))
        );
    }
}
