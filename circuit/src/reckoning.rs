//! What a payer makes of the counts of its payee (docs/spec/03-payments.md section 4).

use crate::error::DropReason;
use crate::ledger::Account;

/// Counts may differ by so many cells, and by one in a hundred.
const WINDOW: u128 = 8_192;

/// How far the counts of a payee were ahead of ours so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reckoning {
    /// What was paid for nothing that we know of.
    lost: u128,
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
        let (here, there) = (account.paid.saturating_sub(account.owed), credited.saturating_sub(due));
        if still && there >= here {
            // pay.meter.2: what it did not charge was lost on the way there.
            let less = (there - here).min(account.owed);
            account.owed -= less;
            account.committed = account.committed.saturating_sub(less);
            return Ok(());
        }
        // pay.meter.1
        let ahead = if still { here - there } else { due.saturating_sub(account.owed) };
        self.lose(account, ahead);
        if self.is_excessive(account) { Err(DropReason::Misbehaved) } else { Ok(()) }
    }

    /// The payee has nothing left of what it was paid ahead.
    pub fn write_off(&mut self, account: &mut Account) {
        self.lose(account, account.paid.saturating_sub(account.owed));
    }

    fn lose(&mut self, account: &mut Account, value: u128) {
        let most = WINDOW * u128::from(account.rate_out);
        let value = value.min(most);
        self.lost += value;
        account.owed += value;
        account.committed += value;
    }

    /// Whether more was lost than 1 % and the window.
    pub fn is_excessive(&self, account: &Account) -> bool {
        self.lost > account.owed / 100 + WINDOW * u128::from(account.rate_out)
    }
}

#[cfg(test)]
mod tests {
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
        // Less than ours says nothing while cells are under way.
        assert_eq!(reckoning.compare(&mut own, false, 900_000, 2_000_000), Ok(()));
        assert_eq!(own.owed, 1_000_500);
        // Little by little is not better than at once.
        let outcome = (0..100).map(|n| reckoning.compare(&mut own, false, 1_010_000 + n * 10_000, 2_000_000));
        assert!(outcome.last().is_some_and(|last| last.is_err()));
        assert!(reckoning.is_excessive(&own));
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
        reckoning.write_off(&mut own);
        assert!(own.owed <= own.paid && own.committed >= own.owed);
    }
}
