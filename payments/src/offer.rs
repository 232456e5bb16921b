//! What a payee offers: the terms of one session, and the commitment to its secret number.

use alloy_primitives::{Address, B256, U256};
use wire::{Full, Malformed, Reader, Writer};

use crate::amount::Wei;
use crate::draw::MAX_DRAWS;
use crate::session::{Session, read_hash, read_time, write_time};

/// How long a session can be redeemed, in seconds, from the offer on.
pub const LIFE: u64 = 48 * 3600;
/// Nothing is drawn in the last seconds of a session's life, so many of them: they are for the redemption.
pub const REDEMPTION: u64 = 36 * 3600;
/// What two clocks may differ by, in seconds.
pub const SKEW: u64 = 300;
/// A win pays so many times what redeeming it costs.
pub const COSTS: u64 = 20;

/// The terms of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Names the session.
    pub nonce: u32,
    /// The hash of the payee's secret number.
    pub rand_hash: B256,
    /// What a win pays.
    pub face: Wei,
    /// The probability of a draw to win, in 2^-64.
    pub win_prob: u64,
    /// The draws of the session.
    pub draws: u16,
    /// The last second of redemption, unix time.
    pub expiry: u64,
    /// What a draw is worth when credited, whatever it wins.
    pub value: Wei,
}

/// Terms that no honest payee offers; the payee is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOffer {
    /// The probability is not value / face, or above one half.
    #[error("the odds of the offer are not value / face, or above one half")]
    Odds,
    /// No draws, or too many.
    #[error("an offer has 1 to {MAX_DRAWS} draws")]
    Draws,
    /// The session would live longer than 48 hours, or has no time left for draws.
    #[error("an offer lives 48 hours, and is of no use in its last 36")]
    Expiry,
}

impl Offer {
    /// The bytes of [`Offer::write`].
    pub const SIZE: usize = 75;

    /// floor(value * 2^64 / face), for a value of at most half the face.
    // pay.offer.1
    pub fn odds(value: Wei, face: Wei) -> Option<u64> {
        if value == Wei::ZERO || face > Wei::MAX || value > Wei(face.0 / 2) {
            return None;
        }
        let odds = (U256::from(value.0) << 64usize).checked_div(U256::from(face.0))?;
        u64::try_from(odds).ok()
    }

    /// Refuses terms that no honest payee offers.
    // pay.offer.1, pay.offer.2
    pub fn check(&self, unix: u64) -> Result<(), BadOffer> {
        if Self::odds(self.value, self.face) != Some(self.win_prob) {
            return Err(BadOffer::Odds);
        }
        if !(1..=MAX_DRAWS).contains(&self.draws) {
            return Err(BadOffer::Draws);
        }
        let latest = unix.saturating_add(LIFE + SKEW);
        if self.expiry > latest || !may_draw(self.expiry, unix) {
            return Err(BadOffer::Expiry);
        }
        Ok(())
    }

    /// The session of these terms over a chain that starts at `anchor`.
    pub const fn session(&self, payer: Address, payee: Address, anchor: B256) -> Session {
        let Self { nonce, rand_hash, face, win_prob, expiry, .. } = *self;
        Session { payer, payee, nonce, anchor, rand_hash, face, win_prob, expiry }
    }

    /// Writes the fields in order: 75 bytes.
    pub fn write(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        w.u32(self.nonce)?;
        w.put(self.rand_hash.as_slice())?;
        self.face.write(w)?;
        w.u64(self.win_prob)?;
        w.u16(self.draws)?;
        write_time(w, self.expiry)?;
        self.value.write(w)
    }

    /// Reads the fields.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            nonce: r.u32("nonce")?,
            rand_hash: read_hash(r, "rand hash")?,
            face: Wei::read(r, "face")?,
            win_prob: r.u64("win probability")?,
            draws: r.u16("draws")?,
            expiry: read_time(r, "expiry")?,
            value: Wei::read(r, "value")?,
        })
    }
}

/// Whether draws of a session that expires then may still be revealed.
// pay.draw.3
pub const fn may_draw(expiry: u64, unix: u64) -> bool {
    expiry >= unix.saturating_add(REDEMPTION)
}

/// How a payee sizes the face of its offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// About 20 times what a redemption costs: the largest 1, 2 or 5 times a power of ten that is not above 25 times.
    Costs(Wei),
    /// So many draws' worth, at least 2: for test networks.
    Draws(u32),
}

