//! What wallet, till and their node keep on disk: one row per counterparty, one per win, one per payer's account.
//!
//! A row holds all that belongs together, so that a crash never leaves half of a change.

use alloy_primitives::{Address, B256};
use wire::{Full, Malformed, Reader, Writer};

use crate::amount::{Rate, Wei};
use crate::claim::Claim;
use crate::draw::MAX_DRAWS;
use crate::frame::Reason;
use crate::session::{Session, Signature, read_address, read_hash, read_time, write_time};

const VERSION: u8 = 1;
/// The most open sessions of a row.
pub const MAX_SESSIONS: usize = 32;
/// The ended sessions that a payee remembers per payer: more than may end while one of them is not known to have, which are 15 newer
/// ones and 7 older ones.
pub const MAX_ENDED: usize = 24;

/// Numbers the changes that one wallet or till hands out, in the order in which they must reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u64);

/// Whose changes are numbered: each counts its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Book {
    /// The payer's.
    Wallet,
    /// The payee's.
    Till,
    /// What payers were charged; nobody waits for it.
    Meters,
}

/// Names a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// What a wallet knows of a payee.
    Payee(Address),
    /// What a till knows of a payer.
    Payer(Address),
    /// A win of a till.
    Win(Address, u32),
    /// What a wallet owes for a win.
    Debt(Address, u32),
    /// What a payer was charged.
    Meter(Address),
}

impl Key {
    /// The fixed form: `kind 1 | address 20 | nonce 4`.
    pub fn encode(&self) -> [u8; 25] {
        let (kind, address, nonce) = match self {
            Self::Payee(payee) => (1, payee, 0),
            Self::Payer(payer) => (2, payer, 0),
            Self::Win(payer, nonce) => (3, payer, *nonce),
            Self::Meter(payer) => (4, payer, 0),
            Self::Debt(payee, nonce) => (6, payee, *nonce),
        };
        let mut bytes = [0; 25];
        let mut w = Writer::new(&mut bytes);
        // 25 bytes hold all three.
        let _ = w.u8(kind).and_then(|()| w.put(address.as_slice())).and_then(|()| w.u32(nonce));
        bytes
    }
}

/// A change that is to be written to disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub key: Key,
    /// What is kept there from now on; nothing any more, if it is `None`.
    pub record: Option<Record>,
}

impl Change {
    pub(crate) const fn put(record: Record) -> Self {
        Self { key: record.key(), record: Some(record) }
    }

    pub(crate) const fn delete(key: Key) -> Self {
        Self { key, record: None }
    }
}

/// A record on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// What a wallet knows of a payee.
    Payee(PayeeRow),
    /// What a till knows of a payer.
    Payer(PayerRow),
    /// A win, which the redeemer is owed.
    Win(Claim),
    /// What a payer was charged.
    Meter(MeterRow),
    /// What a wallet owes for a win.
    Debt(Debt),
}

/// What ended sessions have come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The value of all draws that count.
    pub value: Wei,
    /// Their number.
    pub draws: u64,
    /// How many of them won.
    pub wins: u64,
    /// The faces of the wins.
    pub won: Wei,
}

/// A session that is not ended, and its last draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What was signed.
    pub session: Session,
    /// By the payer's signer.
    pub signature: Signature,
    /// The draws of the session.
    pub draws: u16,
    /// What each is worth.
    pub value: Wei,
    /// The last draw revealed (payer) or credited (payee).
    pub index: u16,
}

/// A win that a payer must have the balance for until it is redeemed or expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debt {
    /// Who won.
    pub payee: Address,
    /// Names the session.
    pub nonce: u32,
    /// What it may cost.
    pub face: Wei,
    /// The last second of redemption, unix time.
    pub expiry: u64,
    /// The payee did not say that it won: if it is redeemed, the payee has lied.
    pub denied: bool,
}

