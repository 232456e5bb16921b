//! What went wrong, and the exit code that says so.

use core::fmt;

use serde::Serialize;

/// The kind of a failure, by which scripts tell one from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Anything else; exit code 1.
    Failure,
    /// The command line is wrong; exit code 2.
    Usage,
    /// The daemon that was asked is not running; exit code 3.
    NotRunning,
    /// The daemon did not answer in time; exit code 4.
    TimedOut,
    /// The network has no path of the wanted form; exit code 5.
    NoRoute,
    /// An account has too little for what is to be done; exit code 6.
    NoFunds,
}

impl Kind {
    /// The exit code of the process.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NotRunning => 3,
            Self::TimedOut => 4,
            Self::NoRoute => 5,
            Self::NoFunds => 6,
        }
    }

    /// The kind of an error: its own if a [`Failure`] is in its chain.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        error.downcast_ref::<Failure>().map_or(Self::Failure, |failure| failure.kind)
    }
}

/// The text of an error and of its causes, each said once: some errors name their cause themselves.
pub(crate) fn text_of(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// An error of a certain kind; the text says what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    text: String,
}

impl Failure {
    /// An error of this kind with this text.
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl core::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn the_kind_survives_context() {
        let result: anyhow::Result<()> = Err(Failure::new(Kind::NoRoute, "no path").into());
        let error = result.context("cannot start").unwrap_err();
        assert_eq!(Kind::of(&error).exit_code(), 5);
        assert_eq!(Kind::of(&anyhow::anyhow!("x")).exit_code(), 1);
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = || std::io::Error::other("the disk is wet");
        let named = anyhow::Error::from(cause()).context("cannot write: the disk is wet; dry it");
        assert_eq!(text_of(&named), "cannot write: the disk is wet; dry it");
        assert_eq!(
            text_of(&anyhow::Error::from(cause()).context("cannot write")),
            "cannot write: the disk is wet"
        );
    }
}
