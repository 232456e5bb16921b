//! What the commands print: text for people or one JSON document per line, the same facts in both.

use core::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::failure::Kind;

/// The version of the JSON documents: keys are only ever added while it stays the same.
const SCHEMA_VERSION: u32 = 1;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: JSON documents, one per line, errors included, all on standard output.
    Json,
}

/// A JSON document: the version of its schema, then what it says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Document<T> {
    schema_version: u32,
    /// What it says.
    #[serde(flatten)]
    pub(crate) body: T,
}

impl<T> Document<T> {
    /// A document of the present version.
    pub(crate) const fn new(body: T) -> Self {
        Self { schema_version: SCHEMA_VERSION, body }
    }
}

/// An error as a document.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody<K = Kind> {
    /// The error.
    pub(crate) error: ErrorText<K>,
}

/// What an error document says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorText<K> {
    /// Its kind, as the exit code has it.
    pub(crate) kind: K,
    /// What went wrong and what to do.
    pub(crate) message: String,
}

impl ErrorBody {
    /// The document of an error.
    pub(crate) fn new(kind: Kind, message: String) -> Document<Self> {
        Document::new(Self { error: ErrorText { kind, message } })
    }
}

impl Format {
    /// Prints a result, `text` for people and `body` for programs; fails with [`NobodyReads`] when standard output is
    /// closed.
    pub(crate) fn print<T: Serialize>(self, body: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = match self {
            Self::Text => text(),
            Self::Json => serde_json::to_string(&Document::new(body))?,
        };
        match line(&text) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(NobodyReads.into()),
            printed => printed.context("cannot write to standard output"),
        }
    }

    /// Prints an error: for people on standard error, for programs on standard output as any other document.
    pub(crate) fn print_error(self, kind: Kind, message: String) {
        match self {
            Self::Text => {
                let _ = writeln!(io::stderr(), "error: {message}");
            }
            Self::Json => {
                let _ = line(&serde_json::to_string(&ErrorBody::new(kind, message)).unwrap_or_default());
            }
        }
    }
}

/// Whether people look at standard output.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Standard output is closed: who read it has seen enough, which is no failure, and nothing more need be done for it.
#[derive(Debug)]
pub(crate) struct NobodyReads;

impl fmt::Display for NobodyReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads standard output")
    }
}

impl core::error::Error for NobodyReads {}

/// Prints a line at once.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// Replaces the last line of a terminal, without ending it.
pub(crate) fn replace_line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = write!(out, "\r\x1b[K{text}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_names_its_version() {
        let text = serde_json::to_string(&ErrorBody::new(Kind::NotRunning, "x".to_owned())).unwrap();
        assert_eq!(text, r#"{"schema_version":1,"error":{"kind":"not_running","message":"x"}}"#);
    }
}
