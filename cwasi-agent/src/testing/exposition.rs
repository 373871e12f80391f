//! Prometheus' text format, version 0.0.4, read strictly: what this reader takes, any scraper takes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Labels of a sample, by name.
pub type Labels = BTreeMap<String, String>;

/// What is exposed, by the name of the metric.
pub type Families = BTreeMap<String, Family>;

/// A metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its `# HELP`.
    pub help: String,
    /// Its `# TYPE`.
    pub kind: String,
    /// Its samples.
    pub samples: BTreeMap<Labels, f64>,
}

/// Reads an exposition of counters and gauges, each with its HELP and its TYPE, in this order, before its samples.
///
/// # Errors
/// The line that is not as the format has it, and why.
pub fn parse(text: &str) -> Result<Families, String> {
    let Some(text) = text.strip_suffix('\n') else {
        return Err("the last line does not end".to_owned());
    };
    let mut families = Families::new();
    let mut current: Option<(String, Family)> = None;
    for line in text.split('\n') {
        let read = read_line(line, &mut current, &mut families);
        read.map_err(|why| format!("{why}: {line:?}"))?;
    }
    finish(current, &mut families)?;
    Ok(families)
}

fn read_line(
    line: &str,
    current: &mut Option<(String, Family)>,
    families: &mut Families,
) -> Result<(), &'static str> {
    if let Some(help) = line.strip_prefix("# HELP ") {
        finish(current.take(), families)?;
        let (name, help) = help.split_once(' ').ok_or("no text")?;
        check_name(name, true)?;
        let family = Family {
            help: unescape(help, false)?,
            kind: String::new(),
            samples: BTreeMap::new(),
        };
        *current = Some((name.to_owned(), family));
        return Ok(());
    }
    let (name, family) = current.as_mut().ok_or("no HELP before")?;
    if let Some(kind) = line.strip_prefix("# TYPE ") {
        let (of, kind) = kind.split_once(' ').ok_or("no type")?;
        if of != name || !family.kind.is_empty() || !["counter", "gauge"].contains(&kind) {
            return Err("not the type of the metric above");
        }
        kind.clone_into(&mut family.kind);
        return Ok(());
    }
    if family.kind.is_empty() {
        return Err("no TYPE before");
    }
    let rest = line
        .strip_prefix(name.as_str())
        .ok_or("not of the metric above")?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => read_labels(rest)?,
        None => (Labels::new(), rest),
    };
    let value = value.strip_prefix(' ').ok_or("no space before the value")?;
    let number: f64 = value.parse().map_err(|_| "no number")?;
    match family.samples.entry(labels) {
        Entry::Vacant(entry) => entry.insert(number),
        Entry::Occupied(_) => return Err("the series is there already"),
    };
    Ok(())
}

/// Takes a metric that is complete.
fn finish(done: Option<(String, Family)>, families: &mut Families) -> Result<(), &'static str> {
    let Some((name, family)) = done else { return Ok(()) };
    if family.kind.is_empty() {
        return Err("the metric above has no type");
    }
    match families.insert(name, family) {
        None => Ok(()),
        Some(_) => Err("the metric above is there already"),
    }
}

/// Reads labels up to the closing brace, and gives what follows it.
fn read_labels(mut rest: &str) -> Result<(Labels, &str), &'static str> {
    let mut labels = Labels::new();
    loop {
        let (name, quoted) = rest.split_once("=\"").ok_or("no label")?;
        check_name(name, false)?;
        let end = closing_quote(quoted).ok_or("the label's value does not end")?;
        let value = unescape(&quoted[..end], true)?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err("a label is there twice");
        }
        rest = &quoted[end + 1..];
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        rest = rest.strip_prefix(',').ok_or("no comma between labels")?;
    }
}

/// Where the first quote is that is not escaped.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn unescape(text: &str, quoted: bool) -> Result<String, &'static str> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('"') if quoted => '"',
                _ => return Err("an unknown escape"),
            },
            other => other,
        });
    }
    Ok(plain)
}

fn check_name(name: &str, of_metric: bool) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (of_metric && byte == b':');
    let first = name.bytes().next().ok_or("an empty name")?;
    if first.is_ascii_digit() || !name.bytes().all(fits) {
        return Err("a name that is none");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# HELP a_total What\\nis \\\\ it.\n# TYPE a_total counter\n";

    #[test]
    fn what_is_right_is_read() {
        let text = format!(
            "{HEAD}a_total 1\na_total{{x=\"\\\\\\\"\\n}} 7\",y=\"\"}} 2.5e3\n# HELP b\u{20}x\n# TYPE b gauge\n"
        );
        let families = parse(&text).unwrap();
        let a = &families["a_total"];
        assert_eq!((a.help.as_str(), a.kind.as_str()), ("What\nis \\ it.", "counter"));
        let labels = [("x", "\\\"\n} 7"), ("y", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let expected = [(Labels::new(), 1.0), (labels.into(), 2500.0)];
        assert_eq!(a.samples, expected.into());
        assert!(families["b"].samples.is_empty());
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for wrong in [
            "a_total 1",
            "b 1\n",
            "\n",
            "a_total\n",
            "a_total  1\n",
            "a_total one\n",
            "a_total 1 \n",
            "a_total 1\na_total 2\n",
            "a_total{} 1\n",
            "a_total{x=\"1\"} 1\na_total{x=\"1\"} 1\n",
            "a_total{x=\"1\",x=\"1\"} 1\n",
            "a_total{x=\"1\",} 1\n",
            "a_total{x=\"a\"b\"} 1\n",
            "a_total{x=\"\\t\"} 1\n",
            "a_total{x=\"1} 1\n",
            "a_total{1x=\"1\"} 1\n",
            "a_total{x:y=\"1\"} 1\n",
            "# TYPE a_total counter\n",
            "# HELP b x\n",
            "# HELP a_total x\n# TYPE a_total counter\n",
            "# comment\n",
        ] {
            let text = format!("{HEAD}{wrong}");
            assert!(parse(&text).is_err(), "{text}");
        }
        assert!(parse("").is_err());
        assert!(parse("a_total 1\n").is_err());
    }
}
