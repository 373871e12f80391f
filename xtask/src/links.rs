//! Links, anchors and listings of every tracked Markdown page, against the files of the repository.

use crate::error::FileContext;
use crate::markdown::Page;
use crate::{Result, paths, process};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// The directory of the book, whose pages can only lead to what becomes part of it.
pub const BOOK: &str = "docs";
/// The list of its pages.
const SUMMARY: &str = "docs/SUMMARY.md";

/// Everything that is wrong, one line each: `PAGE:LINE: what`.
///
/// # Errors
/// git cannot list the files, or a page cannot be read.
pub fn problems() -> Result<Vec<String>> {
    let listing = process::stdout(
        Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(paths::root()),
    )?;
    let names = listing.split('\0').filter(|name| name.ends_with(".md"));
    let mut pages = BTreeMap::new();
    for name in names.map(PathBuf::from) {
        let path = paths::root().join(&name);
        // Deleted, and not yet committed.
        if path.is_file() {
            pages.insert(name, Page::read(&fs::read_to_string(&path).file("read", &path)?));
        }
    }
    Ok(check(&pages, paths::root()))
}

fn check(pages: &BTreeMap<PathBuf, Page>, root: &Path) -> Vec<String> {
    let chapters = chapters(pages);
    let mut problems = Vec::new();
    for (name, page) in pages {
        let mut add = |line: usize, what: String| problems.push(format!("{}:{line}: {what}", name.display()));
        let in_book = name.starts_with(BOOK) && name != Path::new(SUMMARY);
        if in_book && !chapters.contains(name) {
            add(1, format!("not listed in {SUMMARY}"));
        }
        if in_book && page.titles != 1 {
            add(1, format!("{} headings of the first level, not one", page.titles));
        }
        for link in &page.links {
            if let Err(what) = check_link(name, &link.to, pages, root) {
                add(link.line, format!("{}: {what}", link.to));
            }
        }
        for listing in &page.listings {
            match fs::read_to_string(root.join(&listing.file)) {
                Ok(content) if content == listing.code => {}
                Ok(_) => add(listing.line, format!("differs from {}", listing.file)),
                Err(error) => add(listing.line, format!("{}: {error}", listing.file)),
            }
        }
    }
    problems
}

/// The pages that the book's summary lists.
fn chapters(pages: &BTreeMap<PathBuf, Page>) -> Vec<PathBuf> {
    let links = pages
        .get(Path::new(SUMMARY))
        .map_or(&[][..], |page| &page.links[..]);
    links.iter().map(|link| Path::new(BOOK).join(&link.to)).collect()
}

fn check_link(
    from: &Path,
    to: &str,
    pages: &BTreeMap<PathBuf, Page>,
    root: &Path,
) -> std::result::Result<(), String> {
    if let Some((scheme, rest)) = to.split_once("://") {
        // What is behind it cannot be asked: a build has no network but its package registries.
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let right = matches!(scheme, "http" | "https")
            && host.contains('.')
            && !to.contains(|c: char| c.is_whitespace() || c.is_control());
        return if right { Ok(()) } else { Err("no URL".into()) };
    }
    let (path, anchor) = to.split_once('#').unwrap_or((to, ""));
    let target = if path.is_empty() {
        from.to_owned()
    } else {
        normal(&from.parent().unwrap_or(Path::new("")).join(path)).ok_or("leads out of the repository")?
    };
    if !root.join(&target).exists() {
        return Err("no such file".into());
    }
    if from.starts_with(BOOK) && !target.starts_with(BOOK) {
        return Err("leads out of the book, where there is no such file".into());
    }
    if anchor.is_empty() {
        return Ok(());
    }
    match pages.get(&target) {
        Some(page) if page.anchors.contains(anchor) => Ok(()),
        Some(_) => Err("no such heading".into()),
        None => Err("only pages have headings".into()),
    }
}

/// A relative path without `.` and `..`; `None` when it leads above its beginning.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let mut pages = BTreeMap::new();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            if name.ends_with(".md") {
                pages.insert(PathBuf::from(name), Page::read(text));
            }
        }
        check(&pages, root.path())
    }

    #[test]
    fn what_is_right_passes() {
        let found = problems(&[
            (
                "README.md",
                "[a](docs/a.md#deep-down), [l](LICENSE), [w](https://a.test/x?y)",
            ),
            ("LICENSE", ""),
            ("docs/SUMMARY.md", "# S\n- [a](a.md)\n- [b](b/b.md)"),
            (
                "docs/a.md",
                "# A\n## Deep down\n[here](#a) [b](b/b.md#b) ![p](p.svg)",
            ),
            ("docs/b/b.md", "# B\n[a](../a.md)\n```c,file=x.c\nint x;\n```\n"),
            ("docs/p.svg", ""),
            ("x.c", "int x;\n"),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let found = problems(&[
            (
                "README.md",
                "[a](docs/a.md#nowhere)\n[b](../b) [w](https:///x) [s](ftp://a.test/)",
            ),
            ("LICENSE", ""),
            ("docs/SUMMARY.md", "# S\n- [a](a.md)"),
            ("docs/a.md", "# A\n[out](../LICENSE) [gone](gone.md)\n\n[x](#y)"),
            ("docs/orphan.md", "no title\n```c,file=x.c\nint y;\n```\n"),
            ("x.c", "int x;\n"),
        ]);
        let expected = [
            "README.md:1: docs/a.md#nowhere: no such heading",
            "README.md:2: ../b: leads out of the repository",
            "README.md:2: https:///x: no URL",
            "README.md:2: ftp://a.test/: no URL",
            "docs/a.md:2: ../LICENSE: leads out of the book, where there is no such file",
            "docs/a.md:2: gone.md: no such file",
            "docs/a.md:4: #y: no such heading",
            "docs/orphan.md:1: not listed in docs/SUMMARY.md",
            "docs/orphan.md:1: 0 headings of the first level, not one",
            "docs/orphan.md:2: differs from x.c",
        ];
        assert_eq!(found, expected);
    }
}
