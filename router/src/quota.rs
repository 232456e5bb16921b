//! What a relay may carry in a month, and what of it is used.

use core::fmt::Write as _;

const TITLE: &str = "chive traffic 1";
const DAY: u64 = 86_400;

/// The bytes of a month, which begins on a day of the operator's choice (UTC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    cap: u64,
    day: u8,
    /// When the present month began, in unix seconds.
    since: u64,
    used: u64,
}

impl Quota {
    /// Nothing is used yet; months begin on `day`, 1 to 28.
    pub fn new(cap: u64, day: u8, unix: u64) -> Self {
        let day = day.clamp(1, 28);
        Self { cap, day, since: month(unix, day), used: 0 }
    }

    /// Takes over what was written as used, unless it was in an earlier month; `false` if the text is not of [`Quota::to_text`].
    pub fn restore(&mut self, text: &str) -> bool {
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return false;
        }
        let mut number = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        let (Some(since), Some(used)) = (number("since"), number("used")) else { return false };
        // Another day of the month may have been chosen since: what it would have used is not known.
        if since >= self.since {
            self.used = used;
        }
        true
    }

    /// What is used, as it is kept.
    pub fn to_text(&self) -> String {
        let mut text = TITLE.to_owned();
        let _ = writeln!(text, "\nsince {}\nused {}", self.since, self.used);
        text
    }

    /// So many bytes more were carried.
    pub fn add(&mut self, unix: u64, bytes: u64) {
        let month = month(unix, self.day);
        // A clock that goes back begins no month.
        if month > self.since {
            (self.since, self.used) = (month, 0);
        }
        self.used = self.used.saturating_add(bytes);
    }

    /// Whether nothing is left.
    pub const fn is_spent(&self) -> bool {
        self.used >= self.cap
    }

    /// What is used, and of how much.
    pub const fn used(&self) -> (u64, u64) {
        (self.used, self.cap)
    }

    /// When the next month begins, in unix seconds.
    pub fn ends(&self) -> u64 {
        // The same day is 28 to 31 days later.
        month(self.since + 31 * DAY, self.day)
    }
}

/// The last beginning of a `day` of a month at or before `unix`.
fn month(unix: u64, day: u8) -> u64 {
    let days = unix / DAY;
    let (mut year, mut month, today) = civil(days);
    if today < u64::from(day) {
        (year, month) = if month == 1 { (year - 1, 12) } else { (year, month - 1) };
    }
    (days_before(year, month) + u64::from(day) - 1) * DAY
}

/// The days from 1970-01-01 to the first of a month, year 1970 or later.
const fn days_before(year: u64, month: u64) -> u64 {
    // Years begin in March: so the leap day is the last of them.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap = year / 4 - year / 100 + year / 400;
    year * 365 + leap + (153 * month + 2) / 5 - 719_468
}

/// Year, month and day of a day since 1970-01-01.
const fn civil(days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while days_before(year + 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_before(year, month + 1) <= days {
        month += 1;
    }
    (year, month, days - days_before(year, month) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Unix seconds of a date.
    fn at(year: u64, month: u64, day: u64) -> u64 {
        (days_before(year, month) + day - 1) * DAY
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (year, month, day, unix) in [
            (1970, 1, 1, 0),
            (2000, 2, 29, 951_782_400),
            (2024, 12, 31, 1_735_603_200),
            (2026, 3, 1, 1_772_323_200),
            (2100, 3, 1, 4_107_542_400),
        ] {
            assert_eq!(at(year, month, day), unix, "{year}-{month}-{day}");
            assert_eq!(civil(unix / DAY), (year, month, day));
        }
    }

    #[test]
    fn a_month_begins_on_the_chosen_day() {
        for (unix, day, begun) in [
            (at(2026, 3, 14), 15, at(2026, 2, 15)),
            (at(2026, 3, 15), 15, at(2026, 3, 15)),
            (at(2026, 1, 3) + 5, 28, at(2025, 12, 28)),
            (at(2028, 3, 1) - 1, 1, at(2028, 2, 1)),
        ] {
            assert_eq!(month(unix, day), begun);
        }
        assert_eq!(Quota::new(1, 28, at(2026, 2, 1)).ends(), at(2026, 2, 28));
        assert_eq!(Quota::new(1, 1, at(2026, 12, 7)).ends(), at(2027, 1, 1));
    }

    #[test]
    fn the_cap_holds_until_the_next_month_also_across_a_restart() {
        let now = at(2026, 5, 20);
        let mut quota = Quota::new(1_000, 10, now);
        quota.add(now, 999);
        assert!(!quota.is_spent());
        quota.add(now, 1);
        assert!(quota.is_spent());
        let mut again = Quota::new(1_000, 10, now + DAY);
        assert!(again.restore(&quota.to_text()));
        assert_eq!(again, quota);
        // A clock that goes back gives nothing back.
        again.add(at(2026, 1, 1), 0);
        assert!(again.is_spent());
        again.add(again.ends() - 1, 0);
        assert!(again.is_spent());
        again.add(again.ends(), 5);
        assert_eq!(again.used(), (5, 1_000));
        let mut later = Quota::new(1_000, 10, at(2026, 7, 1));
        assert!(later.restore(&quota.to_text()));
        assert_eq!(later.used().0, 0);
    }

    #[test]
    fn what_is_no_note_of_traffic_is_told() {
        let mut quota = Quota::new(1, 1, 0);
        let text = quota.to_text();
        for wrong in [
            "",
            "chive traffic 2\nsince 0\nused 0\n",
            "chive traffic 1\nsince x\nused 0\n",
            "chive traffic 1\nsince 0\n",
        ] {
            assert!(!quota.clone().restore(wrong), "{wrong}");
        }
        assert!(quota.restore(&text));
    }

    proptest! {
        #[test]
        fn months_follow_each_other(unix in 0_u64..10_000_000_000, day in 1_u8..29) {
            prop_assume!(unix > 60 * DAY);
            let begun = month(unix, day);
            prop_assert!(begun <= unix && unix - begun < 31 * DAY);
            let (_, _, today) = civil(begun / DAY);
            prop_assert_eq!(today, u64::from(day));
            let quota = Quota::new(1, day, unix);
            prop_assert!(quota.ends() > unix && quota.ends() - begun >= 28 * DAY);
        }
    }
}
