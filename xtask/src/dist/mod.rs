//! A release: the programs, the tarball and the images with them, and what they are made of.
//!
//! The same programs give the same bytes: no time, owner or order of the machine gets into what is written, but the time of the
//! commit, or `SOURCE_DATE_EPOCH`.

mod archive;
mod contents;
mod crates;
mod licences;
mod programs;
mod sbom;

pub use contents::{AGENT_USER, Contents, SECCOMP, agent_image};
pub use crates::Crates;
pub use programs::{AGENT, Built, INSTALLER, PROGRAMS, Program, RUNNER, SHIM, build, find};

use crate::images::Platform;
use crate::{Error, Result, paths, process};
use std::collections::BTreeMap;
use std::env;
use std::process::Command;

/// What a release is called, and what it was made of.
#[derive(Debug, Clone)]
pub struct Release {
    /// The workspace's version.
    pub version: &'static str,
    /// When it was made, in seconds since 1970: `SOURCE_DATE_EPOCH`, or the commit's time.
    pub epoch: u64,
    /// The commit, in hexadecimal; `-dirty` is added when files differ from it.
    pub revision: String,
}

impl Release {
    /// The release that this checkout makes.
    ///
    /// # Errors
    /// It is no git checkout, or `SOURCE_DATE_EPOCH` is no number.
    pub fn of_checkout() -> Result<Self> {
        let git = |arguments: &[&str]| {
            process::stdout(Command::new("git").args(arguments).current_dir(paths::root()))
        };
        let given = env::var("SOURCE_DATE_EPOCH").ok();
        let time = given.map_or_else(|| git(&["log", "-1", "--format=%ct"]), Ok)?;
        let epoch = time.parse().map_err(|_| Error::Missing {
            what: format!("{time:?} is no time in seconds since 1970"),
            remedy: "give SOURCE_DATE_EPOCH as a number, or none".into(),
        })?;
        let mut revision = git(&["rev-parse", "HEAD"])?;
        if !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
            revision.push_str("-dirty");
        }
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            epoch,
            revision,
        })
    }

    /// The name of the tarball without its ending, and of the directory in it.
    #[must_use]
    pub fn name(&self) -> String {
        let Platform { os, architecture } = Platform::host();
        format!("cwasi-{}-{os}-{architecture}", self.version)
    }

    /// The annotations that the OCI image specification defines, for an image with this title.
    #[must_use]
    pub fn annotations(&self, title: &str, description: &str) -> BTreeMap<String, String> {
        let of = |key: &str, value: &str| (format!("org.opencontainers.image.{key}"), value.to_owned());
        BTreeMap::from([
            of("title", title),
            of("description", description),
            of("version", self.version),
            of("revision", &self.revision),
            of("created", &self.time()),
            of("licenses", env!("CARGO_PKG_LICENSE")),
            of("source", env!("CARGO_PKG_REPOSITORY")),
        ])
    }

    /// [`Release::epoch`] as RFC 3339 has it, in UTC.
    #[must_use]
    pub fn time(&self) -> String {
        let (days, second) = (self.epoch / 86_400, self.epoch % 86_400);
        // Howard Hinnant's civil_from_days, for days since 1970: years begin in March, so that leap days end them.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Release;

    /// A release of no checkout.
    pub(crate) fn release() -> Release {
        Release {
            version: "1.2.3",
            epoch: 1_700_000_000,
            revision: "0123abc".to_owned(),
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let time = |epoch| Release { epoch, ..release() }.time();
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(time(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(time(4_102_444_799), "2099-12-31T23:59:59Z");
    }

    #[test]
    fn images_say_what_they_are() {
        let annotations = release().annotations("cwasi-agent", "x");
        assert_eq!(annotations["org.opencontainers.image.version"], "1.2.3");
        assert_eq!(
            annotations["org.opencontainers.image.created"],
            "2023-11-14T22:13:20Z"
        );
        assert_eq!(
            annotations["org.opencontainers.image.licenses"],
            "Apache-2.0 OR MIT"
        );
    }

    #[test]
    fn a_checkout_has_a_commit() {
        let release = Release::of_checkout().unwrap();
        assert!(
            release.revision.len() >= 40 && release.epoch > 1_700_000_000,
            "{release:?}"
        );
    }
}
