//! The kernels that Debian has, by the package indices of its suites.

use std::collections::BTreeMap;
use std::fs;

use super::version::Version;
use crate::debian::PrivateApt;
use crate::error::FileContext;
use crate::{Error, Result};

/// Suites that have kernels of different lines.
const SUITES: [&str; 6] = [
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "sid",
];
/// Suites of the archive of security updates.
const SECURITY_SUITES: [&str; 3] = ["bullseye-security", "bookworm-security", "trixie-security"];

/// Lines whose oldest and newest release make the matrix, with the newest of all.
const MATRIX: [(u32, u32); 4] = [(5, 10), (6, 1), (6, 12), (6, 18)];

/// Packages are named after the flavour for virtual machines: few modules, everything that qemu has.
const FLAVOUR: &str = "-cloud-amd64";

/// A kernel of Debian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its upstream release.
    pub version: Version,
    /// The packages that have the image and the modules, as `name=version`.
    pub packages: Vec<String>,
}

/// What is asked for with `--kernel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Every kernel of the matrix.
    All,
    /// The newest release of all.
    Newest,
    /// A line, for its newest release, or a release.
    Version(Version),
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "newest" => Ok(Self::Newest),
            _ => text.parse().map(Self::Version),
        }
    }
}

/// Every kernel that the machine's mirror has.
#[derive(Debug)]
pub struct Catalog(BTreeMap<Version, Kernel>);

impl Catalog {
    /// Reads the indices through the apt directory given.
    ///
    /// # Errors
    /// The indices cannot be fetched or read.
    pub fn read(apt: &PrivateApt) -> Result<Self> {
        let mut text = String::new();
        for index in apt.package_indices()? {
            text += &fs::read_to_string(&index).file("read", &index)?;
        }
        Ok(Self::parse(&text))
    }

    /// The sources that have kernels, as lines of sources.list(5) without the archive.
    pub fn sources(apt_has_security: bool) -> Vec<(&'static str, bool)> {
        let main = SUITES.iter().map(|suite| (*suite, false));
        let security = SECURITY_SUITES
            .iter()
            .filter(|_| apt_has_security)
            .map(|suite| (*suite, true));
        main.chain(security).collect()
    }

    fn parse(indices: &str) -> Self {
        let mut kernels = BTreeMap::new();
        let mut packages = BTreeMap::new();
        for stanza in indices.split("\n\n") {
            let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
            let (Some(package), Some(debian)) = (field("Package: "), field("Version: ")) else {
                continue;
            };
            if package.starts_with("linux-") && package.ends_with(FLAVOUR) {
                packages.insert((package.to_owned(), debian.to_owned()), ());
            }
        }
        for (package, debian) in packages.keys() {
            let upstream = debian.split(['-', '~', '+']).next().unwrap_or_default();
            let Ok(version) = upstream.parse::<Version>() else {
                continue;
            };
            let has = |name: &str| packages.contains_key(&(name.to_owned(), debian.clone()));
            let sources = if let Some(rest) = package.strip_prefix("linux-image-") {
                // From 6.19 on the image is an empty package that depends on two others; meta packages name no release.
                let names_a_release = rest.starts_with(&format!("{}.{}.", version.line.0, version.line.1));
                if !names_a_release || has(&format!("linux-binary-{rest}")) {
                    continue;
                }
                vec![format!("{package}={debian}")]
            } else if let Some(rest) = package.strip_prefix("linux-binary-") {
                vec![
                    format!("{package}={debian}"),
                    format!("linux-modules-{rest}={debian}"),
                ]
            } else {
                continue;
            };
            kernels.entry(version).or_insert(Kernel {
                version,
                packages: sources,
            });
        }
        Self(kernels)
    }

    /// The kernels of the choices, oldest first, each once.
    ///
    /// # Errors
    /// [`Error::Missing`] for a version that the mirror does not have.
    pub fn select(&self, choices: &[Choice]) -> Result<Vec<Kernel>> {
        let mut chosen = BTreeMap::new();
        for choice in choices {
            let found = match choice {
                Choice::All => self.matrix(),
                Choice::Newest => self.0.values().next_back().into_iter().collect(),
                Choice::Version(version) => self.of(*version).into_iter().collect(),
            };
            if found.is_empty() {
                return Err(self.missing(choice));
            }
            chosen.extend(found.into_iter().map(|kernel| (kernel.version, kernel.clone())));
        }
        Ok(chosen.into_values().collect())
    }

