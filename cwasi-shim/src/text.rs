//! Text that others wrote, in messages: names in a module, paths in an image, what a library says of them.

/// Most characters of a message.
const MOST: usize = 2000;

/// A text on one line that is not endless, and does to a terminal nothing but show: white space is one blank, what cannot be seen
/// (control characters, marks that turn the direction of writing) is shown by its number, what is too much is left out.
#[must_use]
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::new();
    let mut room = MOST;
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        for character in word.chars() {
            if room == 0 {
                return line + " …";
            }
            room -= 1;
            match character {
                '"' | '\'' | '\\' => line.push(character),
                other => line.extend(other.escape_debug()),
            }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_stays_what_it_is() {
        let text = r#"component imports instance `a:b/c@0.1.0`: "it's" not on C:\ – größer"#;
        assert_eq!(one_line(text), text);
        assert_eq!(one_line(" two\n\tlines \r\n"), "two lines");
        assert_eq!(one_line(""), "");
    }

    #[test]
    fn what_is_not_seen_is_shown() {
        assert_eq!(one_line("\u{1b}[2J\0\u{202e}x"), r"\u{1b}[2J\0\u{202e}x");
    }

    proptest! {
        #[test]
        fn every_text_is_a_line_of_bounded_length(text in any::<String>().prop_map(|text| text.repeat(100))) {
            let line = one_line(&text);
            let breaks = |c: char| c.is_control() || ['\u{2028}', '\u{2029}'].contains(&c);
            prop_assert!(!line.contains(breaks));
            // The longest number of a character is \u{10ffff}; between words is a blank.
            prop_assert!(line.chars().count() <= MOST * 11 + 2);
        }
    }
}
