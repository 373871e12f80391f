//! The handler in the text of containerd's configuration. Everything else of the text stays as it is, byte by byte.
//!
//! Since version 2 of the file a plugin has its full name: the CRI's runtime is configured in
//! `plugins."io.containerd.grpc.v1.cri"` in version 2 (containerd 1.3 and later, 2.x), and in `plugins."io.containerd.cri.v1.runtime"` in
//! versions 3 (containerd 2.0) and 4 (2.3).

use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, TableLike, Value};

/// What is above the handler, for who reads the file.
const COMMENT: &str = "# Added by cwasi-installer; `cwasi-installer uninstall` removes it.";

/// containerd's runtime where its configuration names none.
const BUILT_IN: &str = "runc";

/// A runtime handler, the `handler` of a Kubernetes RuntimeClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// What pods ask for.
    pub name: String,
    /// The shim on the node.
    pub shim: PathBuf,
}

/// Why a configuration gets no handler: what it is, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// not TOML: {0}
    #[error("not TOML: {0}")]
    Syntax(String),
    /// a configuration of version 1; `containerd config migrate` makes a newer one of it
    #[error(
        "a configuration of version 1 (no `version = 2`); `containerd config migrate` makes a newer one of it"
    )]
    Old,
    /// version {0} of the configuration is not known to this program; versions 2, 3 and 4 are
    #[error("version {0} of the configuration is not known to this program; versions 2, 3 and 4 are")]
    Unknown(i64),
    /// containerd's CRI plugin is disabled (`disabled_plugins`); Kubernetes needs it, `ctr` needs no handler
    #[error(
        "containerd's CRI plugin is disabled (`disabled_plugins`); Kubernetes needs it, and `ctr` needs no handler"
    )]
    Disabled,
    /// a handler `{0}` is configured already, for another shim; remove it, or choose another name with --handler
    #[error(
        "a handler `{0}` is configured already, for another shim; remove it, or choose another name with --handler"
    )]
    Taken(String),
    /// `plugins` is written as inline tables, to which no table can be added; write them as [plugins."…"] sections
    #[error(
        "`plugins` is written as inline tables, to which no section can be added; write them as [plugins.\"…\"] sections"
    )]
    Inline,
}

type Result<T> = std::result::Result<T, ConfigError>;

/// A configuration file, parsed.
#[derive(Debug)]
pub struct Config<'a> {
    text: &'a str,
    document: DocumentMut,
    plugin: &'static str,
    version: i64,
}

impl<'a> Config<'a> {
    /// Reads a configuration that can have a handler.
    ///
    /// # Errors
    /// All but [`ConfigError::Taken`] and [`ConfigError::Inline`].
    pub fn parse(text: &'a str) -> Result<Self> {
        let document = parse(text)?;
        let version = document.get("version").map_or(Some(1), Item::as_integer);
        let (version, plugin) = match version {
            Some(1) => return Err(ConfigError::Old),
            Some(2) => (2, "io.containerd.grpc.v1.cri"),
            Some(version @ (3 | 4)) => (version, "io.containerd.cri.v1.runtime"),
            other => return Err(ConfigError::Unknown(other.unwrap_or_default())),
        };
        let disabled = strings(document.get("disabled_plugins"));
        if disabled
            .iter()
            .any(|name| name == plugin || name == "io.containerd.grpc.v1.cri")
        {
            return Err(ConfigError::Disabled);
        }
        Ok(Self {
            text,
            document,
            plugin,
            version,
        })
    }

    /// Its version: 2, 3 or 4.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Patterns of the files that are merged into it.
    #[must_use]
    pub fn imports(&self) -> Vec<String> {
        strings(self.document.get("imports"))
    }

    /// Whether it has nothing but its version.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.document.len() == 1
    }

    fn runtimes(&self) -> Option<&dyn TableLike> {
        runtimes(&self.document, self.plugin)
    }

    /// The text with the handler at its end.
    ///
    /// # Errors
    /// [`ConfigError::Taken`], [`ConfigError::Inline`].
    pub fn with(&self, handler: &Handler) -> Result<String> {
        let runtimes = self.runtimes();
        if runtimes.is_some_and(|runtimes| runtimes.contains_key(&handler.name)) {
            return Err(ConfigError::Taken(handler.name.clone()));
        }
        let newline = if self.text.is_empty() || self.text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        let mut text = format!("{}{newline}{}", self.text, section(self.plugin, handler));
        // containerd 1.x forgets its own runtime once another is named, and its CRI then does not start.
        if self.version == 2 && runtimes.is_none_or(TableLike::is_empty) {
            text += &built_in_section(self.plugin);
        }
        match parse(&text) {
            Ok(_) => Ok(text),
            Err(_) => Err(ConfigError::Inline),
        }
    }
}