impl Face {
    /// What a redemption costs is not known yet: nothing is offered.
    pub const UNKNOWN: Self = Self::Costs(Wei::ZERO);

    /// The face of sessions with draws of about `value`.
    pub fn of(self, value: Wei) -> Wei {
        match self {
            Self::Costs(cost) => round_down(cost.saturating_mul(COSTS + COSTS / 4)),
            Self::Draws(draws) => value.saturating_mul(draws.max(2).into()).min(Wei::MAX),
        }
    }
}

/// The largest 1, 2 or 5 times a power of ten that is not above `wei`.
fn round_down(wei: Wei) -> Wei {
    let wei = wei.min(Wei::MAX).0;
    let power = wei.checked_ilog10().map_or(1, |digits| 10u128.saturating_pow(digits));
    let steps = [5, 2, 1].map(|step| power * step);
    Wei(steps.into_iter().find(|step| *step <= wei).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn offer() -> Offer {
        let (value, face) = (Wei(1000), Wei(64_000));
        let win_prob = Offer::odds(value, face).unwrap();
        Offer { nonce: 1, rand_hash: B256::ZERO, face, win_prob, draws: 64, expiry: NOW + LIFE, value }
    }

    // pay.offer.1
    #[test]
    fn odds_are_value_over_face() {
        assert_eq!(Offer::odds(Wei(1), Wei(2)), Some(1 << 63));
        assert_eq!(Offer::odds(Wei(1), Wei(3)), Some(0x5555_5555_5555_5555));
        assert_eq!(Offer::odds(Wei(Wei::MAX.0 / 2), Wei::MAX), Some((1 << 63) - 1));
        assert_eq!(Offer::odds(Wei(1), Wei::MAX), Some(0));
        assert_eq!(Offer::odds(Wei(2), Wei(3)), None);
        assert_eq!(Offer::odds(Wei(0), Wei(3)), None);
        assert_eq!(Offer::odds(Wei(1), Wei(1 << 96)), None);
        let offer = offer();
        for win_prob in [offer.win_prob - 1, offer.win_prob + 1] {
            assert_eq!(Offer { win_prob, ..offer }.check(NOW), Err(BadOffer::Odds));
        }
    }

    // pay.offer.2, pay.draw.3
    #[test]
    fn draws_and_life_are_limited() {
        let offer = offer();
        assert_eq!(offer.check(NOW), Ok(()));
        assert_eq!(offer.check(NOW + LIFE - REDEMPTION), Ok(()));
        assert_eq!(offer.check(NOW + LIFE - REDEMPTION + 1), Err(BadOffer::Expiry));
        assert_eq!(offer.check(NOW - SKEW), Ok(()));
        assert_eq!(offer.check(NOW - SKEW - 1), Err(BadOffer::Expiry));
        assert_eq!(offer.check(u64::MAX), Err(BadOffer::Expiry));
        for draws in [0, 65] {
            assert_eq!(Offer { draws, ..offer }.check(NOW), Err(BadOffer::Draws));
        }
    }

    #[test]
    fn faces_are_round_and_about_twenty_costs() {
        assert_eq!(Face::Costs(Wei(1000)).of(Wei(1)), Wei(20_000));
        assert_eq!(Face::Costs(Wei(799)).of(Wei(1)), Wei(10_000));
        assert_eq!(Face::Costs(Wei(2000)).of(Wei(1)), Wei(50_000));
        assert_eq!(Face::Costs(Wei(0)).of(Wei(1)), Wei(0));
        for cost in (1..10_000u128).step_by(7) {
            let face = Face::Costs(Wei(cost)).of(Wei(1)).0;
            assert!(face <= cost * 25 && face >= cost * 10, "{cost} {face}");
        }
        assert_eq!(Face::Draws(4).of(Wei(3)), Wei(12));
        assert_eq!(Face::Draws(0).of(Wei(3)), Wei(6));
    }

    #[test]
    fn the_fixed_form_comes_back() {
        let mut bytes = [0; Offer::SIZE];
        let mut w = Writer::new(&mut bytes);
        offer().write(&mut w).unwrap();
        assert_eq!(w.remaining(), 0);
        let mut r = Reader::new(&bytes);
        assert_eq!(Offer::read(&mut r), Ok(offer()));
        r.finish("offer").unwrap();
    }
}
