//! What a payer makes of the counts of its payee (docs/spec/03-payments.md section 4).

use std::time::{Duration, Instant};

use crate::error::DropReason;
use crate::ledger::Account;

/// Counts may differ by so many cells, and by one in a hundred.
const WINDOW: u128 = 8_192;
/// A payee that is without credit for so long has lost what was paid ahead.
const DRY: Duration = Duration::from_secs(1);
/// What it says of that is repeated within this time.
const REPEATED: Duration = Duration::from_secs(3);

/// How far the counts of a payee were ahead of ours so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reckoning {
    /// What was paid for nothing that we know of.
    lost: u128,
    /// Since when the payee says that it has nothing, and when it said so last.
    dry: Option<(Instant, Instant)>,
}

impl Reckoning {
    /// Takes the counts of a payee: what it has charged and what it was credited; `still` if nothing is under way.
    ///
    /// An error if the payee is further ahead than losses on the way explain.
    pub fn compare(
        &mut self,
        account: &mut Account,
        still: bool,
        due: u128,
        credited: u128,
    ) -> Result<(), DropReason> {
        let most = WINDOW * u128::from(account.rate_out);
        // pay.draw.5: a payer that has restarted may have forgotten its last draws, but not more.
        if credited.saturating_sub(account.paid) > account.paid / 100 + most {
            return Err(DropReason::Misbehaved);
        }
        let credited = credited.min(account.paid);
        let (here, there) = (account.paid.saturating_sub(account.owed), credited.saturating_sub(due));
        if still && there >= here {
            // pay.meter.2: what it did not charge was lost on the way there.
            let less = (there - here).min(account.owed);
            self.lost = self.lost.saturating_sub(less);
            account.owed -= less;
            account.committed = account.committed.saturating_sub(less);
            return Ok(());
        }
        // pay.meter.1: what was granted may be under way; what was paid ahead may be forgotten once, whatever it is.
        let ahead = if still { (here - there).min(most) } else { due.saturating_sub(account.committed) };
        self.lose(account, ahead)
    }

    /// The payee says that it has nothing left of what it was paid ahead. Draws may be under way, or void behind a win; if
    /// it says so for long, it has lost them.
    ///
    /// An error if it has lost more than it can explain.
    // pay.meter.4
    pub fn starved(&mut self, now: Instant, account: &mut Account) -> Result<(), DropReason> {
        let since = match self.dry {
            Some((since, last)) if last + REPEATED > now => since,
            _ => now,
        };
        self.dry = Some((since, now));
        if now.saturating_duration_since(since) >= DRY {
            self.dry = None;
            let most = WINDOW * u128::from(account.rate_out);
            return self.lose(account, account.paid.saturating_sub(account.committed).min(most));
        }
        Ok(())
    }

    /// The payee has credit again.
    pub const fn content(&mut self) {
        self.dry = None;
    }

