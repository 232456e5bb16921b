//! How many cells a circuit may still pass, and how many it has passed.

use crate::error::DropReason;

/// The cells of one circuit; what they are worth is not known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// Cells passed away from the origin.
    pub forward: u64,
    /// Cells passed towards the origin.
    pub backward: u64,
    /// Cells that may still pass; nothing means no limit.
    left: Option<u64>,
}

impl Meter {
    /// A meter that lets every cell pass, for free networks.
    pub const fn unlimited() -> Self {
        Self { forward: 0, backward: 0, left: None }
    }

    /// A meter that lets `cells` cells pass.
    pub const fn limited(cells: u64) -> Self {
        Self { forward: 0, backward: 0, left: Some(cells) }
    }

    /// Lets `cells` more cells pass; changes nothing without a limit.
    pub fn grant(&mut self, cells: u64) {
        self.left = self.left.map(|left| left.saturating_add(cells));
    }

    /// Charges one authenticated forward cell.
    pub fn charge_forward(&mut self) -> Result<(), DropReason> {
        self.spend()?;
        self.forward += 1;
        Ok(())
    }

    /// Charges one backward cell.
    pub fn charge_backward(&mut self) -> Result<(), DropReason> {
        self.spend()?;
        self.backward += 1;
        Ok(())
    }

    const fn spend(&mut self) -> Result<(), DropReason> {
        match self.left {
            None => Ok(()),
            Some(0) => Err(DropReason::NoCredit),
            Some(left) => {
                self.left = Some(left - 1);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_and_can_be_raised() {
        let mut meter = Meter::limited(2);
        assert_eq!((meter.charge_forward(), meter.charge_backward()), (Ok(()), Ok(())));
        assert_eq!(meter.charge_forward(), Err(DropReason::NoCredit));
        assert_eq!((meter.forward, meter.backward), (1, 1));
        meter.grant(1);
        assert_eq!(meter.charge_forward(), Ok(()));
        assert_eq!(meter.charge_forward(), Err(DropReason::NoCredit));
        let mut free = Meter::unlimited();
        free.grant(1);
        assert!((0..1000).all(|_| free.charge_backward().is_ok()));
    }
}
