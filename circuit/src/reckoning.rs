//! What a payer makes of the counts of its payee (docs/spec/03-payments.md section 4).

use std::time::{Duration, Instant};

use crate::error::DropReason;
use crate::ledger::Account;

/// Counts may differ by one in a hundred, and by so many cells at the highest rate, but by no more than so often what was owed:
/// else one cell at a high rate would be enough to claim thousands.
const WINDOW: u128 = 8_192;
const TIMES: u128 = 2;
/// A payee that is without credit for so long has lost what was paid ahead.
const DRY: Duration = Duration::from_secs(1);
/// What it says of that is repeated within this time.
const REPEATED: Duration = Duration::from_secs(3);
/// Nothing is under way any more after so long without a cell or a draw.
const STILL: Duration = Duration::from_secs(3);
/// Our counts are said after so long without, and with the next draw after so many cells (pay.meter.2).
const QUIET: Duration = Duration::from_secs(5);
const METER: u64 = 4_096;

/// What a payer believes of one payee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reckoning {
    /// So many cells are forgiven even to a payee that was owed less.
    trust: u64,
    /// What was owed when this began.
    begun: u128,
    /// What may have been owed beyond what was paid when another life ended.
    before: u128,
    /// What was paid for nothing that we know of.
    lost: u128,
    /// Since when the payee says that it has nothing, and when it said so last.
    dry: Option<(Instant, Instant)>,
    /// What it was credited, as it said last.
    credited: u128,
    /// What it was owed and paid when that was looked at last, and since when neither has changed.
    seen: [u128; 2],
    since: Instant,
    /// The cells that it was told of.
    claimed: u64,
}

impl Reckoning {
    /// A reckoning of what an account owes from now on; up to `trust` cells are forgiven even to a payee that was owed less, and
    /// what another life may have left owed, which is `before` at most.
    pub const fn of(account: &Account, now: Instant, trust: u64, before: u128) -> Self {
        Self {
            trust,
            begun: account.owed,
            before,
            lost: 0,
            dry: None,
            credited: 0,
            seen: [account.owed, account.paid],
            since: now,
            claimed: account.cells_out,
        }
    }

    /// Begins anew with a payee that was left.
    pub const fn restart(&mut self, account: &Account) {
        (self.begun, self.before, self.lost, self.dry) = (account.owed, 0, 0, None);
    }

    /// The account turns out to have been paid so much more in another life, for what it was owed then.
    // pay.draw.5
    pub const fn recover(&mut self, account: &mut Account, paid: u128) {
        self.begun = self.begun.saturating_add(paid);
        account.owed = account.owed.saturating_add(paid);
        account.committed = account.committed.saturating_add(paid);
        account.due = account.due.saturating_add(paid);
    }

    /// Takes note of whether anything is owed or paid; call it often.
    pub fn look(&mut self, now: Instant, account: &Account) {
        if self.seen != [account.owed, account.paid] {
            (self.seen, self.since) = ([account.owed, account.paid], now);
        }
    }

    /// Whether our counts are to be said: with a draw, or after a while without.
    // pay.meter.2
    pub fn claims(&mut self, now: Instant, account: &Account, drawn: bool) -> bool {
        let quiet = now.saturating_duration_since(self.since) >= QUIET;
        let due = if drawn {
            account.cells_out >= self.claimed + METER
        } else {
            quiet && self.claimed != account.cells_out
        };
        if due {
            self.claimed = account.cells_out;
        }
        due
    }

    /// What was owed since it began, by our own count.
    pub const fn own(&self, account: &Account) -> u128 {
        account.owed.saturating_sub(self.begun).saturating_sub(self.lost)
    }

    /// How far the payee may be ahead in all, besides one in a hundred.
    // pay.meter.1
    fn tolerance(&self, account: &Account) -> u128 {
        let (rate, trust) = (u128::from(account.rate_out), u128::from(self.trust));
        (WINDOW * rate).min(self.own(account).saturating_mul(TIMES).max(trust * rate).max(self.before))
    }