    /// Owes for what was lost, unless that is more than 1 % and the window in all: then our own count stands.
    fn lose(&mut self, account: &mut Account, value: u128) -> Result<(), DropReason> {
        let own = account.owed.saturating_sub(self.lost);
        let sums = [self.lost, account.owed, account.committed].map(|sum| sum.checked_add(value));
        let [Some(lost), Some(owed), Some(committed)] = sums else { return Err(DropReason::Misbehaved) };
        if lost > own / 100 + WINDOW * u128::from(account.rate_out) {
            return Err(DropReason::Misbehaved);
        }
        self.lost = lost;
        (account.owed, account.committed) = (owed, committed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::Ledger;

    fn account(paid: u128, owed: u128) -> Account {
        let mut ledger = Ledger::default();
        let id = ledger.open();
        ledger.engage(id, 10);
        ledger.owe(id, 1, u64::try_from(owed).unwrap());
        let mut account = *ledger.get(id).unwrap();
        account.paid = paid;
        account
    }

    // pay.meter.1
    #[test]
    fn a_payee_is_paid_its_own_count_within_the_tolerance_and_left_beyond() {
        let mut reckoning = Reckoning::default();
        let mut own = account(2_000_000, 1_000_000);
        assert_eq!(reckoning.compare(&mut own, false, 1_000_500, 2_000_000), Ok(()));
        assert_eq!((own.owed, own.committed), (1_000_500, 1_000_500));
        // What was granted may be under way.
        own.committed += 10_000;
        assert_eq!(reckoning.compare(&mut own, false, 1_010_500, 2_000_000), Ok(()));
        assert_eq!((own.owed, own.committed), (1_000_500, 1_010_500));
        own.committed = own.owed;
        // Less than ours says nothing while cells are under way.
        assert_eq!(reckoning.compare(&mut own, false, 900_000, 2_000_000), Ok(()));
        assert_eq!(own.owed, 1_000_500);
        // Little by little is not better than at once.
        let outcome = (0..100).map(|n| reckoning.compare(&mut own, false, 1_010_000 + n * 10_000, 2_000_000));
        assert!(outcome.last().is_some_and(|last| last.is_err()));
        // Our own count stands then, and what was believed before.
        assert_eq!((own.owed, reckoning.lost), (1_090_000, 90_000));
        let mut fresh = account(2_000_000, 1_000_000);
        let mut reckoning = Reckoning::default();
        assert!(reckoning.compare(&mut fresh, false, 1_200_000, 2_000_000).is_err());
        assert_eq!((fresh.owed, fresh.committed), (1_000_000, 1_000_000));
    }

    // pay.meter.2
    #[test]
    fn what_was_lost_on_the_way_is_not_owed() {
        let mut reckoning = Reckoning::default();
        let mut own = account(2_000_000, 1_000_000);
        assert_eq!(reckoning.compare(&mut own, true, 990_000, 2_000_000), Ok(()));
        assert_eq!((own.owed, own.committed), (990_000, 990_000));
        // A payee that has forgotten what it was paid ahead has to be paid again, once.
        assert_eq!(reckoning.compare(&mut own, true, 0, 990_000), Ok(()));
        let mut forgetful = account(2_000_000, 1_990_000);
        assert_eq!(reckoning.compare(&mut forgetful, true, 0, 0), Ok(()));
        assert_eq!(forgetful.owed, 2_000_000);
    }

    // pay.meter.1, pay.meter.2
    #[test]
    fn counts_beyond_all_measure_are_lies_and_change_nothing() {
        const MOST: u128 = WINDOW * 10;
        let mut reckoning = Reckoning::default();
        let mut own = account(2_000_000, 1_000_000);
        assert_eq!(reckoning.compare(&mut own, false, 1_000_000 + MOST, 2_000_000), Ok(()));
        let before = (own, reckoning);
        for (still, due, credited) in [
            (true, 0, u128::MAX),
            (true, 0, 2_000_000 * 101 / 100 + MOST + 1),
            (false, u128::MAX, 0),
            (false, u128::MAX - 60_000, u128::MAX),
            (false, u128::MAX - 60_000, 0),
        ] {
            let outcome = reckoning.compare(&mut own, still, due, credited);
            assert_eq!((outcome, own, reckoning), (Err(DropReason::Misbehaved), before.0, before.1));
        }
        // What is taken back is not lost any more, and may be once more, but not twice.
        assert_eq!(reckoning.compare(&mut own, true, 1_000_000, 2_000_000), Ok(()));
        assert_eq!((own.owed, reckoning.lost), (1_000_000, 0));
        assert_eq!(reckoning.compare(&mut own, false, 1_000_000 + MOST, 2_000_000), Ok(()));
        assert!(reckoning.compare(&mut own, false, 1_020_001 + MOST, 2_000_000).is_err());
    }

    fn sum() -> impl Strategy<Value = u128> {
        prop_oneof![any::<u128>(), 0..200_000u128, (0..200_000u128).prop_map(|less| u128::MAX - less)]
    }

    proptest! {
        // pay.meter.1
        #[test]
        fn whatever_a_payee_says_no_more_is_committed_than_our_own_count_and_the_tolerance(
            steps in proptest::collection::vec((0..4_000u64, any::<bool>(), any::<bool>(), sum(), sum()), 1..60)
        ) {
            let (mut ledger, mut reckoning, mut own) = (Ledger::default(), Reckoning::default(), 0);
            let id = ledger.open();
            ledger.engage(id, 10);
            for (cells, still, near, due, credited) in steps {
                ledger.owe(id, 10, cells);
                own += u128::from(cells) * 10;
                let account = ledger.get_mut(id).unwrap();
                account.paid = account.paid.max(account.committed + 7_680);
                // Half of the payees lie within reason.
                let due = if near { account.committed.saturating_add(due % 100_000) } else { due };
                let credited = if near { account.paid.saturating_sub(credited % 100_000) } else { credited };
                let before = *account;
                if reckoning.compare(account, still, due, credited).is_err() {
                    prop_assert_eq!(*account, before);
                }
                prop_assert!(account.committed <= own + own / 100 + WINDOW * 10, "{:?}, {}", account, own);
                prop_assert!(account.owed <= account.committed);
            }
        }
    }

    // pay.meter.4
    #[test]
    #[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
    fn a_payee_that_says_so_for_a_second_has_lost_what_was_paid_ahead_but_not_without_end() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut reckoning = Reckoning::default();
        let mut own = account(2_000, 1_000);
        for (ms, owed) in [(0, 1_000), (900, 1_000), (5_000, 1_000), (5_900, 1_000), (6_000, 2_000)] {
            assert_eq!(reckoning.starved(at(ms), &mut own), Ok(()));
            assert_eq!((own.owed, own.committed), (owed, owed), "{ms} ms");
        }
        own.paid = 3_000;
        assert_eq!(reckoning.starved(at(7_000), &mut own), Ok(()));
        reckoning.content();
        assert_eq!(reckoning.starved(at(8_000), &mut own), Ok(()));
        assert_eq!(own.owed, 2_000, "in between it had credit");
        let mut left = false;
        for ms in (10_000..200_000).step_by(500) {
            own.paid = own.owed + 15_360;
            left |= reckoning.starved(at(ms), &mut own).is_err();
            if left {
                break;
            }
        }
        assert!(left && own.owed < 200_000, "{own:?}");
    }
}
