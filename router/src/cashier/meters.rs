//! What payers were charged, kept for the next start: so that what they have paid ahead is theirs still.

use std::collections::{BTreeMap, VecDeque};

use circuit::ledger::Account;
use payments::Address;
use payments::amount::{Rate, Wei};
use payments::record::{Book, Change, Key, MeterRow, Record, RecordId};
use payments::till::Till;

/// After a start a payer has at most so many cells of what it has paid ahead: more of it was charged, and not yet written.
const WINDOW: u64 = 8_192;
/// What was charged is written once it is so many cells more, or nothing follows.
const UNIT: u64 = 384;

/// The accounts of payers, on disk.
#[derive(Debug, Default)]
pub(super) struct Meters {
    /// From before the start, of those that have not come again.
    before: BTreeMap<Address, MeterRow>,
    changes: VecDeque<Change>,
    number: u64,
}

impl Meters {
    /// Continues what is on disk; payers that the till has forgotten are forgotten here.
    pub(super) fn new(rows: Vec<MeterRow>, till: &Till) -> Self {
        let mut meters = Self::default();
        for row in rows {
            if till.credited(row.payer) > Wei::ZERO {
                meters.before.insert(row.payer, row);
            } else {
                meters.forget(row.payer);
            }
        }
        meters
    }

    /// Continues the account of a payer whose draws are worth `credited` in all; what it was charged, if the disk knows it.
    // pay.account.2
    pub(super) fn resume(&mut self, payer: Address, credited: Wei, account: &mut Account) -> Option<u128> {
        let row = self.before.remove(&payer)?;
        let left = credited.0.saturating_sub(row.due.0);
        let left = left.min(u128::from(row.rate.0) * u128::from(WINDOW));
        account.cells_in = row.cells;
        account.credited = credited.0;
        account.earned = credited.0 - left;
        account.credit += left.cast_signed();
        Some(account.earned)
    }

    /// Has written what a payer was charged, if that is the first time, or more than `written` by enough, or nothing follows;
    /// what is written now.
    pub(super) fn note(
        &mut self,
        payer: Address,
        account: &Account,
        still: bool,
        written: Option<u128>,
    ) -> Option<u128> {
        let more = account.earned.saturating_sub(written.unwrap_or_default());
        let enough = more >= u128::from(account.rate_in) * u128::from(UNIT);
        let first = written.is_none() && account.rate_in > 0 && account.credited > 0;
        if !first && (more == 0 || !still && !enough) {
            return written;
        }
        let (cells, due, rate) = (account.cells_in, Wei(account.earned), Rate(account.rate_in));
        let record = Record::Meter(MeterRow { payer, cells, due, rate });
        self.changes.push_back(Change { key: record.key(), record: Some(record) });
        Some(account.earned)
    }

    /// Forgets a payer that is forgotten.
    pub(super) fn forget(&mut self, payer: Address) {
        self.changes.push_back(Change { key: Key::Meter(payer), record: None });
    }

    /// The next change that is to be written.
    pub(super) fn poll(&mut self) -> Option<(Book, RecordId, Change)> {
        let change = self.changes.pop_front()?;
        self.number += 1;
        Some((Book::Meters, RecordId(self.number), change))
    }
}
