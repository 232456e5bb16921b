//! Money: amounts in wei, rates in wei per cell, and the tiers that classes are made of.

use core::fmt;

use wire::{Malformed, Reader, Writer, compact};

/// An amount in wei.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wei(pub u128);

impl Wei {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The most that the contract and the wire can name.
    pub const MAX: Self = Self((1 << 96) - 1);

    /// The sum, if it can be named.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, if it is not negative.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// So many times the amount, if it can be named.
    #[must_use]
    pub fn checked_mul(self, times: u64) -> Option<Self> {
        self.0.checked_mul(times.into()).map(Self)
    }

    /// The sum, or the largest number.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or nothing.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// So many times the amount, or the largest number.
    #[must_use]
    pub fn saturating_mul(self, times: u64) -> Self {
        Self(self.0.saturating_mul(times.into()))
    }

    /// The 12 bytes of the wire and the contract's `uint96`; `None` above [`Wei::MAX`].
    pub fn to_bytes(self) -> Option<[u8; 12]> {
        let (high, low) =
            self.0.to_be_bytes().split_first_chunk::<4>().map(|(high, low)| (*high, low.try_into()))?;
        (high == [0; 4]).then_some(low.ok()?)
    }

    /// The amount of 12 bytes.
    pub fn from_bytes(bytes: &[u8; 12]) -> Self {
        Self(bytes.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte)))
    }

    pub(crate) fn read(r: &mut Reader<'_>, field: &'static str) -> Result<Self, Malformed> {
        r.array(field).map(Self::from_bytes)
    }

    pub(crate) fn read_wide(r: &mut Reader<'_>, field: &'static str) -> Result<Self, Malformed> {
        r.array(field).map(|bytes| Self(u128::from_be_bytes(*bytes)))
    }

    pub(crate) fn write(self, w: &mut Writer<'_>) -> Result<(), wire::Full> {
        w.put(&self.to_bytes().ok_or(wire::Full)?)
    }
}

impl fmt::Display for Wei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// An amount for people: exact, in the unit that is easier to read.
pub fn ether_text(wei: Wei) -> String {
    const ETHER: u128 = 1_000_000_000_000_000_000;
    if wei.0 < 1_000_000_000 {
        return format!("{wei} wei");
    }
    let part = format!("{:018}", wei.0 % ETHER);
    let part = part.trim_end_matches('0');
    let point = if part.is_empty() { "" } else { "." };
    format!("{}{point}{part} ether", wei.0 / ETHER)
}

/// A price in wei per cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(pub u64);

impl Rate {
    /// No price.
    pub const FREE: Self = Self(0);

    /// What so many cells cost.
    #[must_use]
    pub fn times(self, cells: u64) -> Wei {
        Wei(u128::from(self.0) * u128::from(cells))
    }

    /// The form on the wire, `exponent 1 | mantissa 3`; `None` if the rate has more than 24 significant bits.
    // pay.rate.1
    pub fn encode(self) -> Option<u32> {
        compact::encode(self.0)
    }

    /// The rate of a form on the wire; each rate has one form only.
    // pay.rate.1
    pub fn decode(form: u32) -> Result<Self, Malformed> {
        compact::decode(form).map(Self)
    }

    /// The least rate with a form on the wire that is not below this one; the highest of all for what is above it.
    // pay.rate.2
    #[must_use]
    pub fn round_up(self) -> Self {
        Self(compact::round_up(self.0).unwrap_or(Self::MAX.0))
    }

    /// The highest rate with a form on the wire.
    pub const MAX: Self = Self(0xff_ffff << 40);
}

/// A step of the price scale: 0 to 96, the square root of 2^k wei per cell; or 255, free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tier(u8);

impl Tier {
    /// No price.
    pub const FREE: Self = Self(255);
    /// The highest price.
    pub const MAX: u8 = 96;

