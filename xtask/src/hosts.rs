//! Host names of package registries, which no tracked file may contain: a build takes them from the machine.

use crate::error::FileContext;
use crate::{Result, paths, process};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Registries that machines use by default, as labels, because this file is searched as well.
const DEFAULTS: [&[&str]; 7] = [
    &["crates", "io"],
    &["static", "rust-lang", "org"],
    &["deb", "debian", "org"],
    &["archive", "ubuntu", "com"],
    &["pypi", "org"],
    &["registry", "npmjs", "org"],
    &["proxy", "golang", "org"],
];

/// Every tracked file that names a registry's host, with the host's name. Lock files are cargo's own business.
///
/// # Errors
/// When git cannot list the files or one of them cannot be read.
pub fn tracked_files_naming_hosts() -> Result<Vec<(PathBuf, String)>> {
    let hosts = known_hosts();
    let mut found = Vec::new();
    let listing = process::stdout(
        Command::new("git")
            .args(["ls-files", "-z"])
            .current_dir(paths::root()),
    )?;
    for name in listing
        .split('\0')
        .filter(|name| !name.is_empty() && !name.ends_with(".lock"))
    {
        let path = paths::root().join(name);
        if !path.is_file() {
            continue;
        }
        let content = fs::read(&path).file("read", &path)?;
        let named = hosts.iter().filter(|host| contains(&content, host.as_bytes()));
        found.extend(named.map(|host| (name.into(), host.clone())));
    }
    Ok(found)
}

/// The defaults and those of this machine's own apt sources and cargo configuration.
fn known_hosts() -> BTreeSet<String> {
    let mut hosts: BTreeSet<String> = DEFAULTS.iter().map(|labels| labels.join(".")).collect();
    if let Ok(uris) = process::stdout(Command::new("apt-get").args(["--print-uris", "update"])) {
        hosts.extend(hosts_in(&uris));
    }
    if let Ok(home) = paths::cargo_home()
        && let Ok(config) = fs::read_to_string(home.join("config.toml"))
    {
        hosts.extend(hosts_in(&config));
    }
    // Source code lives there too, and links to it are welcome.
    hosts.retain(|host| host != "github.com");
    hosts
}

/// The host names of the URLs in a text.
fn hosts_in(text: &str) -> impl Iterator<Item = String> {
    text.split("://").skip(1).filter_map(|rest| {
        let authority = rest
            .split(|c: char| !(c.is_ascii_alphanumeric() || "-._:@".contains(c)))
            .next()?;
        let host = authority.rsplit('@').next()?.split(':').next()?;
        host.contains('.').then(|| host.to_owned())
    })
}

fn contains(content: &[u8], host: &[u8]) -> bool {
    content.windows(host.len()).any(|window| window == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_taken_from_urls() {
        let text = "'http://mirror.test/debian/dists' x\nregistry = \"sparse+https://u:p@b.test:8080/x\"\nfile:///etc";
        assert_eq!(Vec::from_iter(hosts_in(text)), ["mirror.test", "b.test"]);
    }

    #[test]
    fn hosts_are_found_in_binary_files() {
        assert!(contains(b"\0\xffhttp://mirror.test/\0", b"mirror.test"));
        assert!(!contains(b"mirror", b"mirror.test"));
    }
}
