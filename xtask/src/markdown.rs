//! What a Markdown page links to, what can be linked to in it, and what it quotes.

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use std::collections::BTreeSet;

/// A page, as far as it can be checked.
#[derive(Debug, Default)]
pub struct Page {
    /// Destinations of links and images, in order.
    pub links: Vec<Link>,
    /// The anchors of its headings.
    pub anchors: BTreeSet<String>,
    /// Code blocks that say which file they show.
    pub listings: Vec<Listing>,
    /// Headings of the first level.
    pub titles: usize,
}

/// A link or an image.
#[derive(Debug, PartialEq, Eq)]
pub struct Link {
    /// Its line, from 1.
    pub line: usize,
    /// Where it leads.
    pub to: String,
}

/// A code block whose info string has a word `file=PATH`.
#[derive(Debug, PartialEq, Eq)]
pub struct Listing {
    /// Its line, from 1.
    pub line: usize,
    /// The file that it shows, relative to the repository.
    pub file: String,
    /// What it shows of it.
    pub code: String,
}

impl Page {
    /// Reads a page of CommonMark with tables.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut page = Self::default();
        let mut heading: Option<String> = None;
        let mut listing: Option<Listing> = None;
        let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            let line = 1 + text[..range.start].matches('\n').count();
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    let to = dest_url.into_string();
                    page.links.push(Link { line, to });
                }
                Event::Start(Tag::Heading { level, .. }) => {
                    page.titles += usize::from(level == HeadingLevel::H1);
                    heading = Some(String::new());
                }
                Event::End(TagEnd::Heading(_)) => {
                    let title = heading.take().unwrap_or_default();
                    page.add_anchor(&slug(&title));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    let file = info.split([',', ' ']).find_map(|word| word.strip_prefix("file="));
                    listing = file.map(|file| Listing {
                        line,
                        file: file.to_owned(),
                        code: String::new(),
                    });
                }
                Event::End(TagEnd::CodeBlock) => page.listings.extend(listing.take()),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    } else if let Some(listing) = &mut listing {
                        listing.code.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        page
    }

    /// Headings of the same text are told apart by a number.
    fn add_anchor(&mut self, slug: &str) {
        let numbered = (1..).map(|number| format!("{slug}-{number}"));
        let free = std::iter::once(slug.to_owned())
            .chain(numbered)
            .find(|anchor| !self.anchors.contains(anchor));
        self.anchors.extend(free);
    }
}

/// The anchor of a heading, as mdBook and code hosts make it.
#[must_use]
pub fn slug(title: &str) -> String {
    title
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c),
            c if c.is_whitespace() => Some('-'),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_anchors_and_listings_are_found() {
        let page = Page::read(
            "# A `b_c` (d)\n\n[x](y.md#z) ![p](q.svg)\n\n## A b_c d\n\n```rust,ignore,file=src/x.rs\nfn [no](link) {}\n```\n\n\
             ```sh\necho\n```\n",
        );
        let to: Vec<_> = page
            .links
            .iter()
            .map(|link| (link.line, link.to.as_str()))
            .collect();
        assert_eq!(to, [(3, "y.md#z"), (3, "q.svg")]);
        assert_eq!(Vec::from_iter(&page.anchors), ["a-b_c-d", "a-b_c-d-1"]);
        assert_eq!(
            page.listings,
            [Listing {
                line: 7,
                file: "src/x.rs".into(),
                code: "fn [no](link) {}\n".into()
            }]
        );
        assert_eq!(page.titles, 1);
    }

    #[test]
    fn slugs_are_those_of_mdbook() {
        assert_eq!(
            slug("`--passes`: add more rustdoc passes"),
            "--passes-add-more-rustdoc-passes"
        );
        assert_eq!(
            slug("Degraded: reasons and remedies"),
            "degraded-reasons-and-remedies"
        );
    }
}