    fn of(&self, version: Version) -> Option<&Kernel> {
        match version.patch {
            Some(_) => self.0.get(&version),
            None => self.line(version.line).next_back(),
        }
    }

    fn line(&self, line: (u32, u32)) -> impl DoubleEndedIterator<Item = &Kernel> {
        self.0.values().filter(move |kernel| kernel.version.line == line)
    }

    fn matrix(&self) -> Vec<&Kernel> {
        let ends = MATRIX.iter().flat_map(|line| {
            let oldest = self.line(*line).next();
            oldest.into_iter().chain(self.line(*line).next_back())
        });
        ends.chain(self.0.values().next_back()).collect()
    }

    fn missing(&self, choice: &Choice) -> Error {
        let mut lines: Vec<String> = self
            .0
            .keys()
            .map(|version| format!("{}.{}", version.line.0, version.line.1))
            .collect();
        lines.dedup();
        let wanted = match choice {
            Choice::All | Choice::Newest => String::new(),
            Choice::Version(version) => format!(" {version}"),
        };
        Error::Missing {
            what: format!("the machine's Debian mirror has no cloud kernel{wanted}"),
            remedy: match lines.as_slice() {
                [] => "check that the machine's apt sources reach a full Debian mirror".to_owned(),
                lines => format!("choose from {}", lines.join(", ")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDICES: &str = "\
Package: linux-image-5.10.0-30-cloud-amd64
Version: 5.10.218-1
Filename: x

Package: linux-image-5.10.0-46-cloud-amd64
Version: 5.10.262-1

Package: linux-image-6.1-cloud-amd64
Version: 6.1.170-1~deb11u1

Package: linux-image-6.1.0-47-cloud-amd64-unsigned
Version: 6.1.170-1

Package: linux-image-6.1.0-47-cloud-amd64
Version: 6.1.170-1

Package: linux-image-7.0.4+deb13-cloud-amd64
Version: 7.0.4-1~bpo13+1

Package: linux-binary-7.0.4+deb13-cloud-amd64
Version: 7.0.4-1~bpo13+1

Package: linux-headers-7.0.4+deb13-cloud-amd64
Version: 7.0.4-1~bpo13+1
";

    fn names(choices: &[&str]) -> Vec<String> {
        let choices: Vec<Choice> = choices.iter().map(|choice| choice.parse().unwrap()).collect();
        let kernels = Catalog::parse(INDICES).select(&choices).unwrap();
        kernels.iter().map(|kernel| kernel.packages.join(" ")).collect()
    }

    #[test]
    fn a_line_means_its_newest_release() {
        assert_eq!(names(&["5.10"]), ["linux-image-5.10.0-46-cloud-amd64=5.10.262-1"]);
        assert_eq!(
            names(&["5.10.218"]),
            ["linux-image-5.10.0-30-cloud-amd64=5.10.218-1"]
        );
        assert_eq!(
            names(&["7.0", "6.1", "6.1.170"]),
            [
                "linux-image-6.1.0-47-cloud-amd64=6.1.170-1",
                "linux-binary-7.0.4+deb13-cloud-amd64=7.0.4-1~bpo13+1 linux-modules-7.0.4+deb13-cloud-amd64=7.0.4-1~bpo13+1"
            ]
        );
    }

    #[test]
    fn the_matrix_has_both_ends_of_each_line_and_the_newest() {
        let matrix = names(&["all"]);
        assert_eq!(matrix.len(), 4, "{matrix:?}");
        assert_eq!(names(&["newest"]), matrix[3..]);
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let choice = ["4.19".parse().unwrap()];
        let error = Catalog::parse(INDICES).select(&choice).unwrap_err().to_string();
        assert!(
            error.contains("4.19") && error.contains("5.10, 6.1, 7.0"),
            "{error}"
        );
    }
}