/// What a wallet knows of a payee.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PayeeRow {
    /// Who is paid.
    pub payee: Address,
    /// All nonces below are used.
    pub next_nonce: u32,
    /// The sessions that ended.
    pub tally: Tally,
    /// Nothing is paid before, unix time.
    pub quarantine: u64,
    /// How often the payee lied.
    pub lies: u8,
    /// The sessions that did not end.
    pub sessions: Vec<Opened>,
}

/// A session that a payee holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The session and its last credited draw.
    pub opened: Opened,
    /// The link of that draw; the anchor before the first.
    pub link: B256,
    /// What the secret number was made with.
    pub salt: [u8; 16],
}

/// A session that a payee ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Names the session.
    pub nonce: u32,
    /// Why.
    pub reason: Reason,
    /// The last credited draw.
    pub index: u16,
    /// Its link.
    pub link: B256,
    /// What the secret number was made with.
    pub salt: [u8; 16],
}

/// What a till knows of a payer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PayerRow {
    /// Who pays.
    pub payer: Address,
    /// All nonces below are used.
    pub next_nonce: u32,
    /// The sessions that ended.
    pub tally: Tally,
    /// The sessions that did not end.
    pub sessions: Vec<Held>,
    /// The last sessions that did, oldest first.
    pub ended: Vec<Ended>,
}

/// What a payer was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeterRow {
    /// Who pays.
    pub payer: Address,
    /// The cells that it was charged for.
    pub cells: u64,
    /// What they cost.
    pub due: Wei,
    /// The highest rate of its circuits.
    pub rate: Rate,
}

impl Record {
    /// Where the record is kept.
    pub const fn key(&self) -> Key {
        match self {
            Self::Payee(row) => Key::Payee(row.payee),
            Self::Payer(row) => Key::Payer(row.payer),
            Self::Win(claim) => Key::Win(claim.session.payer, claim.session.nonce),
            Self::Meter(row) => Key::Meter(row.payer),
            Self::Debt(debt) => Key::Debt(debt.payee, debt.nonce),
        }
    }

    /// The bytes on disk: `version 1 | kind 1 | fields`; [`Full`] beyond the limits of a row.
    pub fn encode(&self) -> Result<Vec<u8>, Full> {
        let mut bytes = vec![0; 16 << 10];
        let mut w = Writer::new(&mut bytes);
        w.u8(VERSION)?;
        match self {
            Self::Payee(row) => row.write(&mut w)?,
            Self::Payer(row) => row.write(&mut w)?,
            Self::Win(claim) => {
                w.u8(3)?;
                w.put(&claim.encode().ok_or(Full)?)?;
            }
            Self::Meter(row) => {
                w.u8(4)?;
                w.put(row.payer.as_slice())?;
                w.u64(row.cells)?;
                write_wide(&mut w, row.due)?;
                w.u64(row.rate.0)?;
            }
            Self::Debt(debt) => debt.write(&mut w)?,
        }
        let written = w.written();
        bytes.truncate(written);
        Ok(bytes)
    }

    /// Reads the bytes on disk; what they say is believed.
    // pay.disk.1
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8("record version")? != VERSION {
            return Err(Malformed("record version"));
        }
        let record = match r.u8("record kind")? {
            1 => Self::Payee(PayeeRow::read(&mut r)?),
            2 => Self::Payer(PayerRow::read(&mut r)?),
            3 => Self::Win(Claim::decode(r.take(Claim::SIZE, "claim")?)?),
            4 => Self::Meter(MeterRow {
                payer: read_address(&mut r, "payer")?,
                cells: r.u64("cells")?,
                due: Wei::read_wide(&mut r, "due")?,
                rate: Rate(r.u64("rate")?),
            }),
            5 => Self::Debt(Debt::read(&mut r)?),
            _ => return Err(Malformed("record kind")),
        };
        r.finish("record")?;
        Ok(record)
    }
}

fn write_wide(w: &mut Writer<'_>, wei: Wei) -> Result<(), Full> {
    w.put(&wei.0.to_be_bytes())
}

