//! Wins and the transactions that redeem them, and their forms in the store.

use alloy_primitives::{Address, B256};
use wire::{Malformed, Reader};

use crate::amount::Wei;
use crate::chain::Place;
use crate::claim::Claim;

const VERSION: u8 = 1;

/// Which win: payer, payee, nonce.
pub type Key = (Address, Address, u32);

/// How far a win's redemption is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In no transaction.
    New,
    /// In a transaction that waits for a block.
    Sent,
    /// Paid in a block that may still be taken back.
    Mined,
    /// Paid for good.
    Final {
        /// So much.
        payout: Wei,
    },
    /// Never paid.
    Lost(Reason),
}

/// Why a win was not paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its time ran out, with nothing wrong but that.
    Expired,
    /// The contract refused it until its time ran out; the code is the contract's.
    Refused(u8),
    /// The payer's pot held nothing, or less than the redemption costs.
    Worthless,
}

/// A win, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Win {
    /// What the contract is shown.
    pub claim: Claim,
    /// When it may be redeemed, unix; `None` until the payer's pot has been looked at.
    pub due: Option<u64>,
    /// How far it is.
    pub state: State,
    /// Why the contract would not pay it when it was last tried.
    pub refused: Option<Reason>,
}

impl Win {
    /// Which one it is.
    pub const fn key(&self) -> Key {
        (self.claim.session.payer, self.claim.session.payee, self.claim.session.nonce)
    }

    /// Whether nothing more will become of it.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Final { .. } | State::Lost(_))
    }

    /// Its key in the store: `payer 20 | payee 20 | nonce 4`.
    pub(super) fn row(&self) -> Vec<u8> {
        let (payer, payee, nonce) = self.key();
        [payer.as_slice(), payee.as_slice(), &nonce.to_be_bytes()].concat()
    }

    /// `version 1 | due 8 | state 1 | code 1 | payout 16 | refused 1 | code 1 | claim`; a due time that is not known is 0.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let (state, code, payout) = match self.state {
            State::New => (0, 0, Wei::ZERO),
            State::Sent => (1, 0, Wei::ZERO),
            State::Mined => (2, 0, Wei::ZERO),
            State::Final { payout } => (3, 0, payout),
            State::Lost(reason) => {
                let (kind, code) = reason_bytes(Some(reason));
                (4u8.saturating_add(kind), code, Wei::ZERO)
            }
        };
        let mut out = vec![VERSION];
        out.extend(self.due.unwrap_or(0).to_be_bytes());
        out.extend([state, code]);
        out.extend(payout.0.to_be_bytes());
        let (kind, code) = reason_bytes(self.refused);
        out.extend([kind, code]);
        out.extend(self.claim.encode()?);
        Some(out)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8("version of a win")? != VERSION {
            return Err(Malformed("version of a win"));
        }
        let due = Some(r.u64("due")?).filter(|due| *due != 0);
        let (state, code) = (r.u8("state")?, r.u8("code")?);
        let payout = Wei(u128::from_be_bytes(*r.array("payout")?));
        let state = match state {
            0 => State::New,
            1 => State::Sent,
            2 => State::Mined,
            3 => State::Final { payout },
            lost => {
                let reason = lost.checked_sub(4).and_then(|kind| reason(kind, code).transpose());
                State::Lost(reason.ok_or(Malformed("state of a win"))??)
            }
        };
        let (kind, code) = (r.u8("refused")?, r.u8("code")?);
        let refused = reason(kind, code)?;
        let claim = Claim::decode(r.rest())?;
        Ok(Self { claim, due, state, refused })
    }
}

const fn reason_bytes(reason: Option<Reason>) -> (u8, u8) {
    match reason {
        None => (0, 0),
        Some(Reason::Expired) => (1, 0),
        Some(Reason::Refused(code)) => (2, code),
        Some(Reason::Worthless) => (3, 0),
    }
}

const fn reason(kind: u8, code: u8) -> Result<Option<Reason>, Malformed> {
    match kind {
        0 => Ok(None),
        1 => Ok(Some(Reason::Expired)),
        2 => Ok(Some(Reason::Refused(code))),
        3 => Ok(Some(Reason::Worthless)),
        _ => Err(Malformed("reason")),
    }
}

/// Transactions of one nonce, of which at most one is ever in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    /// The nonce, and the most that any of them offered.
    pub(super) place: Place,
    /// The height of the chain when the last of them was sent.
    pub(super) sent: u64,
    /// Their hashes.
    pub(super) hashes: Vec<B256>,
    /// The wins in the last of them.
    pub(super) wins: Vec<Key>,
}

impl Flight {
    /// `version 1 | max fee 16 | tip 16 | sent 8 | hashes 4 | hash 32... | (payer 20 | payee 20 | nonce 4)...`; the nonce is the key.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.place.max_fee.to_be_bytes());
        out.extend(self.place.tip.to_be_bytes());
        out.extend(self.sent.to_be_bytes());
        out.extend(u32::try_from(self.hashes.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(self.hashes.iter().flatten());
        for (payer, payee, nonce) in &self.wins {
            out.extend(payer);
            out.extend(payee);
            out.extend(nonce.to_be_bytes());
        }
        out
    }

    pub(super) fn decode(nonce: u64, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8("version of a flight")? != VERSION {
            return Err(Malformed("version of a flight"));
        }
        let max_fee = u128::from_be_bytes(*r.array("max fee")?);
        let tip = u128::from_be_bytes(*r.array("tip")?);
        let sent = r.u64("sent")?;
        let count = r.u32("hashes")?;
        let hashes = (0..count).map(|_| r.array::<32>("hash").map(B256::from)).collect::<Result<_, _>>()?;
        let (wins, []) = r.rest().as_chunks::<44>() else { return Err(Malformed("wins")) };
        let key = |win: &[u8; 44]| {
            let mut r = Reader::new(win);
            let payer = Address::from(r.array::<20>("payer")?);
            Ok((payer, Address::from(r.array::<20>("payee")?), r.u32("nonce")?))
        };
        let wins = wins.iter().map(key).collect::<Result<_, _>>()?;
        Ok(Self { place: Place { nonce, max_fee, tip }, sent, hashes, wins })
    }
}

/// What all redemptions so far have come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Wins that were paid for good.
    pub paid: u64,
    /// What they paid.
    pub payout: Wei,
    /// Wins that were not paid.
    pub lost: u64,
    /// The faces of those.
    pub missed: Wei,
    /// What the redeeming transactions cost, once they were final.
    pub fees: Wei,
}

impl Totals {
    /// `version 1 | paid 8 | payout 16 | lost 8 | missed 16 | fees 16`
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.paid.to_be_bytes());
        out.extend(self.payout.0.to_be_bytes());
        out.extend(self.lost.to_be_bytes());
        out.extend(self.missed.0.to_be_bytes());
        out.extend(self.fees.0.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8("version of totals")? != VERSION {
            return Err(Malformed("version of totals"));
        }
        let paid = r.u64("paid")?;
        let payout = Wei(u128::from_be_bytes(*r.array("payout")?));
        let lost = r.u64("lost")?;
        let missed = Wei(u128::from_be_bytes(*r.array("missed")?));
        let fees = Wei(u128::from_be_bytes(*r.array("fees")?));
        r.finish("totals")?;
        Ok(Self { paid, payout, lost, missed, fees })
    }
}