/// A new file of this version that has nothing but the handler.
///
/// # Errors
/// The version is none that has handlers.
pub fn alone(version: i64, handler: &Handler) -> Result<String> {
    let header = format!("version = {version}\n");
    Config::parse(&header)?.with(handler)
}

/// A drop-in file of this version: nothing but the handler, since what it is merged into names the default.
///
/// # Errors
/// The version is none that has handlers.
pub fn drop_in(version: i64, handler: &Handler) -> Result<String> {
    let header = format!("version = {version}\n");
    let plugin = Config::parse(&header)?.plugin;
    Ok(header + &section(plugin, handler))
}

/// The text without the handlers whose shim is this one; `None` when it has none. What was added beside them goes with them
/// as long as nobody needs it.
///
/// # Errors
/// The text cannot be parsed, or is of a version without handlers.
pub fn without(text: &str, shim: &Path) -> Result<Option<String>> {
    let config = Config::parse(text)?;
    let plugin = config.plugin;
    let names = handlers_of(&config, shim);
    if names.is_empty() {
        return Ok(None);
    }
    let mut text = text.to_owned();
    for name in names {
        let handler = Handler {
            name,
            shim: shim.to_owned(),
        };
        // As it was written: nothing else of the text is touched. Else table by table, which keeps formats and comments, too.
        let cut = text.replacen(&section(plugin, &handler), "", 1);
        if cut != text && parse(&cut).is_ok_and(|document| !has(&document, plugin, &handler.name)) {
            text = cut;
            continue;
        }
        let mut document = parse(&text)?;
        if let Some(runtimes) = runtimes_mut(&mut document, plugin) {
            runtimes.remove(&handler.name);
        }
        text = document.to_string();
    }
    let added = built_in_section(plugin);
    let only_built_in = runtimes(&parse(&text)?, plugin).is_some_and(|runtimes| runtimes.len() == 1);
    if only_built_in && text.contains(&added) {
        text = text.replacen(&added, "", 1);
    }
    Ok(Some(text))
}

/// Names of the handlers whose shim is this one.
#[must_use]
pub fn handlers_of(config: &Config<'_>, shim: &Path) -> Vec<String> {
    let is_ours = |item: &Item| {
        let kind = item.as_table_like().and_then(|table| table.get("runtime_type"));
        kind.and_then(Item::as_str)
            .is_some_and(|kind| Path::new(kind) == shim)
    };
    let runtimes = config.runtimes().into_iter().flat_map(TableLike::iter);
    runtimes
        .filter(|(_, item)| is_ours(item))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// What containerd made of its configuration (`containerd config dump`), whatever version it writes it in.
#[derive(Debug)]
pub struct Dump {
    document: DocumentMut,
}

impl Dump {
    /// Reads it.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`].
    pub fn parse(text: &str) -> Result<Self> {
        let document = parse(text)?;
        Ok(Self { document })
    }

    /// Whether containerd has the handler, with its shim, and its default runtime beside it; else what is wrong.
    ///
    /// # Errors
    /// One clause for people.
    pub fn check(&self, handler: &Handler) -> std::result::Result<(), String> {
        let plugins = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"];
        let Some(plugin) = plugins
            .iter()
            .find(|plugin| runtimes(&self.document, plugin).is_some())
        else {
            return Err("it has no runtimes: is its CRI plugin there?".to_owned());
        };
        let runtimes = runtimes(&self.document, plugin).expect("found by it");
        let kind = runtimes.get(&handler.name).and_then(Item::as_table_like);
        let kind = kind.and_then(|table| table.get("runtime_type")?.as_str());
        match kind {
            Some(kind) if Path::new(kind) == handler.shim => {}
            Some(kind) => return Err(format!("its handler `{}` is of `{kind}`", handler.name)),
            None => {
                return Err(format!(
                    "it does not see the handler `{}`: another version of the file, or an imported file that has the same section",
                    handler.name
                ));
            }
        }
        let default =
            section_of(&self.document, plugin).and_then(|table| table.get("default_runtime_name")?.as_str());
        match default {
            Some(default) if !default.is_empty() && !runtimes.contains_key(default) => {
                Err(format!("it would have no default runtime `{default}`"))
            }
            _ => Ok(()),
        }
    }

    /// Where containerd serves.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        let table = self.document.get("grpc").or_else(|| {
            // Version 4 has servers as plugins.
            self.document.get("plugins")?.get("io.containerd.server.v1.grpc")
        });
        let address = table.and_then(|table| table.get("address")?.as_str());
        PathBuf::from(address.unwrap_or("/run/containerd/containerd.sock"))
    }
}

