//! Command lines: positional values first to last, and `--name VALUE` options.

use crate::{Error, Result};
use lexopt::{Arg, ValueExt};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::str::FromStr;

/// A parsed command line; values are taken out of it one by one.
#[derive(Debug)]
pub struct Args {
    positional: std::vec::IntoIter<OsString>,
    options: BTreeMap<String, OsString>,
    flags: BTreeSet<String>,
}

impl Args {
    /// Parses this process's arguments, with the names of the flags that take no value.
    /// Returns `None` after printing `usage` when `--help` is among them.
    ///
    /// # Errors
    /// [`Error::Usage`] for an option without its value or given twice.
    pub fn from_env(usage: &str, flags: &[&str]) -> Result<Option<Self>> {
        let parsed = Self::parse(lexopt::Parser::from_env(), flags)?;
        if parsed.is_none() {
            println!("{usage}");
        }
        Ok(parsed)
    }

    fn parse(mut parser: lexopt::Parser, known_flags: &[&str]) -> Result<Option<Self>> {
        let mut positional = Vec::new();
        let mut options = BTreeMap::new();
        let mut flags = BTreeSet::new();
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                Arg::Value(value) => positional.push(value),
                Arg::Long(name) if known_flags.contains(&name) => {
                    flags.insert(name.to_owned());
                }
                Arg::Long(name) => {
                    let name = name.to_owned();
                    if options.insert(name.clone(), parser.value()?).is_some() {
                        return Err(Error::Usage(format!("--{name} is given twice")));
                    }
                }
                Arg::Short(_) => return Err(argument.unexpected().into()),
            }
        }
        Ok(Some(Self {
            positional: positional.into_iter(),
            options,
            flags,
        }))
    }

    /// The next positional value; `what` names it in the error.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is none or it does not parse.
    pub fn positional<T: FromStr>(&mut self, what: &str) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let value = self
            .positional
            .next()
            .ok_or_else(|| Error::Usage(format!("{what} is missing")))?;
        Ok(value.parse()?)
    }

    /// All positional values that are left; `what` names them in the error.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is none or one does not parse.
    pub fn rest<T: FromStr>(&mut self, what: &str) -> Result<Vec<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let mut values = vec![self.positional(what)?];
        for value in self.positional.by_ref() {
            values.push(value.parse()?);
        }
        Ok(values)
    }

    /// The value of `--name`, when it is given.
    ///
    /// # Errors
    /// [`Error::Usage`] when it does not parse.
    pub fn optional<T: FromStr>(&mut self, name: &str) -> Result<Option<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let value = self.options.remove(name).map(|value| value.parse());
        value
            .transpose()
            .map_err(|error| Error::Usage(format!("--{name}: {error}")))
    }

    /// The value of `--name`, which must be given.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is missing or does not parse.
    pub fn required<T: FromStr>(&mut self, name: &str) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.optional(name)?
            .ok_or_else(|| Error::Usage(format!("--{name} is missing")))
    }

    /// Whether `--name` is given.
    pub fn flag(&mut self, name: &str) -> bool {
        self.flags.remove(name)
    }

    /// Refuses whatever was not taken.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the first such argument.
    pub fn finish(mut self) -> Result<()> {
        let name = self
            .options
            .into_keys()
            .chain(self.flags)
            .next()
            .map(|name| format!("--{name}"));
        match name.or_else(|| Some(self.positional.next()?.to_string_lossy().into_owned())) {
            Some(name) => Err(Error::Usage(format!("unknown argument {name}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Option<Args>> {
        Args::parse(lexopt::Parser::from_args(arguments), &["nodelay"])
    }

    #[test]
    fn positional_options_and_flags_mix() {
        let mut args = parse(&["1.2.3.4:5", "--size", "64", "--nodelay", "--count=7"])
            .unwrap()
            .unwrap();
        assert_eq!(args.positional::<String>("ADDR").unwrap(), "1.2.3.4:5");
        assert_eq!(args.required::<usize>("size").unwrap(), 64);
        assert_eq!(args.optional::<u64>("count").unwrap(), Some(7));
        assert_eq!(args.optional::<u64>("warmup").unwrap(), None);
        assert!(args.flag("nodelay"));
        args.finish().unwrap();
    }

    #[test]
    fn the_rest_is_one_or_more() {
        let mut args = parse(&["a", "--size", "64", "b", "c"]).unwrap().unwrap();
        assert_eq!(args.positional::<String>("A").unwrap(), "a");
        assert_eq!(args.rest::<String>("ADDR:PORT").unwrap(), ["b", "c"]);
        let none = args.rest::<String>("ADDR:PORT").unwrap_err();
        assert!(none.to_string().starts_with("ADDR:PORT is missing"), "{none}");
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse(&["--help"]).unwrap().is_none());
        assert!(
            parse(&["--size", "1", "--size", "2"])
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
        let mut args = parse(&["--size", "x", "--cuont", "3"]).unwrap().unwrap();
        assert!(
            args.required::<usize>("size")
                .unwrap_err()
                .to_string()
                .contains("--size")
        );
        assert!(
            args.required::<usize>("count")
                .unwrap_err()
                .to_string()
                .contains("--count is missing")
        );
        assert!(args.finish().unwrap_err().to_string().contains("--cuont"));
    }
}
