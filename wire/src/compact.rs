//! A number of up to 64 bits in 32: `exponent 1 | mantissa 3`, with a value of `mantissa << exponent`.

use crate::Malformed;

const MANTISSA_BITS: u32 = 24;
const MANTISSA: u32 = (1 << MANTISSA_BITS) - 1;
const MAX_EXPONENT: u32 = 40;

/// The compact form of `value`, if it has no more than 24 significant bits.
pub const fn encode(value: u64) -> Option<u32> {
    let bits = u64::BITS - value.leading_zeros();
    let exponent = bits.saturating_sub(MANTISSA_BITS);
    let mantissa = value >> exponent;
    if mantissa << exponent != value {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "24 bits")]
    let mantissa = mantissa as u32;
    Some(exponent << MANTISSA_BITS | mantissa)
}

/// The number of a compact form; each number has one form only.
pub const fn decode(compact: u32) -> Result<u64, Malformed> {
    let (exponent, mantissa) = (compact >> MANTISSA_BITS, compact & MANTISSA);
    if exponent > MAX_EXPONENT || (exponent > 0 && mantissa >> (MANTISSA_BITS - 1) == 0) {
        return Err(Malformed("compact number"));
    }
    Ok((mantissa as u64) << exponent)
}

/// The least number that has a compact form and is not below `value`; `None` above all of them.
pub const fn round_up(value: u64) -> Option<u64> {
    let bits = u64::BITS - value.leading_zeros();
    let exponent = bits.saturating_sub(MANTISSA_BITS);
    let low = (1u64 << exponent) - 1;
    match value.checked_add(low) {
        Some(sum) => Some(sum & !low),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_of_one_number_and_every_number_has_one_form() {
        for (value, form) in [
            (0, 0),
            (1, 1),
            (0xff_ffff, 0xff_ffff),
            (0x100_0000, 0x0180_0000),
            (0xff_ffff << 40, 0x28ff_ffff),
        ] {
            assert_eq!((encode(value), decode(form)), (Some(form), Ok(value)));
        }
        assert_eq!(encode(0x100_0001), None);
        for bad in [0x0100_0001, 0x0140_0000, 0x29ff_ffff, u32::MAX] {
            assert!(decode(bad).is_err(), "{bad:x}");
        }
        let mut form = 0u32;
        while let Some(next) = form.checked_add(99_991) {
            if let Ok(value) = decode(form) {
                assert_eq!(encode(value), Some(form));
            }
            form = next;
        }
    }

    #[test]
    fn rounding_up_reaches_the_next_form() {
        assert_eq!(round_up(0x100_0001), Some(0x100_0002));
        assert_eq!(round_up(0x1ff_ffff), Some(0x200_0000));
        assert_eq!((round_up(0), round_up(7), round_up(u64::MAX)), (Some(0), Some(7), None));
        let mut value = 1u64;
        while let Some(next) = value.checked_mul(3) {
            let up = round_up(value + 1).unwrap();
            assert!(up > value && encode(up).is_some() && up - value <= 1 + (value >> 23));
            value = next;
        }
    }
}
