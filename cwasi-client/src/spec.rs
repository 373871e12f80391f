//! What may be said of a function: the agent refuses anything else, and launchers hold to it what they were told by others.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::protocol::{FunctionSpec, MAX_ADDRESSES};

/// Longest name of a function, pod or container, as in Kubernetes.
pub const MAX_NAME: usize = 253;
/// Longest namespace, a DNS label.
const MAX_NAMESPACE: usize = 63;
/// Most functions of one process.
const MAX_MEMBERS: usize = 64;
/// Most labels of a function.
const MAX_LABELS: usize = 64;
/// Longest key of a label: a DNS subdomain, a slash and a name.
const MAX_LABEL_KEY: usize = 317;
/// Longest value of a label or annotation, in bytes.
const MAX_LABEL_VALUE: usize = 4096;
/// Longest path, as the kernel takes it (PATH_MAX).
const MAX_PATH: usize = 4096;
/// Longest description of a function, in bytes of JSON: an agent with as many functions as fit on a node stays small.
pub const MAX_SPEC_BYTES: usize = 8 * 1024;
/// Characters of a value that a message shows.
const SHOWN: usize = 80;

/// Why something cannot be said of a function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// {what} {value:?}: 1 to {longest} letters, digits, '-', '_' and '.', first and last a letter or digit
    #[error(
        "{what} {value:?}: 1 to {longest} letters, digits, '-', '_' and '.', first and last a letter or digit"
    )]
    Name {
        /// The field.
        what: &'static str,
        /// What was given, shortened.
        value: String,
        /// Bytes that it may have.
        longest: usize,
    },
    /// {count} {what}, at most {most} fit
    #[error("{count} {what}, at most {most} fit")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// label {0:?}: a key is 1 to 317 visible characters
    #[error("label {0:?}: a key is 1 to {MAX_LABEL_KEY} visible characters")]
    LabelKey(String),
    /// label {0:?}: a value is at most 4096 bytes without control characters
    #[error("label {0:?}: a value is at most {MAX_LABEL_VALUE} bytes without control characters")]
    LabelValue(String),
    /// {0} is no address of an endpoint
    #[error("{0} is no address of an endpoint")]
    Address(IpAddr),
    /// {0}: an absolute path of at most 4096 bytes is needed
    #[error("{0}: an absolute path of at most {MAX_PATH} bytes is needed")]
    Path(&'static str),
    /// the function is described by {0} bytes, at most 8192 fit: give it fewer or shorter labels
    #[error(
        "the function is described by {0} bytes, at most {MAX_SPEC_BYTES} fit: give it fewer or shorter labels"
    )]
    TooLong(usize),
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Whether it is a name as Kubernetes has them, a little wider: 1 to `longest` letters of either case, digits, `-`, `_` and `.`,
/// the first and the last a letter or digit.
#[must_use]
pub fn is_name(value: &str, longest: usize) -> bool {
    let end = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    let inner = bytes
        .iter()
        .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c));
    bytes.len() <= longest && inner && end(bytes.first()) && end(bytes.last())
}

/// Checks the name in the field `what`: see [`is_name`].
///
/// # Errors
/// [`SpecError::Name`].
pub fn check_name(what: &'static str, value: &str, longest: usize) -> Result<(), SpecError> {
    if is_name(value, longest) {
        return Ok(());
    }
    Err(SpecError::Name {
        what,
        value: shown(value),
        longest,
    })
}

fn check_label(key: &str, value: &str) -> Result<(), SpecError> {
    let unseen = |c: char| c.is_control() || c.is_whitespace();
    if key.is_empty() || key.len() > MAX_LABEL_KEY || key.contains(unseen) {
        return Err(SpecError::LabelKey(shown(key)));
    }
    if value.len() > MAX_LABEL_VALUE || value.contains(char::is_control) {
        return Err(SpecError::LabelValue(shown(key)));
    }
    Ok(())
}

fn check_count(what: &'static str, count: usize, most: usize) -> Result<(), SpecError> {
    if count <= most {
        return Ok(());
    }
    Err(SpecError::TooMany { what, count, most })
}

