//! The cells of one circuit: how many have passed, and how many the next hop may still send back.

use crate::error::DropReason;

/// The cells of one circuit; what they are worth is not known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// Cells passed away from the origin.
    pub forward: u64,
    /// Cells passed towards the origin.
    pub backward: u64,
    /// Backward cells that may still pass.
    left: u64,
}

impl Meter {
    /// A meter that lets every cell pass, for free circuits.
    pub const fn unlimited() -> Self {
        Self { forward: 0, backward: 0, left: u64::MAX }
    }

    /// A meter that lets `cells` backward cells pass.
    pub const fn limited(cells: u64) -> Self {
        Self { forward: 0, backward: 0, left: cells }
    }

    /// Backward cells that may still pass.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Lets `cells` more backward cells pass.
    pub const fn grant(&mut self, cells: u64) {
        self.left = self.left.saturating_add(cells);
    }

    /// Takes up to `cells` that may still pass back; how many.
    pub fn take_back(&mut self, cells: u64) -> u64 {
        let taken = cells.min(self.left);
        self.left -= taken;
        taken
    }

    /// Counts one backward cell (pay.grant.2).
    pub const fn pass_backward(&mut self) -> Result<(), DropReason> {
        match self.left {
            0 => Err(DropReason::NoCredit),
            left => {
                self.left = left - 1;
                self.backward += 1;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // pay.grant.2
    #[test]
    fn a_limit_is_kept_and_can_be_moved() {
        let mut meter = Meter::limited(2);
        assert_eq!((meter.pass_backward(), meter.pass_backward()), (Ok(()), Ok(())));
        assert_eq!(meter.pass_backward(), Err(DropReason::NoCredit));
        assert_eq!((meter.forward, meter.backward), (0, 2));
        meter.grant(3);
        assert_eq!((meter.take_back(2), meter.left()), (2, 1));
        assert_eq!(meter.pass_backward(), Ok(()));
        assert_eq!((meter.pass_backward(), meter.take_back(1)), (Err(DropReason::NoCredit), 0));
        let mut free = Meter::unlimited();
        assert!((0..1000).all(|_| free.pass_backward().is_ok()));
    }
}
