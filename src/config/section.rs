//! One table of a configuration file: typed values, and errors that name file, line, key and remedy.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use toml::de::{DeTable, DeValue};

/// A configuration file as it was read.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| {
                let name = path.display();
                anyhow!(
                    "cannot read the configuration file {name}: {error}; name the right one with --config; a relay's is made by \
                     chive relay setup, a client's by chive network open, and chive config example client shows one"
                )
            })?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// The values of the whole file; other keys than `keys` are refused.
    pub(crate) fn root(&self, keys: &'static [&'static str]) -> anyhow::Result<Section<'_>> {
        let table = DeTable::parse(&self.text).map_err(|error| {
            self.error(error.span().unwrap_or(0..0), &format!("this is no TOML: {}", error.message()))
        })?;
        Section::open(self, "", table.into_inner(), keys)
    }

    /// Whether the file has this key at its top, be the rest right or wrong.
    pub(crate) fn has(&self, key: &str) -> bool {
        DeTable::parse(&self.text).is_ok_and(|table| table.get_ref().contains_key(key))
    }

    /// A path of the file, which is relative to the file's folder.
    pub(crate) fn resolve(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or_else(|| Path::new("")).join(path)
    }

    fn error(&self, span: Range<usize>, problem: &str) -> anyhow::Error {
        let before = self.text.get(..span.start).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        anyhow!("{} line {line}: {problem}", self.path.display())
    }
}

/// One table of a [`Source`].
#[derive(Debug)]
pub(crate) struct Section<'a> {
    source: &'a Source,
    name: &'static str,
    table: DeTable<'a>,
}

impl<'a> Section<'a> {
    fn open(
        source: &'a Source,
        name: &'static str,
        table: DeTable<'a>,
        keys: &'static [&'static str],
    ) -> anyhow::Result<Self> {
        for key in table.keys() {
            if !keys.contains(&key.get_ref().as_ref()) {
                let advice = nearest(key.get_ref(), keys).map_or_else(
                    || format!("the keys here are {}", keys.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                let place = if name.is_empty() { String::new() } else { format!(" in [{name}]") };
                let problem = format!("unknown key `{}`{place}; {advice}", key.get_ref());
                return Err(source.error(key.span(), &problem));
            }
        }
        Ok(Self { source, name, table })
    }

    /// The value of a key, read by `read`, if the key is there; `example` is a right value as it is written.
    pub(crate) fn get<T>(
        &self,
        key: &str,
        example: &str,
        read: impl FnOnce(&DeValue<'_>) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        self.get_checked(key, example, |value| read(value).ok_or_else(String::new))
    }

    /// As [`Section::get`], but `read` says what is wrong.
    pub(crate) fn get_checked<T>(
        &self,
        key: &str,
        example: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> anyhow::Result<Option<T>> {
        let Some(value) = self.table.get(key) else {
            return Ok(None);
        };
        let problem = match read(value.get_ref()) {
            Ok(value) => return Ok(Some(value)),
            Err(problem) => problem,
        };
        let found = self.source.text.get(value.span()).unwrap_or("?");
        let reason = if problem.is_empty() { String::new() } else { format!(" ({problem})") };
        let problem = format!("`{key}` cannot be {found}{reason}; write for example: {key} = {example}");
        Err(self.source.error(value.span(), &problem))
    }

    /// What must be there and is not.
    pub(crate) fn require<T>(&self, key: &str, example: &str, value: Option<T>) -> anyhow::Result<T> {
        let Some(value) = value else {
            let place = if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) };
            let file = self.source.path.display();
            bail!("{file}: the setting `{key}` is missing{place}; write for example: {key} = {example}");
        };
        Ok(value)
    }

    /// A value that is written as a string and parsed.
    pub(crate) fn parsed<T: core::str::FromStr>(
        &self,
        key: &str,
        example: &str,
    ) -> anyhow::Result<Option<T>> {
        self.get(key, example, |value| value.as_str()?.parse().ok())
    }

    /// A path, relative to the file.
    pub(crate) fn path(&self, key: &str, example: &str) -> anyhow::Result<Option<PathBuf>> {
        self.get(key, example, |value| value.as_str().map(|path| self.source.resolve(path)))
    }

    /// Whether something is wanted; by default not.
    pub(crate) fn flag(&self, key: &str) -> anyhow::Result<bool> {
        Ok(self.get_checked(key, "true", |value| value.as_bool().ok_or_else(String::new))?.unwrap_or(false))
    }

    /// A number within limits.
    pub(crate) fn number(
        &self,
        key: &str,
        example: &str,
        limits: Range<usize>,
    ) -> anyhow::Result<Option<usize>> {
        self.get_checked(key, example, |value| {
            let number = value.as_integer().filter(|number| number.radix() == 10);
            number
                .and_then(|number| number.as_str().parse().ok())
                .filter(|number| limits.contains(number))
                .ok_or_else(|| format!("a number from {} to {} is wanted", limits.start, limits.end - 1))
        })
    }

    /// A list of strings, read by `read`.
    pub(crate) fn list<T, E: ToString>(
        &self,
        key: &str,
        example: &str,
        read: impl FnOnce(&[String]) -> Result<T, E>,
    ) -> anyhow::Result<Option<T>> {
        self.get_checked(key, example, |value| {
            let strings = value.as_array().and_then(|array| {
                array
                    .iter()
                    .map(|item| item.get_ref().as_str().map(str::to_owned))
                    .collect::<Option<Vec<_>>>()
            });
            let strings = strings.ok_or("a list of strings is wanted")?;
            read(&strings).map_err(|error| error.to_string())
        })
    }

    /// A table within, if it is there; other keys than `keys` are refused.
    pub(crate) fn section(
        &mut self,
        name: &'static str,
        keys: &'static [&'static str],
    ) -> anyhow::Result<Option<Self>> {
        let Some(value) = self.table.remove(name) else {
            return Ok(None);
        };
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Self::open(self.source, name, table, keys).map(Some),
            _ => Err(self.source.error(span, &format!("`{name}` is a section; write it as [{name}]"))),
        }
    }
}