fn check_path(what: &'static str, path: Option<&PathBuf>) -> Result<(), SpecError> {
    match path {
        Some(path) if !path.is_absolute() || path.as_os_str().len() > MAX_PATH => Err(SpecError::Path(what)),
        _ => Ok(()),
    }
}

/// Whether nobody can have the address for themselves.
fn is_unusable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    }
}

impl FunctionSpec {
    /// Checks what can be checked without looking at the node.
    ///
    /// # Errors
    /// [`SpecError`] of the first field that cannot be used.
    pub fn check(&self) -> Result<(), SpecError> {
        check_name("name", &self.name, MAX_NAME)?;
        check_name("namespace", &self.namespace, MAX_NAMESPACE)?;
        for (what, value) in [("pod", &self.pod), ("container", &self.container)] {
            if let Some(value) = value {
                check_name(what, value, MAX_NAME)?;
            }
        }
        check_count("members", self.members.len(), MAX_MEMBERS)?;
        for member in &self.members {
            check_name("member", member, MAX_NAME)?;
        }
        check_count("labels", self.labels.len(), MAX_LABELS)?;
        for (key, value) in &self.labels {
            check_label(key, value)?;
        }
        check_count("addresses", self.addresses.len(), MAX_ADDRESSES)?;
        if let Some(address) = self.addresses.iter().find(|address| is_unusable(address)) {
            return Err(SpecError::Address(*address));
        }
        check_path("cgroup", self.cgroup.as_ref())?;
        check_path("netns", self.netns.as_ref())?;
        match self.json_bytes() {
            bytes if bytes > MAX_SPEC_BYTES => Err(SpecError::TooLong(bytes)),
            _ => Ok(()),
        }
    }