    /// Takes the counts of a payee: what it has charged and what it was credited.
    ///
    /// An error if the payee is further ahead than losses on the way explain.
    pub fn compare(
        &mut self,
        now: Instant,
        account: &mut Account,
        due: u128,
        credited: u128,
    ) -> Result<(), DropReason> {
        self.credited = credited;
        if account.rate_out == 0 {
            // Nothing was owed yet in this life, and what was paid in the last may not be known in full.
            return Ok(());
        }
        let same = self.seen == [account.owed, account.paid];
        self.settle(account, same && now.saturating_duration_since(self.since) >= STILL, due, credited)
    }

    /// The same; `still` if nothing is under way.
    fn settle(
        &mut self,
        account: &mut Account,
        still: bool,
        due: u128,
        credited: u128,
    ) -> Result<(), DropReason> {
        let forgotten = WINDOW * u128::from(account.rate_out);
        // pay.draw.5: a payer that has restarted may have forgotten its last draws, but not more.
        if credited.saturating_sub(account.paid) > account.paid / 100 + forgotten {
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
        let ahead = if still {
            (here - there).min(self.tolerance(account))
        } else {
            due.saturating_sub(account.committed)
        };
        self.lose(account, ahead)
    }

    /// The payee says that it has nothing left of what it was paid ahead; if it says so for long, it has lost that, but for
    /// draws that it has not credited: of those that are `undecided` they may be under way, or void behind a win.
    ///
    /// An error if it has lost more than it can explain.
    // pay.meter.4
    pub fn starved(
        &mut self,
        now: Instant,
        account: &mut Account,
        undecided: u128,
    ) -> Result<(), DropReason> {
        let since = match self.dry {
            Some((since, last)) if last + REPEATED > now => since,
            _ => now,
        };
        self.dry = Some((since, now));
        if now.saturating_duration_since(since) >= DRY {
            self.dry = None;
            let unsure = account.paid.saturating_sub(self.credited).min(undecided);
            let ahead = account.paid.saturating_sub(account.committed).saturating_sub(unsure);
            return self.lose(account, ahead.min(self.tolerance(account)));
        }
        Ok(())
    }

    /// The payee has credit again.
    pub const fn content(&mut self) {
        self.dry = None;
    }

    /// Owes for what was lost, unless that is more than 1 % and the tolerance in all: then our own count stands.
    fn lose(&mut self, account: &mut Account, value: u128) -> Result<(), DropReason> {
        let most = self.own(account) / 100 + self.tolerance(account);
        let sums = [self.lost, account.owed, account.committed].map(|sum| sum.checked_add(value));
        let [Some(lost), Some(owed), Some(committed)] = sums else { return Err(DropReason::Misbehaved) };
        if lost > most {
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

    #[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
    fn fresh() -> Reckoning {
        Reckoning::of(&Account::default(), Instant::now(), 0, 0)
    }

    // pay.meter.1
    #[test]
    fn a_payee_is_paid_its_own_count_within_the_tolerance_and_left_beyond() {
        let mut reckoning = fresh();
        let mut own = account(2_000_000, 1_000_000);
        assert_eq!(reckoning.settle(&mut own, false, 1_000_500, 2_000_000), Ok(()));
        assert_eq!((own.owed, own.committed), (1_000_500, 1_000_500));
        // What was granted may be under way.
        own.committed += 10_000;
        assert_eq!(reckoning.settle(&mut own, false, 1_010_500, 2_000_000), Ok(()));
        assert_eq!((own.owed, own.committed), (1_000_500, 1_010_500));
        own.committed = own.owed;
        // Less than ours says nothing while cells are under way.
        assert_eq!(reckoning.settle(&mut own, false, 900_000, 2_000_000), Ok(()));
        assert_eq!(own.owed, 1_000_500);
        // Little by little is not better than at once.
        let outcome = (0..100).map(|n| reckoning.settle(&mut own, false, 1_010_000 + n * 10_000, 2_000_000));
        assert!(outcome.last().is_some_and(|last| last.is_err()));
        // Our own count stands then, and what was believed before.
        assert_eq!((own.owed, reckoning.lost), (1_090_000, 90_000));
        let mut other = account(2_000_000, 1_000_000);
        let mut reckoning = fresh();
        assert!(reckoning.settle(&mut other, false, 1_200_000, 2_000_000).is_err());
        assert_eq!((other.owed, other.committed), (1_000_000, 1_000_000));
    }

    // pay.meter.2
    #[test]
    fn what_was_lost_on_the_way_is_not_owed() {
        let mut reckoning = fresh();
        let mut own = account(2_000_000, 1_000_000);
        assert_eq!(reckoning.settle(&mut own, true, 990_000, 2_000_000), Ok(()));
        assert_eq!((own.owed, own.committed), (990_000, 990_000));
        // A payee that has forgotten what it was paid ahead has to be paid again, once.
        assert_eq!(reckoning.settle(&mut own, true, 0, 990_000), Ok(()));
        let mut forgetful = account(2_000_000, 1_990_000);
        assert_eq!(reckoning.settle(&mut forgetful, true, 0, 0), Ok(()));
        assert_eq!(forgetful.owed, 2_000_000);
    }

    // pay.meter.1, pay.meter.2
    #[test]
    fn counts_beyond_all_measure_are_lies_and_change_nothing() {
        const MOST: u128 = WINDOW * 10;
        let mut reckoning = fresh();
        let mut own = account(2_000_000, 1_000_000);
        assert_eq!(reckoning.settle(&mut own, false, 1_000_000 + MOST, 2_000_000), Ok(()));
        let before = (own, reckoning);
        for (still, due, credited) in [
            (true, 0, u128::MAX),
            (true, 0, 2_000_000 * 101 / 100 + MOST + 1),
            (false, u128::MAX, 0),
            (false, u128::MAX - 60_000, u128::MAX),
            (false, u128::MAX - 60_000, 0),
        ] {
            let outcome = reckoning.settle(&mut own, still, due, credited);
            assert_eq!((outcome, own, reckoning), (Err(DropReason::Misbehaved), before.0, before.1));
        }
        // What is taken back is not lost any more, and may be once more, but not twice.
        assert_eq!(reckoning.settle(&mut own, true, 1_000_000, 2_000_000), Ok(()));
        assert_eq!((own.owed, reckoning.lost), (1_000_000, 0));
        assert_eq!(reckoning.settle(&mut own, false, 1_000_000 + MOST, 2_000_000), Ok(()));
        assert!(reckoning.settle(&mut own, false, 1_020_001 + MOST, 2_000_000).is_err());
    }

    // pay.meter.1
    #[test]
    fn who_was_owed_little_at_a_high_rate_may_not_claim_much() {
        let mut ledger = Ledger::default();
        let id = ledger.open();
        ledger.engage(id, 10);
        ledger.owe(id, 10, 10_000);
        let mut reckoning = fresh();
        reckoning.restart(ledger.get(id).unwrap());
        // What was owed before it began does not count.
        let account = ledger.get_mut(id).unwrap();
        assert!(reckoning.settle(account, false, 100_001, 0).is_err());
        ledger.engage(id, 1_000_000);
        ledger.owe(id, 1_000_000, 80);
        let account = ledger.get_mut(id).unwrap();
        assert!(reckoning.settle(account, false, account.owed + 161_600_000, 0).is_err());
        let before = account.owed;
        assert_eq!(reckoning.settle(account, false, account.owed + 160_000_000, 0), Ok(()));
        assert_eq!((account.owed, reckoning.own(account)), (before + 160_000_000, 80_000_000));
        assert!(reckoning.settle(account, false, account.owed + 1_600_000, 0).is_err());
    }

    // pay.meter.4
    #[test]
    fn draws_that_may_be_under_way_are_not_lost() {
        let mut reckoning = fresh();
        let (start, mut own) = (reckoning.since, account(20_000, 10_000));
        reckoning.credited = 11_000;
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            assert_eq!(reckoning.starved(now, &mut own, 20_000), Ok(()));
        }
        assert_eq!((own.owed, reckoning.lost), (11_000, 1_000));
    }

    // pay.draw.5
    #[test]
    fn a_payer_that_has_restarted_does_not_judge_before_it_owes_something() {
        let mut ledger = Ledger::default();
        let id = ledger.resume(1_000_000);
        let account = ledger.get_mut(id).unwrap();
        let mut reckoning = Reckoning::of(account, fresh().since, 0, 0);
        // Its last draws were not on disk.
        let now = reckoning.since;
        assert_eq!(reckoning.compare(now, account, 1_003_000, 1_030_000), Ok(()));
        assert_eq!((account.owed, account.committed), (1_000_000, 1_000_000));
        account.rate_out = 1;
        assert!(reckoning.compare(now, account, 1_003_000, 1_030_000).is_err());
    }

    // pay.meter.2
    #[test]
    fn counts_are_taken_over_and_said_when_nothing_has_moved_for_long() {
        let mut reckoning = fresh();
        let at = |ms| reckoning.since + Duration::from_millis(ms);
        let times = [0, 2_900, 3_000, 4_900, 5_000].map(at);
        let mut own = account(20_000, 10_000);
        reckoning.look(times[0], &own);
        assert_eq!(reckoning.compare(times[1], &mut own, 9_000, 20_000), Ok(()));
        assert_eq!(own.owed, 10_000);
        assert!(!reckoning.claims(times[3], &own, false));
        let mut told = reckoning;
        assert!(told.claims(times[4], &own, false) && !told.claims(times[4], &own, false));
        own.cells_out += METER;
        assert!(told.claims(times[0], &own, true) && !told.claims(times[0], &own, true));
        assert_eq!(reckoning.compare(times[2], &mut own, 9_000, 20_000), Ok(()));
        assert_eq!(own.owed, 9_000);
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
            let (mut ledger, mut reckoning, mut own) = (Ledger::default(), fresh(), 0);
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
                if reckoning.settle(account, still, due, credited).is_err() {
                    prop_assert_eq!(*account, before);
                }
                prop_assert!(account.committed <= own + own / 100 + WINDOW * 10, "{:?}, {}", account, own);
                prop_assert!(account.owed <= account.committed);
            }
        }
    }

    // pay.meter.4
    #[test]
    fn a_payee_that_says_so_for_a_second_has_lost_what_was_paid_ahead_but_not_without_end() {
        let mut reckoning = fresh();
        let start = reckoning.since;
        let at = |ms| start + Duration::from_millis(ms);
        let mut own = account(2_000, 1_000);
        for (ms, owed) in [(0, 1_000), (900, 1_000), (5_000, 1_000), (5_900, 1_000), (6_000, 2_000)] {
            assert_eq!(reckoning.starved(at(ms), &mut own, 0), Ok(()));
            assert_eq!((own.owed, own.committed), (owed, owed), "{ms} ms");
        }
        own.paid = 3_000;
        assert_eq!(reckoning.starved(at(7_000), &mut own, 0), Ok(()));
        reckoning.content();
        assert_eq!(reckoning.starved(at(8_000), &mut own, 0), Ok(()));
        assert_eq!(own.owed, 2_000, "in between it had credit");
        let mut left = false;
        for ms in (10_000..200_000).step_by(500) {
            own.paid = own.owed + 15_360;
            left |= reckoning.starved(at(ms), &mut own, 0).is_err();
            if left {
                break;
            }
        }
        assert!(left && own.owed < 200_000, "{own:?}");
    }
}