fn parse(text: &str) -> Result<DocumentMut> {
    text.parse::<DocumentMut>().map_err(|error| {
        // Its own message has several lines.
        let at = error.span().map_or(0, |span| {
            text[..span.start.min(text.len())].lines().count().max(1)
        });
        ConfigError::Syntax(format!("line {at}: {}", error.message().replace('\n', "; ")))
    })
}

fn strings(item: Option<&Item>) -> Vec<String> {
    let values = item.and_then(Item::as_array).into_iter().flatten();
    values.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn section_of<'a>(document: &'a DocumentMut, plugin: &str) -> Option<&'a dyn TableLike> {
    let plugin = document.get("plugins")?.as_table_like()?.get(plugin)?;
    plugin.as_table_like()?.get("containerd")?.as_table_like()
}

fn runtimes<'a>(document: &'a DocumentMut, plugin: &str) -> Option<&'a dyn TableLike> {
    section_of(document, plugin)?.get("runtimes")?.as_table_like()
}

fn runtimes_mut<'a>(document: &'a mut DocumentMut, plugin: &str) -> Option<&'a mut dyn TableLike> {
    let plugins = document.get_mut("plugins")?.as_table_like_mut()?;
    let plugin = plugins.get_mut(plugin)?.as_table_like_mut()?;
    let containerd = plugin.get_mut("containerd")?.as_table_like_mut()?;
    containerd.get_mut("runtimes")?.as_table_like_mut()
}

fn has(document: &DocumentMut, plugin: &str, name: &str) -> bool {
    runtimes(document, plugin).is_some_and(|runtimes| runtimes.contains_key(name))
}

fn section(plugin: &str, handler: &Handler) -> String {
    let shim = Value::from(handler.shim.to_string_lossy().as_ref());
    format!(
        "\n{COMMENT}\n[plugins.\"{plugin}\".containerd.runtimes.{}]\n  runtime_type ={shim}\n  \
         pod_annotations = [\"cwasi.dev/*\"]\n  container_annotations = [\"cwasi.dev/*\"]\n",
        handler.name,
        shim = format_args!(" {}", shim.to_string().trim()),
    )
}