/// Writes the number of `items`, and each of them.
fn write_all<T>(
    w: &mut Writer<'_>,
    items: &[T],
    limit: usize,
    write: impl Fn(&T, &mut Writer<'_>) -> Result<(), Full>,
) -> Result<(), Full> {
    if items.len() > limit {
        return Err(Full);
    }
    w.u16(u16::try_from(items.len()).map_err(|_| Full)?)?;
    items.iter().try_for_each(|item| write(item, w))
}

fn read_all<T>(
    r: &mut Reader<'_>,
    limit: usize,
    read: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = usize::from(r.u16("count")?);
    if count > limit {
        return Err(Malformed("count"));
    }
    (0..count).map(|_| read(r)).collect()
}

impl Tally {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        write_wide(w, self.value)?;
        w.u64(self.draws)?;
        w.u64(self.wins)?;
        write_wide(w, self.won)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            value: Wei::read_wide(r, "value")?,
            draws: r.u64("draws")?,
            wins: r.u64("wins")?,
            won: Wei::read_wide(r, "won")?,
        })
    }

    /// Counts `draws` draws of `value` each, the last of which won `face`, if any.
    pub(crate) fn add(&mut self, draws: u16, value: Wei, face: Option<Wei>) {
        self.value = self.value.saturating_add(value.saturating_mul(draws.into()));
        self.draws = self.draws.saturating_add(draws.into());
        if let Some(face) = face {
            self.wins = self.wins.saturating_add(1);
            self.won = self.won.saturating_add(face);
        }
    }
}

impl Opened {
    /// What the draws so far are worth.
    pub fn drawn(&self) -> Wei {
        self.value.saturating_mul(self.index.into())
    }

    fn write(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        self.session.write(w)?;
        w.put(&self.signature.0)?;
        w.u16(self.draws)?;
        self.value.write(w)?;
        w.u16(self.index)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let opened = Self {
            session: Session::read(r)?,
            signature: Signature(*r.array("signature")?),
            draws: r.u16("draws")?,
            value: Wei::read(r, "value")?,
            index: r.u16("draw")?,
        };
        if opened.draws > MAX_DRAWS || opened.index > opened.draws {
            return Err(Malformed("draws"));
        }
        Ok(opened)
    }
}

impl Debt {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        w.u8(5)?;
        w.put(self.payee.as_slice())?;
        w.u32(self.nonce)?;
        self.face.write(w)?;
        write_time(w, self.expiry)?;
        w.u8(self.denied.into())
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            payee: read_address(r, "payee")?,
            nonce: r.u32("nonce")?,
            face: Wei::read(r, "face")?,
            expiry: read_time(r, "expiry")?,
            denied: r.u8("denied")? != 0,
        })
    }
}

impl PayeeRow {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        w.u8(1)?;
        w.put(self.payee.as_slice())?;
        w.u32(self.next_nonce)?;
        self.tally.write(w)?;
        w.u64(self.quarantine)?;
        w.u8(self.lies)?;
        write_all(w, &self.sessions, MAX_SESSIONS, Opened::write)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            payee: read_address(r, "payee")?,
            next_nonce: r.u32("next nonce")?,
            tally: Tally::read(r)?,
            quarantine: r.u64("quarantine")?,
            lies: r.u8("lies")?,
            sessions: read_all(r, MAX_SESSIONS, Opened::read)?,
        })
    }
}

impl Held {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        self.opened.write(w)?;
        w.put(self.link.as_slice())?;
        w.put(&self.salt)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { opened: Opened::read(r)?, link: read_hash(r, "link")?, salt: *r.array("salt")? })
    }
}

impl Ended {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        w.u32(self.nonce)?;
        w.u8(self.reason.number())?;
        w.u16(self.index)?;
        w.put(self.link.as_slice())?;
        w.put(&self.salt)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            nonce: r.u32("nonce")?,
            reason: Reason::from_number(r.u8("reason")?)?,
            index: r.u16("draw")?,
            link: read_hash(r, "link")?,
            salt: *r.array("salt")?,
        })
    }
}

