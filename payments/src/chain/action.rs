//! What an owner can do at the contract, and the gas that it takes.

/// A transaction of the contract's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Names a signer or an only payee.
    SetKeys,
    /// Adds to a balance.
    Deposit,
    /// Adds to a reserve, from outside or from the balance.
    AddReserve,
    /// Takes out of the balance.
    Withdraw,
    /// Begins to unlock the reserve; a relay is deregistered.
    StartUnlock,
    /// Locks the reserve again.
    CancelUnlock,
    /// Takes out the reserve.
    WithdrawReserve,
    /// Registers a relay.
    Register,
    /// Redeems one ticket.
    Redeem,
    /// Ether to another address.
    Transfer,
    /// Deploys the contract.
    Deploy,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::SetKeys,
        Self::Deposit,
        Self::AddReserve,
        Self::Withdraw,
        Self::StartUnlock,
        Self::CancelUnlock,
        Self::WithdrawReserve,
        Self::Register,
        Self::Redeem,
        Self::Transfer,
        Self::Deploy,
    ];

    /// The gas that it takes at most: with nothing there before, and with receivers that do nothing.
    pub const fn gas(self) -> u64 {
        match self {
            Self::SetKeys => 75_000,
            Self::Deposit | Self::AddReserve => 55_000,
            Self::Withdraw | Self::WithdrawReserve => 70_000,
            Self::StartUnlock => 90_000,
            Self::CancelUnlock => 40_000,
            Self::Register => 210_000,
            Self::Redeem => 100_000,
            Self::Transfer => 21_000,
            Self::Deploy => 3_000_000,
        }
    }
}
