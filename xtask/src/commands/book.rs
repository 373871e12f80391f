//! `book`: the documentation as a book, and the links of every page.

use crate::cargo_tool::CargoTool;
use crate::{Error, Result, links, paths, process};
use std::process::Command;

const MDBOOK: CargoTool = CargoTool {
    name: "mdbook",
    version: "0.5.4",
    features: "search",
};

/// Builds docs/ as a book into target/book and checks the links, anchors and listings of every Markdown page.
///
/// mdBook is built first when it is missing (two minutes, once). A warning of it is an error. Of links that leave the repository only
/// the form is checked.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// [`Error::Checks`] when a page is wrong; mdBook cannot be built or refuses the book.
pub fn run(_args: &Args) -> Result<()> {
    let problems = links::problems()?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    let mdbook = MDBOOK.ensure(&mut Command::new("cargo"))?;
    let out = paths::target_dir().join("book");
    let output = process::run_quiet(
        "building the book",
        Command::new(mdbook)
            .args(["build", links::BOOK, "--dest-dir"])
            .arg(&out)
            .current_dir(paths::root()),
    )?;
    let log = String::from_utf8_lossy(&output.stderr);
    let warnings: Vec<&str> = log.lines().filter(|line| is_warning(line)).collect();
    for warning in &warnings {
        eprintln!("{warning}");
    }
    match problems.len() + warnings.len() {
        0 => {
            println!("{}", out.join("index.html").display());
            Ok(())
        }
        wrong => Err(Error::Checks(format!("the book: {wrong} problems"))),
    }
}

/// Whether a line of mdBook's log tells of more than progress.
fn is_warning(line: &str) -> bool {
    line.split_whitespace()
        .take(4)
        .any(|word| matches!(word.trim_matches(['[', ']']), "WARN" | "ERROR"))
}

/// As the command.
///
/// # Errors
/// As [`run`].
pub fn check() -> Result<()> {
    run(&Args {})
}

#[cfg(test)]
mod tests {
    use super::is_warning;

    #[test]
    fn warnings_are_told_from_progress() {
        assert!(is_warning(
            " WARN mdbook_html: unclosed HTML tag `<x>` found in `a.md`"
        ));
        assert!(is_warning("2026-01-01 00:00:00 [ERROR] (mdbook): no"));
        assert!(!is_warning(" INFO Book building has started"));
    }
}
