//! The transactions of a bond that may be on their way, on disk before they are sent: after a crash none is sent twice.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use payments::chain::Place;

use super::Step;

/// The file, in the folder of the state.
const NAME: &str = "bond";
const TITLE: &str = "chive bond 1";

/// The last transaction of each step: its nonce, and what it offers.
pub(crate) type Flights = BTreeMap<Step, Place>;

/// What may have been sent; nothing where there is no file.
pub(crate) fn read(state: &Path) -> anyhow::Result<Flights> {
    let path = state.join(NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Flights::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let Some(flights) = parse(&text) else {
        bail!(
            "{} is damaged; remove it once no transaction of the wallet waits for a block (chive wallet show)",
            path.display()
        );
    };
    Ok(flights)
}

fn parse(text: &str) -> Option<Flights> {
    let rest = text.strip_prefix(TITLE)?.strip_prefix('\n')?;
    let lines = rest.strip_suffix('\n')?.split('\n');
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            let step = Step::ALL.into_iter().find(|step| step.name() == name)?;
            let nonce = words.next()?.parse().ok()?;
            let place =
                Place { nonce, max_fee: words.next()?.parse().ok()?, tip: words.next()?.parse().ok()? };
            words.next().is_none().then_some((step, place))
        })
        .collect()
}

/// Writes them; they are on disk when this returns.
pub(super) fn write(state: &Path, flights: &Flights) -> io::Result<()> {
    let mut text = format!("{TITLE}\n");
    for (step, Place { nonce, max_fee, tip }) in flights {
        let _ = writeln!(text, "{} {nonce} {max_fee} {tip}", step.name());
    }
    let path = state.join(NAME);
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(state)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_comes_back_and_a_damaged_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut flights = read(folder.path()).unwrap();
        assert!(flights.is_empty());
        for (step, nonce) in Step::ALL.into_iter().zip(7..) {
            flights.insert(step, Place { nonce, max_fee: u128::MAX, tip: 0 });
            write(folder.path(), &flights).unwrap();
            assert_eq!(read(folder.path()).unwrap(), flights);
        }
        let path = folder.path().join(NAME);
        let whole = fs::read_to_string(&path).unwrap();
        let changed = [whole.replace(" 7 ", " x "), whole.replace("sign", "sing"), format!("{whole}1\n")];
        for damaged in
            ["", "chive bond 1\n", whole.trim_end()].into_iter().chain(changed.iter().map(String::as_str))
        {
            fs::write(&path, damaged).unwrap();
            let said = read(folder.path()).unwrap_err().to_string();
            assert!(said.contains("is damaged; remove it once"), "{damaged:?}: {said}");
        }
    }
}
