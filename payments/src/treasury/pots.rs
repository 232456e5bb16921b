//! Payers' pots as they were seen last, kept for a start at which no RPC answers.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use wire::{Malformed, Reader};

use crate::amount::Wei;
use crate::record::Record;
use crate::session::read_address;
use crate::store::{Batch, Row, Table};
use crate::till::PayerAccount;

const POT: &[u8] = b"treasury pot ";
const VERSION: u8 = 1;

pub(super) fn key(owner: Address) -> Vec<u8> {
    [POT, owner.as_slice()].concat()
}

/// `version 1 | balance 16 | reserve 16 | signer 20 | only payee 20 | unlocking 1 | registered 1`; zero for no only payee.
pub(super) fn encode(pot: &PayerAccount) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend(pot.balance.0.to_be_bytes());
    out.extend(pot.reserve.0.to_be_bytes());
    out.extend(pot.signer.as_slice());
    out.extend(pot.only_payee.unwrap_or_default().as_slice());
    out.extend([u8::from(pot.unlocking), u8::from(pot.registered)]);
    out
}

fn decode(bytes: &[u8]) -> Result<PayerAccount, Malformed> {
    let mut r = Reader::new(bytes);
    if r.u8("version of a pot")? != VERSION {
        return Err(Malformed("version of a pot"));
    }
    let (balance, reserve) = (Wei::read_wide(&mut r, "balance")?, Wei::read_wide(&mut r, "reserve")?);
    let (signer, only) = (read_address(&mut r, "signer")?, read_address(&mut r, "only payee")?);
    let (unlocking, registered) = (r.u8("unlocking")? != 0, r.u8("registered")? != 0);
    r.finish("pot")?;
    let only_payee = Some(only).filter(|only| *only != Address::ZERO);
    Ok(PayerAccount { balance, reserve, unlocking, signer, only_payee, head_stale: true, registered })
}

/// The pots of payers that have open sessions; and how those of others are forgotten.
// pay.pot.6
pub(super) fn restore(
    values: &[Row],
    records: &[Record],
) -> Result<(BTreeMap<Address, PayerAccount>, Batch), Malformed> {
    let payers: BTreeSet<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Payer(row) if !row.sessions.is_empty() => Some(row.payer),
            _ => None,
        })
        .collect();
    let (mut pots, mut old) = (BTreeMap::new(), Batch::new());
    for (key, value) in values {
        let Some(owner) = key.strip_prefix(POT) else { continue };
        match Address::try_from(owner) {
            Ok(owner) if payers.contains(&owner) => drop(pots.insert(owner, decode(value)?)),
            _ => old.delete(Table::Values, key.as_slice()),
        }
    }
    Ok((pots, old))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pot_comes_back_and_no_other_length_does() {
        let pot = PayerAccount {
            balance: Wei(1),
            reserve: Wei(2),
            unlocking: false,
            signer: Address::repeat_byte(3),
            only_payee: Some(Address::repeat_byte(4)),
            head_stale: true,
            registered: true,
        };
        for pot in [pot, PayerAccount { unlocking: true, only_payee: None, registered: false, ..pot }] {
            let bytes = encode(&pot);
            assert_eq!(decode(&bytes), Ok(pot));
            assert!((0..bytes.len()).all(|n| decode(&bytes[..n]).is_err()));
            assert!(decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }
}
