//! The licences of what others wrote, in one text.

use super::crates::Crates;
use super::sbom::Library;
use crate::Result;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

/// Where Debian has the texts that packages share.
const COMMON: &str = "/usr/share/common-licenses";

/// Every licence text with the crates that come under it, and what is linked beside crates.
///
/// # Errors
/// A crate's files cannot be read.
pub(super) fn third_party(crates: &Crates, libraries: &[Library]) -> Result<String> {
    let mut text = "What cwasi's programs are made of beside its own code, and under which terms.\n\
                    The bill of materials (sbom.cdx.json) says which program has what.\n\n"
        .to_owned();
    let mut line = |entry: std::fmt::Arguments<'_>| {
        text.write_fmt(entry).expect("a string takes every write");
    };
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for library in libraries {
        let (name, version) = (library.name, &library.version);
        line(format_args!("{name} {version}: {}\n", library.licence));
        // The file's name has neither `-only` nor `-or-later`.
        let file = library
            .licence
            .trim_end_matches("-only")
            .trim_end_matches("-or-later");
        if let Ok(found) = fs::read_to_string(format!("{COMMON}/{file}")) {
            texts
                .entry(found.trim().to_owned())
                .or_default()
                .push(format!("{name} {version}"));
        }
    }
    let others = crates.all.iter().filter(|(_, found)| found.checksum.is_some());
    for (id, found) in others {
        let licence = if found.licence.is_empty() {
            "see its text"
        } else {
            &found.licence
        };
        line(format_args!(
            "{} {}: {licence} ({})\n",
            id.name, id.version, found.repository
        ));
        for found in found.texts()?.into_values() {
            texts
                .entry(found)
                .or_default()
                .push(format!("{} {}", id.name, id.version));
        }
    }
    for (licence, of) in texts {
        line(format_args!(
            "\n{}\n{}\n\n{licence}\n",
            "=".repeat(80),
            of.join(", ")
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_that_share_a_text_are_listed_before_it() {
        let crates = match Crates::find() {
            Err(error) => return eprintln!("skipped: {error}"),
            Ok(crates) => crates,
        };
        let text = third_party(&crates, &[]).unwrap();
        assert!(text.contains("\ntokio 1."), "no tokio");
        assert!(text.contains("Permission is hereby granted"), "no MIT");
        assert!(!text.contains("\ncwasi-agent"), "ours are not others'");
        assert_eq!(text, third_party(&crates, &[]).unwrap());
    }
}