impl PayerRow {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        w.u8(2)?;
        w.put(self.payer.as_slice())?;
        w.u32(self.next_nonce)?;
        self.tally.write(w)?;
        write_all(w, &self.sessions, MAX_SESSIONS, Held::write)?;
        write_all(w, &self.ended, MAX_ENDED, Ended::write)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            payer: read_address(r, "payer")?,
            next_nonce: r.u32("next nonce")?,
            tally: Tally::read(r)?,
            sessions: read_all(r, MAX_SESSIONS, Held::read)?,
            ended: read_all(r, MAX_ENDED, Ended::read)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Opened {
        let session = Session {
            payer: Address::repeat_byte(1),
            payee: Address::repeat_byte(2),
            nonce: 3,
            anchor: B256::repeat_byte(4),
            rand_hash: B256::repeat_byte(5),
            face: Wei(6),
            win_prob: 7,
            expiry: 8,
        };
        Opened { session, signature: Signature([9; 64]), draws: 10, value: Wei(11), index: 10 }
    }

    fn records() -> [Record; 5] {
        let tally = Tally { value: Wei(u128::MAX), draws: 12, wins: 13, won: Wei(14) };
        let debt =
            Debt { payee: Address::repeat_byte(33), nonce: 15, face: Wei(16), expiry: 17, denied: true };
        let held = Held { opened: opened(), link: B256::repeat_byte(18), salt: [19; 16] };
        let ended = Ended {
            nonce: 20,
            reason: Reason::Changed,
            index: 21,
            link: B256::repeat_byte(22),
            salt: [23; 16],
        };
        let Opened { session, signature, .. } = opened();
        [
            Record::Payee(PayeeRow {
                payee: Address::repeat_byte(24),
                next_nonce: 25,
                tally,
                quarantine: 26,
                lies: 27,
                sessions: vec![opened(); MAX_SESSIONS],
            }),
            Record::Payer(PayerRow {
                payer: Address::repeat_byte(28),
                next_nonce: 29,
                tally,
                sessions: vec![held; MAX_SESSIONS],
                ended: vec![ended; MAX_ENDED],
            }),
            Record::Win(Claim { session, draw: 30, link: B256::ZERO, rand: B256::ZERO, signature }),
            Record::Meter(MeterRow { payer: Address::ZERO, cells: 31, due: Wei(32), rate: Rate(33) }),
            Record::Debt(debt),
        ]
    }

    // pay.disk.1
    #[test]
    fn records_come_back_and_no_other_length_does() {
        for record in records() {
            let bytes = record.encode().unwrap();
            assert_eq!(Record::decode(&bytes), Ok(record));
            assert!((0..bytes.len()).all(|n| Record::decode(&bytes[..n]).is_err()));
            assert!(Record::decode(&[&bytes[..], &[0]].concat()).is_err());
            assert!(Record::decode(&[&[2], &bytes[1..]].concat()).is_err());
        }
    }

    #[test]
    fn every_record_has_a_key_of_its_own() {
        let mut keys: Vec<_> = records().iter().map(|record| record.key().encode()).collect();
        keys.push(Key::Payer(Address::repeat_byte(24)).encode());
        keys.push(Key::Meter(Address::repeat_byte(1)).encode());
        keys.push(Key::Win(Address::repeat_byte(1), 4).encode());
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 8);
    }

    #[test]
    fn a_row_beyond_its_limits_is_not_written() {
        let row = PayeeRow { sessions: vec![opened(); MAX_SESSIONS + 1], ..PayeeRow::default() };
        assert_eq!(Record::Payee(row).encode(), Err(Full));
        let mut bad = opened();
        bad.index = 11;
        let bytes = Record::Payee(PayeeRow { sessions: vec![bad], ..PayeeRow::default() }).encode().unwrap();
        assert!(Record::decode(&bytes).is_err());
    }
}
