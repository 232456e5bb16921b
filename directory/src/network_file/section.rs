//! A table of a TOML file whose errors say where they are and what to do.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong in a file: where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}:{line}: {key}: {problem}; {fix}")]
pub struct FileError {
    /// The file, as the caller named it.
    pub path: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The key, such as `relay[2].descriptor`; `file` if the file as a whole is meant.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// A file's text and its name.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// An error at the byte where `span` starts.
    pub(super) fn error(
        &self,
        span: Range<usize>,
        key: &str,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> FileError {
        let line = 1 + self.text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
        FileError {
            path: self.path.to_owned(),
            line,
            key: key.to_owned(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

/// One table, and the prefix of its keys in errors.
pub(super) struct Section<'a> {
    pub(super) source: Source<'a>,
    pub(super) table: &'a DeTable<'a>,
    pub(super) span: Range<usize>,
    pub(super) prefix: String,
}

impl<'a> Section<'a> {
    /// An error at the value of `key`, or at the table if it has none.
    pub(super) fn error(&self, key: &str, problem: impl Into<String>, fix: impl Into<String>) -> FileError {
        let span = self.get(key).map_or_else(|| self.span.clone(), Spanned::span);
        self.source.error(span, &format!("{}{key}", self.prefix), problem, fix)
    }

    /// Refuses keys that are not known, naming the nearest one.
    pub(super) fn only(&self, known: &[&'static str]) -> Result<(), FileError> {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let fix = match known.iter().min_by_key(|candidate| distance(name, candidate)) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => "delete it".to_owned(),
            };
            let key_name = format!("{}{}", self.prefix, name.escape_debug());
            return Err(self.source.error(key.span(), &key_name, "this key is not known", fix));
        }
        Ok(())
    }

    /// The value of a key that must be there.
    pub(super) fn value(&self, key: &str) -> Result<&'a Spanned<DeValue<'a>>, FileError> {
        self.get(key).ok_or_else(|| self.error(key, "this key is missing", "get the complete file again"))
    }

    /// The text of a key.
    pub(super) fn text(&self, key: &str) -> Result<&'a str, FileError> {
        let value = self.value(key)?.get_ref();
        value.as_str().ok_or_else(|| self.wrong_type(key, value, "text in quotes"))
    }

    /// The whole number of a key.
    pub(super) fn number(&self, key: &str) -> Result<u64, FileError> {
        let value = self.value(key)?.get_ref();
        value
            .as_integer()
            .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok())
            .ok_or_else(|| self.wrong_type(key, value, "a whole number, not negative"))
    }

    /// The truth of a key.
    pub(super) fn flag(&self, key: &str) -> Result<bool, FileError> {
        let value = self.value(key)?.get_ref();
        value.as_bool().ok_or_else(|| self.wrong_type(key, value, "true or false"))
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The texts of a key that is a list of them.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, FileError> {
        let value = self.value(key)?.get_ref();
        value
            .as_array()
            .and_then(|list| list.iter().map(|text| text.get_ref().as_str().map(str::to_owned)).collect())
            .ok_or_else(|| self.wrong_type(key, value, "a list of texts in quotes"))
    }

    /// The table of a key, if it is there.
    pub(super) fn section(&self, key: &str) -> Result<Option<Self>, FileError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let table =
            value.get_ref().as_table().ok_or_else(|| self.wrong_type(key, value.get_ref(), "a table"))?;
        let prefix = format!("{}{key}.", self.prefix);
        Ok(Some(Self { source: self.source, table, span: value.span(), prefix }))
    }

    /// The bytes of a key whose text is lower-case hexadecimal.
    pub(super) fn hex<const N: usize>(&self, key: &str) -> Result<[u8; N], FileError> {
        let bytes = data_encoding::HEXLOWER.decode(self.text(key)?.as_bytes()).ok();
        bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
            let problem = format!("this must be {} digits 0-9 a-f", 2 * N);
            self.error(key, problem, "get the complete file again")
        })
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    fn wrong_type(&self, key: &str, value: &DeValue<'_>, wanted: &str) -> FileError {
        self.error(key, format!("this must be {wanted}, not {}", value.type_str()), "write it so")
    }
}

/// How many characters must be changed, added or taken away to get from one word to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for ((diagonal, up), to) in row.iter().zip(row.iter().skip(1)).zip(b.chars()) {
            left = (diagonal + usize::from(from != to)).min(up + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (a, b, expected) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("singer", "signer", 2)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