    /// Its length as JSON, in bytes; what cannot be written is too long.
    fn json_bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |text| text.len())
    }

    /// Leaves out the labels for which the agent would refuse the function, and gives their keys, shortened: those that cannot
    /// be used, and then the last ones, in the order of their keys, until the others fit.
    pub fn fit_labels(&mut self) -> Vec<String> {
        let mut left_out = Vec::new();
        self.labels.retain(|key, value| {
            let usable = check_label(key, value).is_ok();
            if !usable {
                left_out.push(shown(key));
            }
            usable
        });
        // The number first: to measure what is long takes its time.
        while (self.labels.len() > MAX_LABELS || self.json_bytes() > MAX_SPEC_BYTES)
            && let Some((key, _)) = self.labels.pop_last()
        {
            left_out.push(shown(&key));
        }
        left_out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(name: &str) -> FunctionSpec {
        FunctionSpec {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            ..FunctionSpec::default()
        }
    }

    fn message(spec: &FunctionSpec) -> String {
        spec.check().unwrap_err().to_string()
    }

    #[test]
    fn names_are_those_of_kubernetes() {
        for good in ["a", "echo", "web-0", "My_Fn.v2", "0", &"x".repeat(253)] {
            spec(good).check().unwrap();
        }
        for bad in [
            "",
            "-a",
            "a-",
            "a b",
            "a/b",
            "a\n",
            "ä",
            "..",
            ".",
            &"x".repeat(254),
        ] {
            assert!(message(&spec(bad)).starts_with("name "), "{bad:?}");
        }
        assert!(
            message(&FunctionSpec {
                namespace: "n".repeat(64),
                ..spec("a")
            })
            .starts_with("namespace ")
        );
        assert!(
            message(&FunctionSpec {
                pod: Some("\u{7}".to_owned()),
                ..spec("a")
            })
            .starts_with("pod ")
        );
        assert!(
            message(&FunctionSpec {
                container: Some(String::new()),
                ..spec("a")
            })
            .starts_with("container ")
        );
    }

    #[test]
    fn labels_are_bounded() {
        let with = |key: &str, value: &str| {
            let labels = [(key.to_owned(), value.to_owned())].into();
            FunctionSpec { labels, ..spec("a") }.check()
        };
        with("cwasi.dev/accelerate", "true").unwrap();
        with("note", "spaces and ä are fine").unwrap();
        assert!(with("", "x").is_err());
        assert!(with("a b", "x").is_err());
        assert!(with(&"k".repeat(318), "x").is_err());
        assert!(with("a", "x\ny").is_err());
        assert!(with("a", &"x".repeat(4097)).is_err());
        let labels = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert!(message(&FunctionSpec { labels, ..spec("a") }).contains("65 labels"));
        let labels = (0..3).map(|n| (n.to_string(), "x".repeat(4000))).collect();
        assert!(message(&FunctionSpec { labels, ..spec("a") }).contains("at most 8192 fit"));
    }

    #[test]
    fn addresses_and_paths_must_make_sense() {
        for bad in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            let addresses = vec![bad.parse().unwrap()];
            assert!(
                message(&FunctionSpec {
                    addresses,
                    ..spec("a")
                })
                .contains("no address of an endpoint"),
                "{bad}"
            );
        }
        let addresses = (0..65).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert!(
            message(&FunctionSpec {
                addresses,
                ..spec("a")
            })
            .contains("65 addresses")
        );
        for bad in ["relative".to_owned(), format!("/{}", "x".repeat(4096))] {
            let path = Some(PathBuf::from(bad));
            let cgroup = path.clone();
            assert!(message(&FunctionSpec { cgroup, ..spec("a") }).starts_with("cgroup: "));
            let netns = path;
            assert!(message(&FunctionSpec { netns, ..spec("a") }).starts_with("netns: "));
        }
    }

    #[test]
    fn the_labels_that_fit_are_kept() {
        let mut whole = spec("a");
        whole.labels = [("cwasi.dev/team".to_owned(), "blue".to_owned())].into();
        assert_eq!(whole.clone().fit_labels(), [] as [&str; 0]);

        let mut absurd = whole.clone();
        absurd
            .labels
            .insert("cwasi.dev/note".to_owned(), "two\nlines".to_owned());
        absurd
            .labels
            .insert("cwasi.dev/big".to_owned(), "x".repeat(300_000));
        assert_eq!(absurd.fit_labels(), ["cwasi.dev/big", "cwasi.dev/note"]);
        assert_eq!(absurd, whole);

        let mut many = spec("a");
        many.labels = (0..3000)
            .map(|n| (format!("cwasi.dev/{n:04}"), "x".repeat(100)))
            .collect();
        let left_out = many.fit_labels();
        assert_eq!(left_out.len() + many.labels.len(), 3000);
        assert!(many.labels.len() > 40, "{}", many.labels.len());
        many.check().unwrap();
    }

    /// Keys and values as any client of Kubernetes' API, or of containerd's, may give them.
    fn labels() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
        let key = prop_oneof![
            4 => "cwasi\\.dev/[ -~]{0,20}",
            1 => any::<String>(),
            1 => (0_usize..400).prop_map(|length| "k".repeat(length)),
        ];
        let value = prop_oneof![
            4 => "[ -~]{0,40}",
            1 => any::<String>(),
            1 => (0_usize..10_000).prop_map(|length| "\"".repeat(length)),
        ];
        prop::collection::btree_map(key, value, 0..100)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

        #[test]
        fn no_accepted_name_can_break_a_line_or_a_path(text in "\\PC*|[ -~]{0,300}|[a-z./_-]{0,20}") {
            if spec(&text).check().is_ok() {
                prop_assert!(!text.contains('/') && !text.contains(char::is_control) && !text.contains(' '));
                prop_assert!((1..=MAX_NAME).contains(&text.len()));
            }
        }

        #[test]
        fn no_labels_cost_a_function_its_registration(labels in labels()) {
            let given = labels.len();
            let mut spec = FunctionSpec { labels, ..spec("a") };
            let left_out = spec.fit_labels();
            prop_assert_eq!(spec.check(), Ok(()));
            prop_assert_eq!(left_out.len() + spec.labels.len(), given);
            prop_assert!(left_out.iter().all(|key| key.chars().count() <= SHOWN));
        }
    }
}