fn built_in_section(plugin: &str) -> String {
    format!(
        "\n# Added by cwasi-installer: containerd 1.x forgets its own runtime once another is named.\n\
         [plugins.\"{plugin}\".containerd.runtimes.{BUILT_IN}]\n  runtime_type = \"io.containerd.runc.v2\"\n"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAIN: &str = "# ours\nversion = 2   # two\n\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
                        runtime_type='io.containerd.runc.v2'";

    fn handler() -> Handler {
        Handler {
            name: "cwasi".into(),
            shim: "/opt/cwasi/bin/shim".into(),
        }
    }

    fn with(text: &str) -> Result<String> {
        Config::parse(text)?.with(&handler())
    }

    #[test]
    fn the_handler_comes_at_the_end_and_goes_without_a_trace() {
        let text = format!("{MAIN}\n");
        let added = with(&text).unwrap();
        assert!(added.starts_with(&text), "{added}");
        assert!(
            added.ends_with(
                "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.cwasi]\n  runtime_type = \"/opt/cwasi/bin/shim\"\n  \
                 pod_annotations = [\"cwasi.dev/*\"]\n  container_annotations = [\"cwasi.dev/*\"]\n"
            ),
            "{added}"
        );
        Dump::parse(&added).unwrap().check(&handler()).unwrap();
        assert_eq!(without(&added, &handler().shim).unwrap(), Some(text.clone()));
        assert_eq!(without(&text, &handler().shim).unwrap(), None);
    }

    #[test]
    fn each_version_has_its_section() {
        for (version, plugin) in [
            (2, "io.containerd.grpc.v1.cri"),
            (3, "io.containerd.cri.v1.runtime"),
            (4, "io.containerd.cri.v1.runtime"),
        ] {
            let text = alone(version, &handler()).unwrap();
            assert!(
                text.contains(&format!("[plugins.\"{plugin}\".containerd.runtimes.cwasi]")),
                "{text}"
            );
            // Only containerd 1.x forgets the runtime that it has built in, and only it cannot merge a drop-in.
            assert_eq!(text.contains("runtimes.runc]"), version == 2, "{text}");
            assert!(!drop_in(version, &handler()).unwrap().contains("runc"));
            let bare = without(&text, &handler().shim).unwrap();
            assert_eq!(bare, Some(format!("version = {version}\n")));
        }
    }

    #[test]
    fn what_cannot_have_a_handler_is_refused() {
        for (text, error) in [
            ("", ConfigError::Old),
            ("disabled_plugins = [\"cri\"]\n", ConfigError::Old),
            ("version = 5", ConfigError::Unknown(5)),
            (
                "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]",
                ConfigError::Disabled,
            ),
            (
                "version = 3\ndisabled_plugins = [\"io.containerd.cri.v1.runtime\"]",
                ConfigError::Disabled,
            ),
            ("version = 2\nplugins = {}\n", ConfigError::Inline),
        ] {
            assert_eq!(with(text).unwrap_err(), error, "{text}");
        }
        let taken = MAIN.replace("runtimes.runc", "runtimes.cwasi");
        assert_eq!(with(&taken).unwrap_err(), ConfigError::Taken("cwasi".into()));
        let error = with("version = 2\n[plugins\n").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("not TOML: line 2: ") && !text.contains('\n'),
            "{text}"
        );
    }

    #[test]
    fn what_was_edited_since_stays() {
        let added = with(MAIN).unwrap();
        // Inside of the handler: the table goes, and what is around it stays.
        let edited = added.replace(
            "pod_annotations",
            "privileged_without_host_devices = true\n  pod_annotations",
        );
        let edited = format!("{edited}\n# theirs\n[metrics]\naddress = 'x' # y\n");
        let left = without(&edited, &handler().shim).unwrap().unwrap();
        assert!(
            left.starts_with(MAIN) && left.contains("# theirs\n[metrics]\naddress = 'x' # y\n"),
            "{left}"
        );
        assert!(!left.contains("cwasi"), "{left}");
        // Beside it: exactly what was added goes.
        let edited = format!("{added}# theirs\n");
        assert_eq!(
            without(&edited, &handler().shim).unwrap().unwrap(),
            format!("{MAIN}\n# theirs\n")
        );
    }

    #[test]
    fn the_built_in_runtime_stays_while_it_is_needed() {
        let added = alone(2, &handler()).unwrap();
        let other =
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\nruntime_type = \"kata\"\n";
        let left = without(&format!("{added}{other}"), &handler().shim)
            .unwrap()
            .unwrap();
        assert!(
            left.contains("runtimes.runc]") && left.contains("runtimes.kata]"),
            "{left}"
        );
    }

    #[test]
    fn a_dump_tells_what_is_wrong() {
        let check = |text: &str| Dump::parse(text).unwrap().check(&handler()).unwrap_err();
        assert!(check("version = 3").contains("no runtimes"));
        let plugin = "plugins.\"io.containerd.cri.v1.runtime\".containerd";
        assert!(check(&format!("[{plugin}.runtimes.runc]")).contains("does not see"));
        let other = format!("[{plugin}.runtimes.cwasi]\nruntime_type = 'x'");
        assert!(check(&other).contains("is of `x`"));
        let no_default = format!(
            "[{plugin}]\ndefault_runtime_name = 'runc'\n[{plugin}.runtimes.cwasi]\nruntime_type = '/opt/cwasi/bin/shim'"
        );
        assert!(check(&no_default).contains("no default runtime `runc`"));
    }

    #[test]
    fn the_socket_is_where_the_version_has_it() {
        let socket = |text: &str| Dump::parse(text).unwrap().socket();
        assert_eq!(socket("[grpc]\naddress = '/a'"), Path::new("/a"));
        assert_eq!(
            socket("[plugins.'io.containerd.server.v1.grpc']\naddress = '/b'"),
            Path::new("/b")
        );
        assert_eq!(socket(""), Path::new("/run/containerd/containerd.sock"));
    }

    proptest! {
        #[test]
        fn the_text_around_the_handler_is_kept(
            before in "(# [ -~]{0,20}\r?\n){0,3}",
            runc in any::<bool>(),
            version in 2_i64..=4,
            tail in prop::sample::select(vec!["", "\n", "\n\n", " # end"]),
            after in prop::sample::select(vec!["", "# end\n", "\n[metrics]\r\naddress = ''\r\n"]),
        ) {
            let plugin = if version == 2 { "io.containerd.grpc.v1.cri" } else { "io.containerd.cri.v1.runtime" };
            let section = format!("\n[plugins.'{plugin}'.containerd.runtimes.runc]\nruntime_type = 'r'");
            let text = format!("{before}version = {version}{}{tail}", if runc { &section } else { "" });
            let added = with(&text).unwrap();
            prop_assert!(added.starts_with(&text));
            let newline = if text.ends_with('\n') { "" } else { "\n" };
            let left = without(&format!("{added}{after}"), &handler().shim).unwrap();
            prop_assert_eq!(left, Some(format!("{text}{newline}{after}")));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[ -~\r\n]{0,200}") {
            let _ = with(&text);
            let _ = without(&text, Path::new("/x"));
        }
    }
}
