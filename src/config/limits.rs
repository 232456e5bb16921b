//! How much a relay takes on: bytes per second, bytes per month, and how long its end may take.

use std::time::Duration;

use router::driver::Limits;

use super::section::Section;

/// The section `[limits]` of a relay's file.
const KEYS: &[&str] = &["rate", "monthly", "reset_day", "drain"];
/// How long circuits in use are waited for unless something else is said, and at most, in seconds.
const DRAIN: usize = 30;
const MAX_DRAIN: usize = 3_600;
/// The least rate: below it a relay is of no use.
pub(crate) const MIN_RATE: u64 = 50_000;

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

pub(super) fn read(root: &mut Section<'_>) -> anyhow::Result<Limits> {
    let drain = |seconds: usize| Duration::from_secs(seconds as u64);
    let Some(section) = root.section("limits", KEYS)? else {
        return Ok(Limits { drain: drain(DRAIN), ..Limits::default() });
    };
    let rate = section.get_checked("rate", "\"10 MB/s\"", |value| {
        let rate = value
            .as_str()
            .and_then(parse_rate)
            .ok_or("a rate is wanted, such as \"10 MB/s\" or \"80 Mbit/s\"")?;
        if rate < MIN_RATE { Err("with less than 50 kB/s nothing works".to_owned()) } else { Ok(rate) }
    })?;
    let monthly =
        section.get("monthly", "\"2 TB\"", |value| parse_size(value.as_str()?).filter(|size| *size > 0))?;
    let day = section.number("reset_day", "1", 1..29)?.and_then(|day| u8::try_from(day).ok()).unwrap_or(1);
    Ok(Limits {
        rate,
        monthly: monthly.map(|cap| (cap, day)),
        drain: drain(section.number("drain", "30", 0..MAX_DRAIN + 1)?.unwrap_or(DRAIN)),
    })
}

/// Bytes, such as `2 TB`, `1.5 GB` or `500 GiB`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ')?;
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
    scaled(number, *unit)
}

/// Bytes per second, such as `10 MB/s` or `80 Mbit/s`.
pub(crate) fn parse_rate(text: &str) -> Option<u64> {
    let text = text.strip_suffix("/s")?;
    let Some(number) = text.strip_suffix("bit") else { return parse_size(text) };
    let (number, unit) = number.split_once(' ')?;
    let unit = match unit {
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return None,
    };
    scaled(number, unit / 8)
}

/// A number with at most three digits after the point, times a unit.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').map_or((number, None), |(whole, part)| (whole, Some(part)));
    let fits = part.is_none_or(|part| (1..=3).contains(&part.len()));
    let part = part.unwrap_or_default();
    let digits = whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !fits || !digits {
        return None;
    }
    let thousandths: u64 = format!("{whole}{part:0<3}").parse().ok()?;
    u64::try_from(u128::from(thousandths) * u128::from(unit) / 1_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_have_units() {
        for (text, size) in [
            ("0 B", 0),
            ("2 TB", 2_000_000_000_000),
            ("1.5 GB", 1_500_000_000),
            ("3 GiB", 3 << 30),
            ("0.001 kB", 1),
        ] {
            assert_eq!(parse_size(text), Some(size), "{text}");
            assert_eq!(parse_rate(&format!("{text}/s")), Some(size), "{text}");
        }
        assert_eq!(parse_rate("80 Mbit/s"), Some(10_000_000));
        assert_eq!(parse_rate("2.5 Gbit/s"), Some(312_500_000));
        for text in [
            "",
            "5",
            "5B",
            "5 ",
            "-5 B",
            "5 mb",
            ".5 GB",
            "5. GB",
            "1.2345 GB",
            "5 Mbit",
            "99999999999999999999 B",
            "99999999999 TiB",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        for text in ["5 MB", "5 bit/s", "5 Mb/s", "5/s"] {
            assert_eq!(parse_rate(text), None, "{text}");
        }
    }
}