/// The key that was probably meant.
fn nearest<'k>(key: &str, keys: &[&'k str]) -> Option<&'k str> {
    let (distance, near) = keys.iter().map(|known| (edits(key, known), *known)).min()?;
    (distance <= 2.max(key.len() / 3)).then_some(near)
}

/// The number of letters to change, add or take away (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, above) in b.bytes().zip(row.iter_mut().skip(1)) {
            let here = (diagonal + usize::from(x != y)).min(left + 1).min(*above + 1);
            diagonal = core::mem::replace(above, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[&str] = &["listen", "network", "keys", "hops"];

    fn source(text: &str) -> Source {
        Source { path: PathBuf::from("folder/relay.toml"), text: text.to_owned() }
    }

    fn message<T>(result: anyhow::Result<T>) -> String {
        result.err().unwrap().to_string()
    }

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (a, b, n) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("lisen", "listen", 1)]
        {
            assert_eq!(edits(a, b), n, "{a} {b}");
        }
        assert_eq!(nearest("adress", &["address", "x"]), Some("address"));
        assert_eq!(nearest("bandwidth", KEYS), None);
    }

    #[test]
    fn unknown_keys_name_line_and_nearest_key() {
        assert_eq!(
            message(source("\nlisen = 1\n").root(KEYS)),
            "folder/relay.toml line 2: unknown key `lisen`; did you mean `listen`?"
        );
        assert_eq!(
            message(source("bandwidth = 1").root(KEYS)),
            "folder/relay.toml line 1: unknown key `bandwidth`; the keys here are listen, network, keys, hops"
        );
        let source = source("[keys]\n\nidentiy = \"x\"");
        let section = source.root(KEYS).unwrap().section("keys", &["identity"]);
        assert_eq!(
            message(section),
            "folder/relay.toml line 3: unknown key `identiy` in [keys]; did you mean `identity`?"
        );
    }

    #[test]
    fn wrong_values_show_what_was_found_and_what_to_write() {
        let source = source("hops = 9\nlisten = \"nowhere\"\nkeys = 3");
        let mut root = source.root(KEYS).unwrap();
        assert_eq!(
            message(root.number("hops", "3", 1..6)),
            "folder/relay.toml line 1: `hops` cannot be 9 (a number from 1 to 5 is wanted); write for example: hops = 3"
        );
        assert_eq!(
            message(root.parsed::<std::net::SocketAddr>("listen", "\"0.0.0.0:7000\"")),
            "folder/relay.toml line 2: `listen` cannot be \"nowhere\"; write for example: listen = \"0.0.0.0:7000\""
        );
        assert_eq!(
            message(root.section("keys", &[])),
            "folder/relay.toml line 3: `keys` is a section; write it as [keys]"
        );
        assert_eq!(
            message(root.require::<()>("network", "\"network.toml\"", None)),
            "folder/relay.toml: the setting `network` is missing; write for example: network = \"network.toml\""
        );
    }

    #[test]
    fn what_is_no_toml_names_its_line() {
        let text = message(source("listen = \"x\"\nnetwork =\n").root(KEYS));
        assert!(text.starts_with("folder/relay.toml line 2: this is no TOML: "), "{text}");
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let source = source("network = \"a/b\"");
        let path = source.root(KEYS).unwrap().path("network", "").unwrap();
        assert_eq!(path, Some(PathBuf::from("folder/a/b")));
    }
}
