//! Classes: what downstream hops are paid, the same for every path of a class.

use wire::Malformed;

use crate::amount::{Rate, Tier};

/// The prices of all hops behind the entry; on the wire `middle 1 | exit 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// What each middle keeps.
    pub middle: Tier,
    /// What the exit is paid.
    pub exit: Tier,
}

impl Class {
    /// Nobody behind the entry is paid.
    pub const FREE: Self = Self { middle: Tier::FREE, exit: Tier::FREE };

    /// The number on the wire.
    pub fn number(self) -> u16 {
        u16::from_be_bytes([self.middle.number(), self.exit.number()])
    }

    /// The class of a number on the wire.
    pub fn from_number(number: u16) -> Result<Self, Malformed> {
        let [middle, exit] = number.to_be_bytes();
        Ok(Self { middle: Tier::new(middle)?, exit: Tier::new(exit)? })
    }

    /// What each of `hops` hops is paid and pays on, per cell, entry first.
    ///
    /// A single hop is entry and exit: `entry_ask` is then its ask as an exit.
    // pay.class.1
    pub fn rates(self, entry_ask: Rate, hops: usize) -> Vec<(Rate, Rate)> {
        let mut rates = Vec::with_capacity(hops);
        let mut out = Rate::FREE;
        for hop in (0..hops).rev() {
            let keeps = match hop {
                0 => entry_ask,
                _ if rates.is_empty() => self.exit.rate(),
                _ => self.middle.rate(),
            };
            let rate_in = Rate(out.0.saturating_add(keeps.0)).round_up();
            rates.push((rate_in, out));
            out = rate_in;
        }
        rates.reverse();
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(middle: u8, exit: u8) -> Class {
        Class { middle: Tier::new(middle).unwrap(), exit: Tier::new(exit).unwrap() }
    }

    #[test]
    fn a_class_is_two_tiers_in_a_number() {
        for class in [class(0, 96), class(7, 255), Class::FREE] {
            assert_eq!(Class::from_number(class.number()), Ok(class));
        }
        assert_eq!(class(1, 2).number(), 0x0102);
        assert!(Class::from_number(97).is_err() && Class::from_number(97 << 8).is_err());
    }

    // pay.class.1
    #[test]
    fn each_hop_passes_on_what_it_does_not_keep() {
        let rates = |ask, hops| class(4, 8).rates(Rate(ask), hops);
        assert_eq!(rates(7, 0), []);
        assert_eq!(rates(7, 1), [(Rate(7), Rate(0))]);
        assert_eq!(rates(7, 2), [(Rate(23), Rate(16)), (Rate(16), Rate(0))]);
        assert_eq!(
            rates(7, 4),
            [(Rate(31), Rate(24)), (Rate(24), Rate(20)), (Rate(20), Rate(16)), (Rate(16), Rate(0))]
        );
        assert!(Class::FREE.rates(Rate::FREE, 5).iter().all(|pair| *pair == (Rate::FREE, Rate::FREE)));
    }

    // pay.class.1
    #[test]
    fn no_hop_is_paid_less_than_it_is_promised() {
        for (middle, exit, ask) in [(0, 96, 3), (95, 1, 12_345_678_901), (96, 96, u64::MAX), (63, 77, 0)] {
            let class = class(middle, exit);
            let rates = class.rates(Rate(ask), 5);
            assert!(rates.iter().all(|(rate_in, _)| rate_in.encode().is_some()));
            for (rate_in, out) in &rates[1..4] {
                assert!(rate_in.0 - out.0 >= class.middle.rate().0);
            }
            assert_eq!(rates[4], (class.exit.rate(), Rate::FREE));
            let entry = rates[0].0.0 - rates[0].1.0;
            assert!(entry >= ask || rates[0].0 == Rate::MAX);
        }
    }
}
