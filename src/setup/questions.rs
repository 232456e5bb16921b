//! Questions to whoever sits at the terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::bail;

use crate::failure::{Failure, Kind};

/// Asks, or takes the default where nothing may be asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Questions {
    ask: bool,
}

impl Questions {
    /// Nothing is asked if `yes` was said.
    pub(super) fn new(yes: bool) -> anyhow::Result<Self> {
        if !yes && !std::io::stdin().is_terminal() {
            let text = "there is no terminal to ask; give everything by options and add --yes (chive relay setup --help)";
            return Err(Failure::new(Kind::Usage, text).into());
        }
        Ok(Self { ask: !yes })
    }

    /// What was given, else what is answered, else the default; `option` is named where there is none.
    pub(super) fn value<T>(
        self,
        given: Option<T>,
        question: &str,
        default: Option<&str>,
        option: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        if let Some(given) = given {
            return Ok(given);
        }
        if !self.ask {
            let missing = || Failure::new(Kind::Usage, format!("{option} is missing: {question}"));
            return read(default.ok_or_else(missing)?)
                .map_err(|problem| Failure::new(Kind::Usage, format!("{option}: {problem}")).into());
        }
        loop {
            let line = line(question, default)?;
            match read(&line) {
                Ok(value) => return Ok(value),
                Err(problem) => writeln!(std::io::stderr(), "  {problem}")?,
            }
        }
    }

    /// As [`Questions::value`], for what may be left out: then nothing is taken where nothing may be asked.
    pub(super) fn option<T>(
        self,
        given: Option<T>,
        question: &str,
        default: &str,
        read: impl Fn(&str) -> Result<Option<T>, String>,
    ) -> anyhow::Result<Option<T>> {
        if given.is_some() || !self.ask {
            return Ok(given);
        }
        self.value(None, question, Some(default), "", read)
    }
}

fn line(question: &str, default: Option<&str>) -> anyhow::Result<String> {
    let shown = default.filter(|text| !text.is_empty()).map(|text| format!(" [{text}]")).unwrap_or_default();
    // Standard output is for results.
    write!(std::io::stderr(), "{question}{shown}: ")?;
    let mut answer = String::new();
    if std::io::stdin().lock().read_line(&mut answer)? == 0 {
        bail!("nothing was written: the answers ended");
    }
    let answer = answer.trim();
    Ok(if answer.is_empty() { default.unwrap_or_default() } else { answer }.to_owned())
}