    /// The tier of a number.
    pub const fn new(number: u8) -> Result<Self, Malformed> {
        match number {
            0..=Self::MAX | 255 => Ok(Self(number)),
            _ => Err(Malformed("tier")),
        }
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The price: the integer square root of 2^k, cut down to 24 significant bits.
    // pay.rate.3
    pub const fn rate(self) -> Rate {
        if self.0 > Self::MAX {
            return Rate::FREE;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the root of 2^96 has 49 bits")]
        let root = (1u128 << self.0).isqrt() as u64;
        let cut = (u64::BITS - root.leading_zeros()).saturating_sub(24);
        Rate(root >> cut << cut)
    }

    /// The lowest tier at which a relay that asks `ask` is paid enough; `None` above the scale.
    pub fn covering(ask: Rate) -> Option<Self> {
        if ask == Rate::FREE {
            return Some(Self::FREE);
        }
        (0..=Self::MAX).map(Self).find(|tier| tier.rate() >= ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_checked_and_exact() {
        assert_eq!(Wei(u128::MAX).checked_add(Wei(1)), None);
        assert_eq!(Wei(1).checked_sub(Wei(2)), None);
        assert_eq!(Wei(u128::MAX).checked_mul(2), None);
        assert_eq!(Wei(1).saturating_sub(Wei(2)), Wei::ZERO);
        assert_eq!(Wei(79_228_162_514_264_337_593_543_950_335).to_string(), "79228162514264337593543950335");
        assert_eq!(Rate(u64::MAX).times(u64::MAX), Wei(u128::from(u64::MAX) * u128::from(u64::MAX)));
    }

    #[test]
    fn amounts_for_people_are_exact() {
        for (wei, text) in [
            (0, "0 wei"),
            (999_999_999, "999999999 wei"),
            (1_000_000_000, "0.000000001 ether"),
            (10_u128.pow(18), "1 ether"),
            (1_500_000_000_000_000_001, "1.500000000000000001 ether"),
        ] {
            assert_eq!(ether_text(Wei(wei)), text);
        }
    }

    #[test]
    fn twelve_bytes_hold_96_bits() {
        for wei in [Wei(0), Wei(1), Wei(0x0102_0304_0506_0708_090a_0b0c), Wei::MAX] {
            assert_eq!(Wei::from_bytes(&wei.to_bytes().unwrap()), wei);
        }
        assert_eq!(Wei(0x0102_0304_0506_0708_090a_0b0c).to_bytes().unwrap()[0], 1);
        assert_eq!(Wei(Wei::MAX.0 + 1).to_bytes(), None);
    }

    // pay.rate.1
    #[test]
    fn a_rate_has_one_form() {
        for rate in [Rate(0), Rate(1), Rate(0xff_ffff), Rate(0x100_0000), Rate::MAX] {
            assert_eq!(Rate::decode(rate.encode().unwrap()), Ok(rate));
        }
        assert_eq!(Rate(0x100_0001).encode(), None);
        assert!(Rate::decode(0x0100_0001).is_err() && Rate::decode(0x2980_0000).is_err());
    }

    // pay.rate.2
    #[test]
    fn rounding_goes_up_and_never_beyond_the_scale() {
        assert_eq!(Rate(0x100_0001).round_up(), Rate(0x100_0002));
        assert_eq!(Rate(u64::MAX).round_up(), Rate::MAX);
        assert!(Rate::MAX.encode().is_some());
    }

    // pay.rate.3
    #[test]
    fn tiers_rise_by_the_root_of_two_and_all_have_a_form() {
        let rates: Vec<_> = (0..=Tier::MAX).map(|k| Tier::new(k).unwrap().rate()).collect();
        assert_eq!(rates[..7], [1, 1, 2, 2, 4, 5, 8].map(Rate));
        assert_eq!(rates[96], Rate(1 << 48));
        assert_eq!(rates[95], Rate(199_032_864_766_430 >> 24 << 24));
        assert!(rates.iter().all(|rate| rate.encode().is_some()));
        assert!(rates.is_sorted());
        assert_eq!(Tier::FREE.rate(), Rate::FREE);
        assert!((97..255).all(|k| Tier::new(k).is_err()));
    }

    #[test]
    fn the_covering_tier_is_the_lowest_that_pays_enough() {
        assert_eq!(Tier::covering(Rate::FREE), Some(Tier::FREE));
        assert_eq!(Tier::covering(Rate(3)).unwrap().number(), 4);
        assert_eq!(Tier::covering(Rate(1 << 48)).unwrap().number(), 96);
        assert_eq!(Tier::covering(Rate((1 << 48) + 1)), None);
    }
}
