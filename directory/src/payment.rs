//! Where a relay is paid and what it asks, as its descriptor tells (docs/spec/04-directory.md section 1).

use alloy_primitives::Address;
use circuit::error::Malformed;
pub use payments::amount::Rate;
use wire::{Full, Reader, Writer};

use crate::chain::MAX_ID;

/// Where a relay is paid, and what it asks for a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The chain of the contract.
    pub chain_id: u64,
    /// The contract that holds the pots.
    pub contract: Address,
    /// The relay's account at the contract.
    pub owner: Address,
    /// What it asks for carrying a cell on, in wei.
    pub ask: Rate,
    /// What it asks for serving a cell as an exit, in wei; nothing if it is none.
    pub exit_ask: Rate,
}

impl Payment {
    /// The size of its encoding.
    pub(crate) const SIZE: usize = 8 + 20 + 20 + 4 + 4;

    /// Checks all that a payment part can violate by itself.
    pub(crate) fn check(&self, is_exit: bool) -> Result<(), Malformed> {
        // directory.payment.1
        if !(1..=MAX_ID).contains(&self.chain_id) {
            return Err(Malformed("chain id (1 to 2^63 - 1)"));
        }
        if self.contract.is_zero() || self.owner.is_zero() {
            return Err(Malformed("contract or owner (not the zero address)"));
        }
        if self.ask.encode().is_none() || self.exit_ask.encode().is_none() {
            return Err(Malformed("ask (at most 24 significant bits)"));
        }
        // directory.payment.2
        if !is_exit && self.exit_ask != Rate::FREE {
            return Err(Malformed("exit ask (of a relay that is no exit)"));
        }
        Ok(())
    }

    pub(crate) fn write(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        out.u64(self.chain_id)?;
        out.put(self.contract.as_slice())?;
        out.put(self.owner.as_slice())?;
        for ask in [self.ask, self.exit_ask] {
            out.u32(ask.encode().ok_or(Full)?)?;
        }
        Ok(())
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            chain_id: r.u64("chain id")?,
            contract: r.array("contract")?.into(),
            owner: r.array("owner")?.into(),
            ask: Rate::decode(r.u32("ask")?)?,
            exit_ask: Rate::decode(r.u32("exit ask")?)?,
        })
    }
}
