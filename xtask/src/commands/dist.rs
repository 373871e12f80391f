//! `dist`: a release: the tarball, the images and what they are made of.

use crate::dist::{self, Built, Contents, Release};
use crate::error::FileContext;
use crate::{Error, Result, apt, digest, features, paths, progress};
use cwasi_bench::report::{self, Format};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Most bytes of the agent's image, as a registry holds it.
const AGENT_LIMIT: usize = 25_000_000;

/// Builds a release: a tarball, and OCI images without a registry and without Docker.
///
/// Writes to DIR (`dist` in cargo's target directory): cwasi-VERSION-linux-ARCH.tar.gz with the programs, the eBPF object, the
/// licences and the bill of materials; the latter again as cwasi-VERSION.cdx.json (CycloneDX); images/NAME.tar for `ctr image
/// import`, and images/NAME, the same as an OCI layout for other tools; SHA256SUMS. The same commit gives the same bytes on the
/// same machine. As root it first installs the Debian packages that the build needs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to write [default: `dist` in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Take the programs of this directory, whatever they are, instead of building them
    #[arg(long, value_name = "DIR")]
    built: Option<PathBuf>,

    /// How to print the results
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A file or layout that was written.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Written {
    path: PathBuf,
    /// Bytes of the file; of an image, bytes in a registry.
    bytes: usize,
    /// SHA-256 of the file in hexadecimal; of an image, the digest of its manifest.
    sha256: String,
}

/// Runs the command.
///
/// # Errors
/// What the build needs is missing, it fails, the agent's image is too large, or something cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let release = Release::of_checkout()?;
    let programs = match &args.built {
        Some(directory) => dist::find(directory)?,
        None => {
            if apt::can_install() {
                apt::install_missing(&features::PACKAGES)?;
            }
            dist::build()?
        }
    };
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| paths::target_dir().join("dist"));
    let limit = args.built.is_none().then_some(AGENT_LIMIT);
    let written = write_all(release, programs, &out, limit)?;
    match args.output {
        Format::Json => report::print_json(&written)?,
        Format::Table => println!("{}", table(&written)),
    }
    Ok(())
}

fn write_all(
    release: Release,
    programs: Vec<Built>,
    out: &Path,
    agent_limit: Option<usize>,
) -> Result<Vec<Written>> {
    let (name, version) = (release.name(), release.version);
    let _step = progress::step("packing");
    let contents = Contents::gather(release, programs)?;
    let images = out.join("images");
    fs::create_dir_all(&images).file("create", &images)?;
    let mut written = vec![
        write(out, format!("{name}.tar.gz"), &contents.tarball())?,
        write(out, format!("cwasi-{version}.cdx.json"), contents.sbom())?,
    ];
    let mut layouts = Vec::new();
    for image in contents.images() {
        let name = image.name();
        check_size(name, image.size(), agent_limit)?;
        let layout = images.join(name);
        image.write_layout(&layout)?;
        written.push(write(out, format!("images/{name}.tar"), &image.tar())?);
        layouts.push(Written {
            path: layout,
            bytes: image.size(),
            sha256: image.digest().trim_start_matches("sha256:").to_owned(),
        });
    }
    let sums: String = written
        .iter()
        .map(|file| {
            let path = file.path.strip_prefix(out).unwrap_or(&file.path);
            format!("{}  {}\n", file.sha256, path.display())
        })
        .collect();
    written.push(write(out, "SHA256SUMS".to_owned(), sums.as_bytes())?);
    written.extend(layouts);
    Ok(written)
}

/// Nodes pull the agent's image before they accelerate anything.
fn check_size(name: &str, size: usize, limit: Option<usize>) -> Result<()> {
    match limit {
        Some(limit) if name == dist::AGENT.name && size > limit => Err(Error::Checks(format!(
            "the image {name} has {size} bytes, more than {limit}: see what it grew by"
        ))),
        _ => Ok(()),
    }
}

fn write(out: &Path, name: String, bytes: &[u8]) -> Result<Written> {
    let path = out.join(name);
    fs::write(&path, bytes).file("write", &path)?;
    Ok(Written {
        path,
        bytes: bytes.len(),
        sha256: digest::sha256(bytes),
    })
}

fn table(written: &[Written]) -> impl std::fmt::Display {
    let rows = written.iter().map(|file| {
        [
            file.path.display().to_string(),
            file.bytes.to_string(),
            file.sha256.clone(),
        ]
    });
    report::table(["file", "bytes", "sha256"], 1, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::{AGENT, PROGRAMS};

    #[test]
    fn everything_is_written_and_summed() {
        let out = tempfile::tempdir().unwrap();
        let release = Release::of_checkout().unwrap();
        let programs = PROGRAMS.map(|program| Built {
            program,
            bytes: program.name.as_bytes().to_vec(),
        });
        let write = || write_all(release.clone(), programs.to_vec(), out.path(), Some(AGENT_LIMIT));
        let written = match write() {
            Err(error @ Error::Failed { .. }) => return eprintln!("skipped: {error}"),
            written => written.unwrap(),
        };
        assert_eq!(written, write().unwrap(), "other bytes the second time");
        let sums = fs::read_to_string(out.path().join("SHA256SUMS")).unwrap();
        assert_eq!(sums.lines().count(), 4, "{sums}");
        for line in sums.lines() {
            let (sum, name) = line.split_once("  ").unwrap();
            assert_eq!(
                sum,
                digest::sha256(&fs::read(out.path().join(name)).unwrap()),
                "{name}"
            );
        }
        assert!(out.path().join("images/cwasi-agent/oci-layout").is_file());
    }

    #[test]
    fn an_agent_that_is_too_large_is_no_release() {
        let error = check_size(AGENT.name, 2, Some(1)).unwrap_err().to_string();
        assert!(error.contains("2 bytes, more than 1"), "{error}");
        check_size(AGENT.name, 1, Some(1)).unwrap();
        check_size(AGENT.name, 2, None).unwrap();
        check_size("cwasi-installer", 2, Some(1)).unwrap();
    }
}
